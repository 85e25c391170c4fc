"""A part of the models that `make models` counts: deferred and made real they are what torch makes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.count_models import AGREES, DIFFERS, FAILS, SKIPPED, UNWRITTEN, Outcome, left_on_meta, outcome
from tools.model_families import FAMILIES
from tritonparam.plan import is_deferred

SCRIPT = Path(__file__).parents[2] / "tools" / "count_models.py"


def check(family, every, folder):
    """Count in another process, as torch's list of modules comes with a module that changes the process it is in."""
    missing = FAMILIES[family].missing()
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    rows = folder / "rows.json"
    command = [sys.executable, str(SCRIPT), family, "--every", str(every), "--rows", str(rows)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    outcomes = [Outcome(*json.loads(line)) for line in rows.read_text().splitlines()]
    surprises = [each for each in outcomes if each.kind not in (AGREES, SKIPPED)]
    assert surprises == []
    assert sum(each.kind == AGREES for each in outcomes) > 0.8 * len(outcomes) > 0


@pytest.mark.parametrize(("family", "every"), [("idioms", 1), ("torch.nn", 10), ("transformers", 60)])
def test_a_selection_agrees(tmp_path, family, every):
    check(family, every, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TRITONPARAM_ALL"), reason="minutes long: set TRITONPARAM_ALL")
@pytest.mark.parametrize("family", ["transformers", "timm"])
def test_a_tenth_agrees(tmp_path, family):
    check(family, 10, tmp_path)


def kind(make):
    """What is said of a module with the parameter that `make` returns, given whether it is deferred."""

    def build():
        module = nn.Linear(40, 40)
        module.extra = make(is_deferred(module.weight), module)
        return module

    return outcome(lambda: iter([build]))[0]


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda deferred, _: nn.Parameter(torch.randn(4000)), AGREES),
        (lambda deferred, _: nn.Parameter(torch.randn(4000) * (1 + deferred)), DIFFERS),
        (lambda deferred, _: nn.Parameter(torch.randn(4000) + deferred), DIFFERS),
        (lambda deferred, _: nn.Parameter(torch.ones(4) + 1e-7 * deferred), DIFFERS),
        (lambda deferred, _: nn.Buffer(torch.zeros(4) * (-1 if deferred else 1)), DIFFERS),
        (lambda deferred, _: nn.Buffer(torch.zeros(4) * (-1j if deferred else 1j)), DIFFERS),
        (lambda deferred, _: nn.Parameter(torch.ones(4), requires_grad=deferred), DIFFERS),
        (lambda deferred, _: nn.Parameter(torch.ones(4, dtype=torch.float64 if deferred else None)), DIFFERS),
        (lambda deferred, _: nn.Buffer(torch.ones(4)) if deferred else nn.Parameter(torch.ones(4)), DIFFERS),
        (lambda deferred, _: nn.Buffer(torch.ones(4), persistent=deferred), DIFFERS),
        (lambda deferred, module: nn.Parameter(torch.zeros(40)) if deferred else module.bias, DIFFERS),
        (lambda deferred, _: nn.Linear(2, 2, bias=deferred), DIFFERS),
        (lambda deferred, _: nn.Parameter(torch.empty(4)), UNWRITTEN),
        (lambda deferred, _: nn.Parameter(torch.ones(4).view(5 if deferred else 4)), FAILS),
        (lambda deferred, _: nn.Parameter(torch.ones(4).view(5)), SKIPPED),
    ],
)
def test_what_differs_is_seen(make, want):
    assert kind(make) == want


def test_what_is_left_on_meta_is_seen():
    module = nn.Sequential(nn.Linear(2, 2, device="meta"))
    module[0].scale = {"a": [torch.ones(2, device="meta")]}
    module[0].real = torch.ones(2)
    assert left_on_meta(module) == ["0.scale"]
