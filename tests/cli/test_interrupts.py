"""An interrupt ends the command line with one line and 130, however early it comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

import tritonparam
from tests.cli.jobs import started
from tritonparam._interrupt import is_program

ROOT = Path(tritonparam.__file__).parents[1]
# Interrupts itself at the N-th import that looks for a file: as early or as late as one likes, on any machine.
SITE = """
import os, signal, sys
wanted = os.environ.get("INTERRUPT_AT")
if wanted:
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == wanted:
                sys.meta_path.remove(self)
                os.kill(os.getpid(), signal.SIGINT)
    sys.meta_path.insert(0, Finder())
"""
MODULES = (
    *("torch", "torch.nn", "numpy", "tritonparam.plan", "tritonparam.parameter", "typer", "tritonparam.cli.commands"),
    *("tritonparam.checkpoint", "tritonparam.cli.init", "transformers"),
)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the console script, as an installer makes it, and what interrupts a process."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "sitecustomize.py").write_text(SITE)
    (folder / "tritonparam").write_text("import sys\nfrom tritonparam.cli import main\nsys.exit(main())\n")
    return folder


def interrupted(script: Path, module: str, *command: str) -> tuple[int, str, str]:
    environment = os.environ | {"INTERRUPT_AT": module, "PYTHONPATH": f"{script}{os.pathsep}{ROOT}"}
    config = str(ROOT / "examples" / "tiny-llama.json")
    done = started(*command, "init", config, "--out", str(script / "never"), cwd=script, env=environment)
    assert not (script / "never").exists()
    return done


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("way", ["script", "module"])
def test_an_interrupt_during_an_import_is_one_line(script: Path, module: str, way: str) -> None:
    command = ("-m", "tritonparam") if way == "module" else (str(script / "tritonparam"),)
    want = "error: interrupted; run the same command again to continue\n"
    assert interrupted(script, module, *command) == (130, "", want)


def test_in_another_program_an_interrupt_goes_on(script: Path) -> None:
    """A library must not end the program that imports it."""
    code = "try:\n    import tritonparam\nexcept KeyboardInterrupt:\n    print('seen')"
    environment = os.environ | {"INTERRUPT_AT": "torch.nn", "PYTHONPATH": f"{script}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert (done.stdout, done.stderr) == ("seen\n", "")


def test_which_processes_are_the_command_line() -> None:
    assert is_program(["python", "-m", "tritonparam", "init"], ["-m"])
    assert is_program(["/usr/bin/python3", "/usr/local/bin/tritonparam"], ["/usr/local/bin/tritonparam"])
    assert is_program(["tritonparam.exe"], ["C:/x/tritonparam.exe"])
    assert not is_program(["python", "-m", "pytest"], ["-m"])
    assert not is_program(["python", "tritonparam.py"], ["tritonparam.py"])
    assert not is_program(["python"], [])
