"""An interrupt ends the command line with one line and 130, however early it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")

import tritonparam
from tests.cli.jobs import started
from tritonparam._interrupt import is_program

Run = Callable[..., tuple[int, str, str]]
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
    want = "interrupted; run the same command again to continue\n"
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


# Stops itself, by the signal in STOP, when it is about to write the file that STOP_AT names.
STOPPER = """
import os, signal
from tritonparam.cli.init import writing
before = writing.write_file
def write(path, parts, *rest):
    if path.name == os.environ["STOP_AT"]:
        os.kill(os.getpid(), int(os.environ["STOP"]))
    before(path, parts, *rest)
writing.write_file = write
import sys
from tritonparam.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_init_says_what_is_kept_and_the_same_command_goes_on(
    tmp_path: Path, number: int, status: int, word: str
) -> None:
    (tmp_path / "tritonparam").write_text(STOPPER)
    (tmp_path / "spec.py").write_text(
        "import torch\n\ndef build():\n    return torch.nn.Sequential(*(torch.nn.Linear(9, 9) for _ in range(3)))\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "STOP": str(int(number))}
    command = (str(tmp_path / "tritonparam"), "init", "spec:build", "--out", "out/m", "--max-shard-size", "400B")

    def ended(file: str) -> tuple[int, str, str]:
        return started(*command, cwd=tmp_path, env=environment | {"STOP_AT": file})

    again = "run the same command again to"
    first = ended("model-00001-of-00003.safetensors")
    assert first == (status, "", f"{word}: none of 3 files is finished; {again} start over\n")
    second = ended("model-00003-of-00003.safetensors")
    assert second == (status, "", f"{word}: 2 of 3 files are in out/m.partial; {again} continue\n")
    code, out, err = ended("no file")
    assert (code, err) == (0, "")
    assert out.startswith("out/m: 270 parameters")
    assert not (tmp_path / "out" / "m.partial").exists()
    assert ended("no file")[2].startswith("error: out/m exists")


def test_sigterm_during_an_import_is_one_line(script: Path) -> None:
    site = (script / "sitecustomize.py").read_text()
    try:
        (script / "sitecustomize.py").write_text(site.replace("SIGINT", "SIGTERM"))
        assert interrupted(script, "transformers", "-m", "tritonparam") == (
            143,
            "",
            "terminated; run the same command again to continue\n",
        )
    finally:
        (script / "sitecustomize.py").write_text(site)


def test_sigterm_ends_another_program_as_ever(script: Path) -> None:
    code = "import os, signal, tritonparam, tritonparam.cli\nos.kill(os.getpid(), signal.SIGTERM)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=300, check=False)
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        (("inspect", "m"), "nothing was written"),
        (("diff", "m", "m"), "nothing was written"),
        (("plan", "m/config.json", "--mesh", "tp=1"), "nothing was written"),
        (("warmup",), "what is compiled is kept, and the same command goes on from there"),
    ],
)
def test_a_command_that_reads_says_that_nothing_was_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], ending: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("inspect.stored_bytes", "diff.differences", "plan.plan_spec", "warmup.warm_up"):
        monkeypatch.setattr(f"tritonparam.cli.{name}", interrupt)
    assert run(*command) == (130, "", f"interrupted; {ending}\n")
