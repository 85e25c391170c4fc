"""The copies that the bench times are those promised and right; a wrong mover is not timed."""

import importlib.util
import re
from itertools import groupby

import pytest

from bench import run
from bench.copies import DTYPES as COPY_DTYPES
from bench.copies import MAKES, MOVERS, OPS, OURS, PLAIN_COPY, CopyCase, CopyMemory, copy_cases
from tests.bench.samples import ENVIRONMENT, made_wrong


def copy_case(op, provider, dtype="float32", shapes=((64, 96), (3, 8), (40, 16))):
    return CopyCase(op, provider, "some tensors", shapes, dtype, 1)


def test_copy_cases_are_those_promised():
    """Every op in every pair of dtypes, by us, by torch, and beside a plain copy."""
    for device in ("cpu", "cuda"):
        for quick in (False, True):
            found = copy_cases(device, quick)
            assert len(set(found)) == len(found)
            for (op, dtype), job in groupby(found, lambda c: (c.op, c.dtype)):
                movers = {c.provider for c in job}
                assert movers >= {OURS[device], PLAIN_COPY}
                assert ("torch" in movers) == (
                    not op.startswith("load") or importlib.util.find_spec("safetensors") is not None
                )
                assert ("torch foreach" in movers) == (op not in MAKES)
                assert dtype in COPY_DTYPES
            assert {(c.op, c.dtype) for c in found} == {(op, dtype) for op in OPS for dtype in COPY_DTYPES}
    cast = next(c for c in copy_cases("cuda") if c.op == "copy" and c.dtype == "float32 to bfloat16")
    assert cast.moved == 124_439_808 * 6


@pytest.mark.parametrize("dtype", COPY_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_right_movers_are_timed(op, dtype):
    movers = [c.provider for c in copy_cases("cpu") if (c.op, c.dtype) == (op, dtype)]
    outcome = run.measure([copy_case(op, name, dtype) for name in movers], "cpu", ENVIRONMENT, rounds=2, budget=0.1)
    assert outcome.refused == []
    assert [row.provider for row in outcome.rows] == movers
    assert outcome.rows[-1].fraction_of_ceiling == pytest.approx(1)
    for row in outcome.rows:
        assert (row.op, row.dtype, row.elements) == (op, dtype, 64 * 96 + 3 * 8 + 40 * 16)
        assert row.bytes == row.elements * sum(each.itemsize for each in COPY_DTYPES[dtype])
        assert row.fraction_of_ceiling == pytest.approx(outcome.rows[-1].median_s / row.median_s)


def break_a_copy(memory):
    (memory.made or [memory.pairs[0][0]])[-1].view(-1)[-1] = 0.125


@pytest.mark.parametrize("provider", [OURS["cpu"], "torch", "torch foreach", PLAIN_COPY])
@pytest.mark.parametrize("op", ["copy", "clone", "load", "load as new"])
def test_wrong_mover_is_not_timed(op, provider):
    movers = [c.provider for c in copy_cases("cpu") if (c.op, c.dtype) == (op, "float32")]
    if provider not in movers:
        pytest.skip("there is no foreach for it")
    makers = MOVERS | {provider: made_wrong(MOVERS[provider], break_a_copy)}
    outcome = run.measure([copy_case(op, name) for name in movers], "cpu", ENVIRONMENT, makers, rounds=1, budget=0.0)
    assert [row.provider for row in outcome.rows] == [name for name in movers if name != provider]
    (refusal,) = outcome.refused
    assert refusal.startswith(f"{op}, float32, some tensors, 1 threads, {provider}: ")
    said = "the block was not copied" if provider == PLAIN_COPY else r"part \d, element \d+: got bits 0x3e000000, want"
    assert re.search(said, refusal)


@pytest.mark.parametrize(
    ("op", "shape"), {"row slices": (8, 96), "column slices": (64, 12), "transposes": (96, 8)}.items()
)
def test_slices_are_what_they_are_called(op, shape):
    memory = CopyMemory(copy_case(op, "torch", shapes=((64, 96),)), "cpu")
    assert [tuple(out.shape) for out, _ in memory.pairs] == [shape] * 8
    assert all(out.is_contiguous() for out, _ in memory.pairs)
    assert {source.is_contiguous() for _, source in memory.pairs} == {op == "row slices"}
