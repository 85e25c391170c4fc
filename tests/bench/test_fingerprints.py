"""The fingerprints that the bench times are those promised and right; wrong sums are not timed."""

import pytest
import torch

from bench import fingerprints, run
from bench.copies import OURS
from bench.fingerprints import OP, PLAIN_SUM, READERS, FingerprintCase, fingerprint_cases
from tests.bench.samples import ENVIRONMENT
from tritonparam.plan import sums


def case(reader, dtype="float32"):
    return FingerprintCase(OP, reader, "some tensors", ((64, 96), (3, 8), (40, 16)), dtype, 1)


def test_cases_are_those_promised():
    """One tensor with one thread and with all, and a model, in two dtypes, by us and beside torch's sum."""
    for device in ("cpu", "cuda"):
        for quick in (False, True):
            found = fingerprint_cases(device, quick)
            assert len(set(found)) == len(found)
            assert {each.provider for each in found} == {OURS[device], PLAIN_SUM}
            assert {each.dtype for each in found} == {"float32", "bfloat16"}
            assert len({each.workload for each in found}) == 2
    threads = {each.threads for each in fingerprint_cases("cpu")}
    assert threads == {1, torch.get_num_threads()}
    assert next(each for each in fingerprint_cases("cuda") if each.dtype == "bfloat16").moved == 2**30


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_sums_are_timed(dtype):
    pytest.importorskip("numba")
    cases = [case(OURS["cpu"], dtype), case(PLAIN_SUM, dtype)]
    outcome = run.measure(cases, "cpu", ENVIRONMENT, rounds=2, budget=0.1)
    assert outcome.refused == []
    assert [(row.provider, row.mode) for row in outcome.rows] == [(OURS["cpu"], "eager"), (PLAIN_SUM, "eager")]


def test_wrong_sums_are_not_timed(monkeypatch):
    def wrong(operations, backend):
        found = sums(operations, "numpy")
        if backend != "numpy":
            found[1] += 1
        return found

    monkeypatch.setattr(fingerprints, "sums", wrong)
    outcome = run.measure([case(OURS["cpu"])], "cpu", ENVIRONMENT, READERS, rounds=2, budget=0.1)
    assert outcome.rows == []
    assert "tensors [1]: got" in outcome.refused[0]
