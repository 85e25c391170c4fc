"""Set-up of all tests: without a CUDA device, Triton interprets the kernels on the host."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
import unittest.mock
from collections.abc import Callable

import pytest
import torch

from tests.processes import Launcher
from tritonparam import Plan

if importlib.util.find_spec("hypothesis") is None:  # on a bare CUDA host: skip the tests that need it, not their files
    _skip = pytest.mark.skip(reason="needs hypothesis")
    sys.modules["hypothesis"] = types.ModuleType("hypothesis")
    sys.modules["hypothesis.strategies"] = unittest.mock.MagicMock()
    vars(sys.modules["hypothesis"]).update(
        __spec__=importlib.machinery.ModuleSpec("hypothesis", None),  # torch looks for it
        strategies=sys.modules["hypothesis.strategies"],
        given=lambda *_, **__: _skip,
        settings=lambda *_, **__: lambda function: function,
        example=lambda *_, **__: lambda function: function,
    )

HAS_CUDA = torch.cuda.is_available()
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: it is read then


def _interprets_exactly() -> bool:
    from triton.runtime import interpreter

    return hasattr(getattr(interpreter, "_interpreter", None), "fma_fp32")


HAS_TRITON = importlib.util.find_spec("triton") is not None
CAN_RUN_KERNELS = HAS_CUDA or (HAS_TRITON and _interprets_exactly())


@pytest.fixture
def device() -> torch.device:
    """Where the Triton kernels write: a CUDA device where there is one, else the host, interpreted."""
    return torch.device("cuda" if HAS_CUDA else "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none, and `kernels` where the interpreter rounds an fma twice."""
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_CUDA:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("kernels") and not CAN_RUN_KERNELS:
            item.add_marker(
                pytest.mark.skip(reason="needs a CUDA device, or triton 3.9 whose interpreter has an exact fma")
            )


class LaunchRecorder:
    """Stands in a kernel's place and launches nothing.

    Attributes:
        asked: The grid and the number of warps of each launch.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], int]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *_, num_warps, **__: self.asked.append((grid, num_warps))


@pytest.fixture
def launch_recorder() -> LaunchRecorder:
    """What to put in a kernel's place to see how it is launched."""
    return LaunchRecorder()


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Runs a function in real processes, which are a gloo group; see tests/processes.py."""
    return Launcher(tmp_path_factory.mktemp("processes"))


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that run during the test."""
    ran: list[Plan] = []
    run = Plan.run

    def counted(plan: Plan) -> None:
        ran.append(plan)
        run(plan)

    monkeypatch.setattr(Plan, "run", counted)
    return ran


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns the exit status, standard output and standard error."""
    from tritonparam import cli

    monkeypatch.delenv("COLUMNS", raising=False)  # which pytest-xdist sets

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tritonparam", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code
        assert isinstance(code, int)
        return (code, *capsys.readouterr())

    return run
