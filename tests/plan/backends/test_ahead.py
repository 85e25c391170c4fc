"""What is compiled beforehand is what the first use would compile: loops of this host, kernels for any CUDA device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritonparam.plan import kernels_ahead, loops_ahead
from tritonparam.plan.backends import missing

ROOT = Path(__file__).parents[3]
COMPILE = """
import sys
from tritonparam.plan import kernels_ahead
steps = dict(kernels_ahead(90))
for name in ("Normal(mean=0.0, std=1.0), bfloat16", "copy, float32 to bfloat16"):
    steps[name]()
import triton
from tritonparam.kernels.fill import _fill_kernel
print(len(steps), type(_fill_kernel).__name__)
"""


def test_all_loops_are_made_ready() -> None:
    pytest.importorskip("numba")
    from tritonparam.stream.loops import LOOPS, library

    steps = loops_ahead()
    assert [name for name, _ in steps] == list(LOOPS)
    for _, act in steps:
        act()
    assert set(library._loaded) == set(LOOPS)


def test_without_numba_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing, "is_installed", lambda name: False)
    with pytest.raises(ImportError, match=r"pip install numba"):
        loops_ahead()
    with pytest.raises(ImportError, match="need the package triton: pip install triton"):
        kernels_ahead(90)


def test_kernels_are_compiled_without_a_gpu_and_found_again(tmp_path: Path) -> None:
    """By the key that Triton itself makes of a launch: so the second process compiles nothing."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], check=False, capture_output=True, text=True, env=environment, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["38", "JITFunction"]
        found.append(sorted((path.name, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.cubin")))
    assert sorted(name for name, _ in found[0]) == ["_copy_kernel.cubin", "_fill_kernel.cubin"]
    assert found[0] == found[1]


def test_what_cannot_be_compiled_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="architecture must be a compute capability such as 80, 90 or 100, got 9"):
        kernels_ahead(9)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="kernels are not compiled where TRITON_INTERPRET is set: unset it"):
        kernels_ahead(90)
