"""Every operator that torch has samples of: deferred and made real it gives what it gives at once, bit for bit.

Compared are the results and, as some schemas hide what they write, the arguments afterwards; for random operators
shapes and dtypes, and that the seed decides.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.module import operator_samples
from tests.module.operator_samples import ONLY_EAGER_RAISES, ORDINARY, RAISES, WRONG, Row, table

PROCESSES = 2
SAMPLES = 3  # of a dtype; None for all, which takes a quarter of an hour

# What deferral cannot follow: operator, variant or "" for all, what happens, and why; docs/limits.md says it for users.
UNINITIALIZED = "what was never written has no values to agree on"
CHUNKS = "its accumulation goes by the device, which torch's own code sees as meta"
STATISTICS = "the meta device has the shapes and dtypes of the statistics on CUDA; no function of torch.nn returns them"
KNOWN = {
    ("empty", "function", RAISES): UNINITIALIZED,
    ("empty_like", "", RAISES): UNINITIALIZED,
    ("empty_permuted", "", RAISES): UNINITIALIZED,
    ("empty_strided", "", RAISES): UNINITIALIZED,
    ("new_empty", "", RAISES): UNINITIALIZED,
    ("new_empty_strided", "", RAISES): UNINITIALIZED,
    ("addbmm", "in place", RAISES): "eager torch resizes what it writes to, against its own rule",
    ("nn.functional.linear_cross_entropy.chunked", "", WRONG): CHUNKS,
    ("nn.functional.linear_cross_entropy.chunked_none", "", WRONG): CHUNKS,
    ("_batch_norm_with_update", "", WRONG): STATISTICS,
    ("_native_batch_norm_legit", "", WRONG): STATISTICS,
    ("_native_batch_norm_legit", "", RAISES): STATISTICS,
    ("native_batch_norm", "", WRONG): STATISTICS,
    ("native_batch_norm", "", RAISES): STATISTICS,
    ("native_layer_norm", "", WRONG): STATISTICS,
}


def rows_of(folder, parts):
    """What the script says of some parts of torch's list, one process each, as many at a time as there are cores."""
    rows, waiting, running = [], list(parts), []
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            k, n = waiting.pop(0)
            out = folder / f"{k}.json"
            command = [sys.executable, "-m", "tests.module.operator_samples", str(out), "--part", f"{k}/{n}"]
            if SAMPLES is not None:
                command += ["--samples", str(SAMPLES)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            running.append((process, out))
        process, out = running.pop(0)
        _, errors = process.communicate(timeout=1800)
        made = [Row(*json.loads(line)) for line in out.read_text().splitlines()] if out.exists() else []
        assert process.returncode == 0, f"status {process.returncode} after {made[-1:]}: {errors[-2000:]}"
        rows += made
    return rows


def is_known(row):
    reasons = {KNOWN.get((row.op, variant, row.kind)) for variant in ("", row.variant)} - {None}
    if reasons == {STATISTICS}:  # no value is excused
        return not row.detail.startswith("values of")
    return bool(reasons)


def surprises(rows):
    return [row for row in rows if row.kind not in ORDINARY and not is_known(row)]


def test_a_tenth_of_torchs_operators_agrees(tmp_path):
    pytest.importorskip("expecttest", reason="torch.testing needs it")
    rows = rows_of(tmp_path, [(4, 20), (14, 20)])
    assert len(rows) > 1000
    assert not surprises(rows), table(rows)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TRITONPARAM_ALL"), reason="minutes long: set TRITONPARAM_ALL")
def test_all_of_torchs_operators_agree(tmp_path):
    """Whatever is listed as known has to happen, too."""
    pytest.importorskip("expecttest", reason="torch.testing needs it")
    rows = rows_of(tmp_path, [(k, PROCESSES) for k in range(PROCESSES)])
    assert len(rows) > 15_000
    assert not surprises(rows), table(rows)
    seen = {(row.op, variant, row.kind) for row in rows for variant in ("", row.variant)}
    assert set(KNOWN) <= seen


def on_meta(tensor):
    """Whether a tensor is deferred, which the code of a constructor has no need to ask."""
    return tensor.untyped_storage().device.type == "meta"


@pytest.mark.filterwarnings("ignore:the constructor looks at random values")
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: x.t() + 1, operator_samples.AGREES),
        (lambda x: x + torch.rand(2, 3), operator_samples.AGREES),
        (lambda x: x + (torch.rand(2, 3) > 0.5).sum().item(), operator_samples.ONE_FOR_ALL),
        (lambda x: x + on_meta(x), operator_samples.WRONG),
        (lambda x: (x + 1, x.mul_(1 + on_meta(x)))[0], operator_samples.WRONG),
        (lambda x: x.clone() if on_meta(x) else x.t().contiguous().t(), operator_samples.OTHER_STRIDES),
        (lambda x: x.view(7), operator_samples.BOTH_RAISE),
        (lambda x: x.view(6 if on_meta(x) else 7), ONLY_EAGER_RAISES),
        (lambda x: torch.empty(3), RAISES),
    ],
)
def test_what_differs_is_seen(call, kind):
    """The comparison itself; the argument is compared too, where a call returns something else."""
    made = operator_samples.Call(call, (torch.arange(6.0).view(2, 3),), {})
    assert operator_samples.outcome(made)[0] == kind
