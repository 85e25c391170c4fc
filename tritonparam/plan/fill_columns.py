"""FillColumns: many fills of whole tensors as columns, since an object for each is what a large plan costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, overload

import numpy as np
import torch

from tritonparam._arguments import shown
from tritonparam.plan.fill import Fill, check_law
from tritonparam.plan.memory import check_memory
from tritonparam.stream import Law, Normal, TruncatedNormal, Uniform

if TYPE_CHECKING:
    import numpy.typing as npt

_EQUAL: frozenset[type[Law]] = frozenset((Uniform, Normal, TruncatedNormal))  # equal laws of these give equal values


class FillColumns(Sequence[Fill]):
    """Fills of whole tensors, each row-major in memory, and behind them any others.

    It is a sequence of `Fill`s, which are made when they are asked for. So a backend may read it as it reads a list, or
    take the columns as they are.

    Args:
        outs: Where the values of the whole ones go.
        laws: What they are drawn from.
        keys: uint64 of shape [n]: the keys.
        others: Fills of any kind.

    Attributes:
        outs: Those tensors.
        keys: As given.
        law_numbers: For each of `outs` the number of its law and dtype in `laws`.
        laws: The laws and dtypes that occur, each once.
        others: As given.

    Raises:
        TypeError: A law is none, or cannot fill the dtype of its tensor; keys is no array of uint64.
        ValueError: A tensor is not row-major or has no storage; the columns are of several lengths.

    Examples:
        >>> from tritonparam import Normal, Plan, derive_key
        >>> from tritonparam.stream import derive_keys
        >>> outs = [torch.empty(3), torch.empty(2, 2)]
        >>> fills = FillColumns(outs, [Normal(), Normal()], derive_keys(7, ["a", "b"], [0, 0]))
        >>> Plan(fills).run()
        >>> [fill.key == derive_key(7, name) for fill, name in zip(fills, "ab")]
        [True, True]
    """

    __slots__ = ("keys", "law_numbers", "laws", "others", "outs")

    def __init__(
        self,
        outs: Iterable[torch.Tensor],
        laws: Sequence[Law],
        keys: npt.NDArray[np.uint64],
        others: Iterable[Fill] = (),
    ) -> None:
        self.outs, self.others = tuple(outs), tuple(others)
        if not isinstance(keys, np.ndarray) or keys.dtype != np.uint64:
            raise TypeError(f"keys must be an array of uint64, got {shown(keys)}")
        if keys.shape != (len(self.outs),) or len(laws) != len(self.outs):
            raise ValueError(
                f"outs, laws and keys must be of one length, got {len(self.outs)}, {len(laws)} and shape {keys.shape}"
            )
        self.keys = keys
        for out in self.outs:
            check_memory("out", out)
            if not out.is_contiguous():
                raise ValueError(f"out must be row-major, got shape {tuple(out.shape)} with strides {out.stride()}")
        self.law_numbers, self.laws = numbered_laws(zip(laws, [out.dtype for out in self.outs], strict=True))
        for law, dtype in self.laws:
            check_law(law, dtype)

    def __len__(self) -> int:
        return len(self.outs) + len(self.others)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Fill: ...

    @overload
    def __getitem__(self, index: slice) -> list[Fill]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Fill | list[Fill]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        n = range(len(self))[index]
        if n >= len(self.outs):
            return self.others[n - len(self.outs)]
        return Fill(self.outs[n], self.laws[self.law_numbers[n]][0], int(self.keys[n]))

    def __iter__(self) -> Iterator[Fill]:
        for out, number, key in zip(self.outs, self.law_numbers, self.keys.tolist(), strict=True):
            yield Fill(out, self.laws[number][0], key)
        yield from self.others

    def device(self) -> torch.device | None:
        """The device of all of them; None where there are several, or no fills."""
        devices = {out.device for out in outs_of(self)}
        return devices.pop() if len(devices) == 1 else None


def numbered_laws(pairs: Iterable[tuple[Law, torch.dtype]]) -> tuple[list[int], list[tuple[Law, torch.dtype]]]:
    """The number of each pair of a law and a dtype in the list of all different ones, and that list.

    Laws are different where their values may differ by a bit: -0.0 is not 0.0, and 1 is not True.

    Examples:
        >>> from tritonparam import Constant
        >>> numbered_laws([(Constant(0.0), torch.int8), (Constant(-0.0), torch.int8), (Constant(0.0), torch.int8)])[0]
        [0, 1, 0]
    """
    by_identity: dict[tuple[int, torch.dtype], int] = {}
    by_value: dict[tuple[object, torch.dtype], int] = {}
    numbers: list[int] = []
    distinct: list[tuple[Law, torch.dtype]] = []
    held: list[Law] = []  # so that no two of them have one id
    for pair in pairs:
        law, dtype = pair
        known = by_identity.get((id(law), dtype))
        if known is None:
            # The numbers of random laws are floats, and their zeros have no sign.
            value = law if type(law) in _EQUAL else repr(law)
            known = by_value.setdefault((value, dtype), len(distinct))
            if known == len(distinct):
                distinct.append(pair)
            by_identity[id(law), dtype] = known
            held.append(law)
        numbers.append(known)
    return numbers, distinct


def outs_of(fills: Sequence[Fill]) -> list[torch.Tensor]:
    """Where each of `fills` goes."""
    if isinstance(fills, FillColumns):
        return [*fills.outs, *(fill.out for fill in fills.others)]
    return [fill.out for fill in fills]


class Columns(NamedTuple):
    """Fills of any kind as columns, for backends that lay out tables.

    Attributes:
        outs: Where the values go.
        addresses: Of their first elements.
        keys: uint64.
        starts: The global index of the first element, of a box that is one run of memory too; of others -1.
        counts: How many elements each has.
        law_numbers: Which of `laws` is each one's.
        laws: The laws and dtypes that occur, each once.
    """

    outs: list[torch.Tensor]
    addresses: list[int]
    keys: npt.NDArray[np.uint64]
    starts: list[int]
    counts: list[int]
    law_numbers: list[int]
    laws: list[tuple[Law, torch.dtype]]


def columns_of(fills: Sequence[Fill]) -> Columns:
    """The columns of fills; those that `FillColumns` has are taken as they are."""
    others = fills.others if isinstance(fills, FillColumns) else fills
    columns = Columns(
        [each.out for each in others],
        [each.out.data_ptr() for each in others],
        np.array([each.key for each in others], np.uint64),
        [-1 if each.run_start is None else each.run_start for each in others],
        [each.out.numel() for each in others],
        *numbered_laws((each.law, each.out.dtype) for each in others),
    )
    if not isinstance(fills, FillColumns):
        return columns
    first = len(fills.laws)
    return Columns(
        [*fills.outs, *columns.outs],
        [*(out.data_ptr() for out in fills.outs), *columns.addresses],
        np.concatenate([fills.keys, columns.keys]),
        [0] * len(fills.outs) + columns.starts,
        [*(out.numel() for out in fills.outs), *columns.counts],
        [*fills.law_numbers, *(first + number for number in columns.law_numbers)],
        [*fills.laws, *columns.laws],
    )
