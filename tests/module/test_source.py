"""Which elements of which keyed tensor values are: boxes of boxes, permuted and reshaped, have the whole's bits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tritonparam import Box, Fill, Normal, Plan, declarations, deferred_init, derive_key, materialize
from tritonparam.module import Elements, Source
from tritonparam.plan import Placement

WHOLE = (4, 6, 5)


def values(shape: tuple[int, ...], key: int) -> torch.Tensor:
    out = torch.empty(shape)
    Plan([Fill(out, Normal(), key)]).run()
    return out


def written(source: Source, shape: tuple[int, ...], seed: int = 3) -> torch.Tensor:
    out = torch.full(shape, float("nan"))
    Plan([source.fill(out, Normal(), seed)]).run()
    return out


def test_a_source_writes_the_elements_that_it_names():
    """Dimensions in another order, and one of the keyed tensor that the values do not have."""
    source = Source("w", 2, WHOLE, Elements((1, 0, 3), (1, 0, None)))
    want = values(WHOLE, derive_key(3, "w", 2))[1:4, 0:6, 3].T
    assert torch.equal(written(source, (6, 3)), want)


@pytest.mark.parametrize(
    ("elements", "shape", "want"),
    [
        (Elements((0, 0), (0, 1)), (4, 4), Elements((0, 0), (0, 1))),
        (Elements((0, 0), (1, 0)), (4, 4), Elements((0, 0), (0, 1))),
        (Elements((1, 0), (0, 1)), (6, 4), Elements((2, 0), (0, 1))),
        (Elements((0, 0), (0, None)), (4, 1), Elements((0, 0), (0, None))),
    ],
)
def test_elements_of_elements_are_counted_from_the_first_ones(elements, shape, want):
    """Also where both are one object: all of the whole's all are all, but its transpose's transpose is itself."""
    source = Source("w", 1, shape, elements, seed=7)
    assert source.of(elements) == Source("w", 1, shape, want, seed=7)
    assert source.of(elements, (2, 8)) == Source("w", 1, shape, want, (2, 8), seed=7)


@pytest.mark.parametrize("box", [Box((0, 0), (6, 3)), Box((2, 1), (3, 2)), Box((5, 0), (1, 1)), Box((1, 2), (0, 1))])
def test_a_cut_source_writes_the_box(box):
    source = Source("w", 2, WHOLE, Elements((1, 0, 3), (1, 0, None)))
    assert torch.equal(written(source.cut(box), box.sizes), box.of(written(source, (6, 3))))


def test_a_source_of_reshaped_values_writes_all_of_them_and_is_not_cut():
    source = Source("w", 0, WHOLE, Elements.all_of(WHOLE)).of(Elements.all_of(WHOLE), reshape=WHOLE)
    assert torch.equal(written(source, (24, 5)), values(WHOLE, derive_key(3, "w")).view(24, 5))
    with pytest.raises(ValueError, match="box must be None where values are reshaped"):
        source.cut(Box((0, 0), (1, 5)))


def test_the_seed_of_a_source_goes_before_that_of_materialize():
    source = Source("w", 0, (4,), Elements.all_of((4,)), seed=9)
    assert source.key(3) == derive_key(9, "w") != Source("w", 0).key(3) == derive_key(3, "w")


def test_elements_of_elements_and_views_are_what_indexing_gives():
    """`of`, `part` and `inside` against the indices that torch has."""
    index = torch.arange(4 * 6 * 5).view(WHOLE)

    def at(elements: Elements, shape: tuple[int, ...], holder: tuple[int, ...]) -> torch.Tensor:
        """The flat index in the tensor of `shape` of each element of the holder."""
        got = torch.empty(holder, dtype=torch.int64)
        for place in itertools.product(*map(range, holder)):
            where = [offset if d is None else offset + place[d] for offset, d in zip(*vars_of(elements), strict=True)]
            flat = 0
            for extent, coordinate in zip(shape, where, strict=True):
                assert 0 <= coordinate < extent
                flat = flat * extent + coordinate
            got[place] = flat
        return got

    def vars_of(elements: Elements) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
        return elements.offsets, elements.dims

    outer = Elements((0, 1, 2), (1, 0, None))  # a holder of shape (5, 4): [j, i] is [i, 1 + j, 2]
    assert torch.equal(at(outer, WHOLE, (5, 4)), index[:, 1:6, 2].T)
    inner = Elements((2, 1), (0, None))  # of the holder: [2 + k, 1]
    assert torch.equal(at(outer.of(inner), WHOLE, (3,)), index[:, 1:6, 2].T[2:5, 1])
    # A view at box (1, 0) of sizes (3, 4) of the holder, its dimensions swapped; of it the box (1, 1) of sizes (2, 2).
    spot = Placement(Box((1, 0), (3, 4)), (1, 0))
    assert torch.equal(at(outer.part(spot, Box((1, 1), (2, 2))), WHOLE, (2, 2)), index[:, 1:6, 2].T[1:4].T[1:3, 1:3])
    # A larger holder, of shape (8, 9), in which this one lies swapped at (2, 3); of it the box (3, 4) of sizes (2, 3).
    spot = Placement(Box((2, 3), (4, 5)), (1, 0))
    assert torch.equal(at(outer.inside(spot, Box((3, 4), (2, 3))), WHOLE, (2, 3)), index[:, 1:6, 2].T.T[1:3, 1:4])


class Odd(nn.Module):
    """Tensors of several boxes, of draws that are larger, transposed, copied and laid beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=3)
        self.attention = nn.MultiheadAttention(4, 2)
        draw = torch.randn(6, 8)
        self.corner = nn.Parameter(draw[1:5, 2:7].T)
        self.joined = nn.Parameter(torch.cat([torch.zeros(2, 3), torch.rand(4, 3) * 2 - 1]))
        self.split = nn.Parameter(torch.empty(5, 4))
        with torch.no_grad():
            self.split[:, :2].normal_(0, 0.5)
            self.split[:, 2:].fill_(0.25)


def test_fills_of_a_box_write_what_the_whole_has_there():
    """Every declaration with laws, cut in every way into a 2 x 2 grid, or pieces of one dimension."""
    with deferred_init():
        module = Odd()
    declared = {each.name: each for each in declarations(module)}
    assert sum(len(each.laws or ()) for each in declared.values()) > len(declared)
    materialize(module, seed=5)
    for name, each in declared.items():
        if each.laws is None:
            continue
        whole = module.get_parameter(name).detach()
        cuts = [[(0, n)] + ([(0, n // 2), (n // 2, n - n // 2)] if n > 1 else []) for n in whole.shape]
        for cut in itertools.product(*cuts):
            box = Box(tuple(start for start, _ in cut), tuple(size for _, size in cut))
            out = torch.full(box.sizes, float("nan"))
            Plan(each.fills(out, 5, box)).run()
            assert torch.equal(out, box.of(whole)), f"{name} {box}"


def test_a_bad_box_is_refused():
    with deferred_init():
        module = nn.Linear(3, 2)
    (weight, _) = declarations(module)
    with pytest.raises(ValueError, match=r"box must lie in a tensor of shape \(2, 3\)"):
        weight.fills(torch.empty(2, 2), 0, Box((0, 2), (2, 2)))
    with pytest.raises(ValueError, match=r"out must have the shape \(1, 3\) of weight, got \(2, 3\)"):
        weight.fills(torch.empty(2, 3), 0, Box((1, 0), (1, 3)))
