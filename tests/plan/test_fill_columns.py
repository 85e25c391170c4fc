"""FillColumns is a list of fills in fewer objects: what it holds, what it refuses, and what a plan of it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonparam import Constant, Fill, Normal, Plan, TruncatedNormal, Uniform
from tritonparam.plan import FillColumns
from tritonparam.plan.fill_columns import numbered_laws

BACKENDS = pytest.mark.parametrize("backend", ["numpy", pytest.param("triton", marks=pytest.mark.kernels)])
LAWS = [
    *(Constant(0.0), Constant(-0.0), Constant(1), Constant(True), Constant(1.0), Constant(0.0)),
    *(
        Normal(),
        Normal(mean=0.0, std=1.0),
        Normal(mean=1.0, std=0.5),
        Uniform(),
        Uniform(low=-0.0, high=1.0),
        TruncatedNormal(),
    ),
    TruncatedNormal(mean=0.0, std=1.0, low=-8.0, high=8.0),
]


def place(backend: str) -> torch.device:
    """A device that the backend writes to."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def facts(fill: Fill) -> tuple:
    """All that a fill says, its law to the bit."""
    place = fill.out.data_ptr(), fill.out.shape, fill.out.stride(), fill.out.dtype
    return *place, repr(fill.law), fill.key, fill.shape, fill.offsets, fill.run_start


def test_it_is_a_sequence_of_fills() -> None:
    """Whole ones first, the others behind them; by number, from the end, in slices and one after the other."""
    outs, other = [torch.empty(2, 3), torch.empty(4)], Fill(torch.empty(3, 2).T, Uniform(), 9)
    fills = FillColumns(outs, [Normal(), Constant(-0.0)], keys(2**64 - 1, 0), [other])
    want = [Fill(outs[0], Normal(), 2**64 - 1), Fill(outs[1], Constant(-0.0)), other]
    assert len(fills) == 3
    assert [facts(each) for each in fills] == [facts(each) for each in want]
    assert [facts(fills[n]) for n in range(-3, 3)] == [facts(each) for each in want + want]
    assert [facts(each) for each in fills[1:]] == [facts(each) for each in want[1:]]
    assert fills[np.int64(2)] is other
    with pytest.raises(IndexError):
        fills[3]


@BACKENDS
@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(LAWS), st.sampled_from([(), (1,), (5, 3), (0, 2)])), max_size=8),
    others=st.integers(0, 2),
)
def test_a_plan_of_columns_writes_what_a_plan_of_fills_writes(backend: str, rows: list, others: int) -> None:
    device = place(backend)

    def fresh() -> list[torch.Tensor]:
        poison = [torch.full(shape, -7.0, device=device) for _, shape in rows]
        return [*poison, *(torch.full((4, 3), -7.0, device=device) for _ in range(others))]

    def behind(outs: list[torch.Tensor]) -> list[Fill]:
        return [Fill(out.T, Normal(), 5, (9, 4), (6, 0)) for out in outs[len(rows) :]]

    want, got = fresh(), fresh()
    whole = [Fill(out, law, n) for n, (out, (law, _)) in enumerate(zip(want, rows, strict=False))]
    Plan([*whole, *behind(want)], "numpy").run()
    laws = [law for law, _ in rows]
    Plan(FillColumns(got[: len(rows)], laws, keys(*range(len(rows))), behind(got)), backend).run()
    assert all(torch.equal(g.view(torch.int32), w.view(torch.int32)) for g, w in zip(got, want, strict=True))


def test_laws_that_differ_by_a_bit_have_numbers_of_their_own() -> None:
    """Equal objects and equal values share one; 1, 1.0 and True, 0.0 and -0.0, and dtypes do not."""
    pairs = [(law, torch.float32) for law in LAWS] + [(LAWS[0], torch.float64)]
    numbers, distinct = numbered_laws(pairs)
    assert numbers == [0, 1, 2, 3, 4, 0, 5, 5, 6, 7, 7, 8, 9, 10]
    assert [(repr(law), dtype) for law, dtype in distinct] == list(
        dict.fromkeys((repr(law), dtype) for law, dtype in pairs)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([torch.empty(2)], [Normal()], [1]), TypeError, "keys must be an array of uint64"),
        (([torch.empty(2)], [Normal()], np.array([1])), TypeError, "keys must be an array of uint64"),
        (([torch.empty(2)], [Normal()], keys(1, 2)), ValueError, "must be of one length, got 1, 1 and shape"),
        (([torch.empty(2)], [], keys(1)), ValueError, "must be of one length, got 1, 0"),
        (([torch.empty(2, 3).T], [Normal()], keys(1)), ValueError, "out must be row-major"),
        (([torch.empty(2, device="meta")], [Normal()], keys(1)), ValueError, "out must be a strided tensor"),
        ((["w"], [Normal()], keys(1)), TypeError, "out must be a torch.Tensor"),
        (([torch.empty(2)], ["normal"], keys(1)), TypeError, "law must be a Constant"),
        (([torch.empty(2)], [[]], keys(1)), TypeError, "law must be a Constant"),
        (([torch.empty(2, dtype=torch.int8)], [Normal()], keys(1)), TypeError, "out must be of a dtype in"),
        (([torch.empty(2, dtype=torch.int8)], [Constant(0.5)], keys(1)), ValueError, "value must be a whole number"),
    ],
)
def test_what_a_fill_refuses_columns_refuse(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FillColumns(*arguments)


def test_memory_that_is_gone_is_refused() -> None:
    out = torch.empty(8)
    out.untyped_storage().resize_(4)
    with pytest.raises(ValueError, match="out must have its memory"):
        FillColumns([out], [Normal()], keys(1))
