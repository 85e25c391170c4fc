"""Every operator that torch has samples of: deferred and made real it gives what it gives at once, bit for bit.

Compared are the results and, as some schemas hide what they write, the arguments afterwards; for random operators
shapes and dtypes, and that the seed decides.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.module import operator_samples
from tests.module.operator_samples import ONLY_EAGER_RAISES, ORDINARY, RAISES, WRONG, Row, table
from tritonparam.plan import is_deferred

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
    """What the script says of some parts of torch's list: one process each, PROCESSES at a time."""

    def rows_of_part(part):
        k, n = part
        out = folder / f"{k}.json"
        command = [sys.executable, "-m", "tests.module.operator_samples", str(out), "--part", f"{k}/{n}"]
        command += [] if SAMPLES is None else ["--samples", str(SAMPLES)]
        ran = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1800, check=False
        )
        made = [Row(*json.loads(line)) for line in out.read_text().splitlines()] if out.exists() else []
        assert ran.returncode == 0, f"status {ran.returncode} after {made[-1:]}: {ran.stderr[-2000:]}"
        return made

    with ThreadPoolExecutor(PROCESSES) as pool:
        return [row for rows in pool.map(rows_of_part, parts) for row in rows]


def is_known(row):
    reason = KNOWN.get((row.op, "", row.kind)) or KNOWN.get((row.op, row.variant, row.kind))
    if reason is STATISTICS:  # no value is excused
        return not row.detail.startswith("values of")
    return reason is not None


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


@pytest.mark.filterwarnings("ignore:the constructor looks at random values")
@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: x.t() + 1, operator_samples.AGREES),
        (lambda x: x + torch.rand(2, 3), operator_samples.AGREES),
        (lambda x: x + (torch.rand(2, 3) > 0.5).sum().item(), operator_samples.ONE_FOR_ALL),
        (lambda x: x + is_deferred(x), operator_samples.WRONG),
        (lambda x: (x + 1, x.mul_(1 + is_deferred(x)))[0], operator_samples.WRONG),
        (lambda x: x.clone() if is_deferred(x) else x.t().contiguous().t(), operator_samples.OTHER_STRIDES),
        (lambda x: x.view(7), operator_samples.BOTH_RAISE),
        (lambda x: x.view(6 if is_deferred(x) else 7), ONLY_EAGER_RAISES),
        (lambda x: torch.empty(3), RAISES),
    ],
)
def test_what_differs_is_seen(call, kind):
    """The comparison itself; the argument is compared too, where a call returns something else."""
    made = operator_samples.Call(call, (torch.arange(6.0).view(2, 3),), {})
    assert operator_samples.outcome(made)[0] == kind
