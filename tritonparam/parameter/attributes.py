"""What a Parameter is besides its values: its name, flags and place in a larger whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tritonparam._arguments import checked_bool, got, shown
from tritonparam.dtype import DType
from tritonparam.parameter.flags import TABLE, Checked, checked_group, checked_name
from tritonparam.plan import Box
from tritonparam.stream import get_generator
from tritonparam.tensor import Tensor, TorchTensor, lazy_cast, lazy_like

if TYPE_CHECKING:
    from typing_extensions import Self


class Attributes(Tensor):
    """The part of Parameter that neither reads nor writes values: what it is called, and what it is made of."""

    layerwise_parallel = Checked(checked_bool)
    parallel_optimizer = Checked(checked_bool)
    cache_enable = Checked(checked_bool)
    comm_fusion = Checked(checked_group)

    _name: str
    _requires_grad: bool
    _cache_shape: list[Any]
    _was_lazy: bool
    # Which box of a whole of which shape this is; None for the whole itself.
    _within: tuple[Box, tuple[int, ...]] | None

    def _start(self, source: Tensor | TorchTensor) -> None:
        """Hold `source`, a lazy tensor or storage that nobody else has, and be new in all that is not copied."""
        self.unique = self.sliced = self.is_init = False
        self._within = None
        self._was_lazy = isinstance(source, Tensor)
        if isinstance(source, Tensor):
            self._hold(source._torch, source._law, source._key)
        else:
            self._hold(source, None, 0)

    def _own(self, source: Tensor, dtype: DType) -> Tensor:
        """`source` as this parameter has it: a Parameter's values are its own, other lazy tensors' are drawn anew."""
        if isinstance(source, Attributes):
            return lazy_cast(source, dtype)
        return lazy_like(source, dtype, get_generator().key(self._name))

    def _dressed(self, storage: TorchTensor) -> TorchTensor:
        if not storage.is_floating_point():
            return storage
        # What is bare yet is no torch.nn.Parameter, and isinstance takes long to say so.
        grad = self._requires_grad if self._torch is storage else self.requires_grad
        return torch.nn.Parameter(storage, requires_grad=grad)

    @property
    def name(self) -> str:
        """The name; setting it follows the rules of the constructor and changes no value."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = checked_name(name)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are wanted; the same as that of `.torch` where that is a `torch.nn.Parameter`."""
        return self._torch.requires_grad if isinstance(self._torch, torch.nn.Parameter) else self._requires_grad

    @requires_grad.setter
    def requires_grad(self, requires_grad: bool) -> None:
        self._requires_grad = checked_bool("requires_grad", requires_grad)
        if isinstance(self._torch, torch.nn.Parameter):
            self._torch.requires_grad_(requires_grad)

    @property
    def cache_shape(self) -> list[Any]:
        """The shape of the cache of an embedding table; set as a tuple or list, kept as a list."""
        return self._cache_shape

    @cache_shape.setter
    def cache_shape(self, cache_shape: list[Any] | tuple[Any, ...]) -> None:
        given: object = cache_shape
        if not isinstance(given, (list, tuple)):
            raise TypeError(f"cache_shape must be a list or tuple, {got(given)}")
        self._cache_shape = list(given)

    @property
    def data(self) -> Self:
        """The parameter itself, as in MindSpore 1.3."""
        return self

    @property
    def inited_param(self) -> Self | None:
        """The parameter that holds the values of one that was lazy, which is itself; None before, and if made of data.

        Examples:
            >>> from tritonparam import Parameter
            >>> from tritonparam.initializer import initializer
            >>> w = Parameter(initializer("ones", [2]))
            >>> w.inited_param is None, w.init_data().inited_param is w
            (True, True)
        """
        return self if self._was_lazy and not self.has_init else None

    @property
    def box(self) -> Box:
        """Which box of the whole parameter this is: all of it, unless `init_data`, `slice` or `load` cut it.

        Examples:
            >>> from tritonparam import Parameter
            >>> from tritonparam.initializer import initializer
            >>> w = Parameter(initializer("ones", [4, 3])).init_data(([2], [0, -1], [2, 3], 0, True, ""), rank=1)
            >>> w.box, w.global_shape
            (Box(offsets=(2, 0), sizes=(2, 3)), (4, 3))
        """
        return self._placed()[0]

    @property
    def global_shape(self) -> tuple[int, ...]:
        """The shape of the whole parameter of which this is `box`."""
        return self._placed()[1]

    def _placed(self) -> tuple[Box, tuple[int, ...]]:
        if self._within is None or self._within[0].sizes != self.shape:  # its torch tensor was given other data
            return Box.whole(self.shape), self.shape
        return self._within

    def set_param_ps(self, init_in_server: bool = False) -> None:
        """Say that a parameter server is to hold and update this parameter. There is no way back but the attributes.

        Args:
            init_in_server: The server also makes the first values; for embedding tables only.

        Raises:
            TypeError: init_in_server is no bool.
            RuntimeError: It is True, and the name does not end in "embedding_table".

        Examples:
            >>> from tritonparam import Parameter
            >>> table = Parameter([1.0], name="net.embedding_table")
            >>> table.set_param_ps(init_in_server=True)
            >>> table.is_param_ps, table.init_in_server
            (True, True)
        """
        if checked_bool("init_in_server", init_in_server) and not self.name.endswith(TABLE):
            raise RuntimeError(
                f"init_in_server must be False unless the name ends in {TABLE!r}, got {shown(self.name)}"
            )
        self.is_param_ps, self.init_in_server = True, init_in_server

    def __repr__(self) -> str:
        return (
            f"Parameter (name={self.name}, shape={self.shape}, dtype={self.dtype}, requires_grad={self.requires_grad})"
        )

    __str__ = __repr__
