"""What the command line says of itself and of what it is given: help, versions, and errors in the library's voice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("typer")

import tritonparam

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = str(EXAMPLES / "tiny-llama.json")
ROOT = Path(tritonparam.__file__).parents[1]
COMMANDS = ("init", "inspect", "plan", "diff", "warmup")
Run = Callable[..., tuple[int, str, str]]


def test_alone_it_shows_its_help_and_no_error(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "Usage: tritonparam" in out
    assert all(command in out for command in COMMANDS)
    assert out == run("--help")[1]


def test_the_version_has_a_short_option(run: Run) -> None:
    assert run("-V") == run("--version") == (0, f"tritonparam {tritonparam.__version__}\n", "")


@pytest.mark.parametrize("command", [(), *((each,) for each in COMMANDS)])
def test_help_names_no_types_and_no_ranges_of_python(run: Run, command: tuple[str, ...]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert not [
        mark for mark in ("<bool>", "<str>", "<int>", "<path>", "<=x", "{", "18446744073709551615") if mark in out
    ]


def test_the_usage_line_has_what_a_command_needs(run: Run) -> None:
    lines = {command: run(command, "-h")[1].split("Usage: ")[1].splitlines()[0].strip() for command in COMMANDS}
    assert lines == {
        "init": "tritonparam init SPEC --out DIR [OPTIONS]",
        "inspect": "tritonparam inspect DIR [OPTIONS]",
        "plan": "tritonparam plan SPEC --mesh NAME=N,... [OPTIONS]",
        "diff": "tritonparam diff A B [OPTIONS]",
        "warmup": "tritonparam warmup [OPTIONS]",
    }


def test_the_shell_is_told_how_to_complete() -> None:
    """As a program: typer looks for the shell among its parents, so it is named here."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "_TRITONPARAM_COMPLETE": "source_bash"}
    script = "import sys\nsys.argv = ['tritonparam']\nfrom tritonparam.cli import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o default -F _tritonparam_completion tritonparam" in done.stdout
    environment |= {"_TRITONPARAM_COMPLETE": "complete_bash", "COMP_WORDS": "tritonparam in", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["init", "inspect"]


INIT = ("init", TINY, "--out", "m")
PLAN = ("plan", TINY, "--mesh", "tp=2")
SEED, DEADLINE = "--seed must be an int in [0, 2**64), got", "--deadline must be a number of seconds above 0, got"
SIZE = "--max-shard-size must be a positive size such as 5GB, 500MB, 2GiB or 4096, got"
RANK, ARCH = "--rank must be", "--arch must be a compute capability such as 80, 90 or 100, got"
HUB = "names of the hub are not fetched: download"
WRONG: tuple[tuple[tuple[str, ...], int, str], ...] = (
    ((*INIT, "--seed", "-1"), 2, f"{SEED} -1"),
    ((*INIT, "--seed", str(2**64)), 2, f"{SEED} 18446744073709551616"),
    ((*INIT, "--seed", "1.5"), 2, f"{SEED} 1.5"),
    ((*INIT, "--seed", "x"), 2, f"{SEED} 'x'"),
    ((*INIT, "--seed", ""), 2, f"{SEED} ''"),
    ((*INIT, "--seed", "9" * 5000), 2, f"{SEED} '999"),
    ((*INIT, "--deadline", "0"), 2, f"{DEADLINE} 0"),
    ((*INIT, "--deadline", "nan"), 2, f"{DEADLINE} 'nan'"),
    ((*INIT, "--deadline", "soon"), 2, f"{DEADLINE} 'soon'"),
    ((*INIT, "--dtype", "bf61"), 2, "got 'bf61'; did you mean 'bf16'?"),
    ((*INIT, "--dtype", "int8"), 2, "--dtype must be a floating-point dtype, got 'int8'"),
    ((*INIT, "--device", "tpu9"), 2, "--device must be a cpu or cuda device, got 'tpu9'"),
    ((*INIT, "--device", "cuda:77"), 1, "--device must be a device of this machine, got 'cuda:77'"),
    ((*INIT, "--backend", "abacus"), 2, "--backend must be one of ('triton', 'cpu', 'numpy'), got 'abacus'"),
    ((*INIT, "--max-shard-size", "5 parsecs"), 2, f"{SIZE} '5 parsecs'"),
    ((*INIT, "--max-shard-size", "0"), 2, f"{SIZE} '0'"),
    ((*INIT, "--max-shard-size", "-1"), 2, f"{SIZE} '-1'"),
    ((*INIT, "--max-shard-size", "3"), 2, "such as 3GB, where it is below 1000: 3 means 3 bytes"),
    ((*INIT, "--out", ""), 2, "--out must name a folder or a file, got ''"),
    ((*INIT, "--callable", "a:b"), 2, "--callable is for a record"),
    ((*INIT, "--json=3"), 2, "--json takes no value, got one"),
    (("init", TINY, "--out"), 2, "--out must have a value, got none"),
    (("init", TINY), 2, "--out is missing: tritonparam init SPEC --out DIR [OPTIONS]"),
    (("init",), 2, "SPEC is missing: tritonparam init SPEC --out DIR [OPTIONS]"),
    (("init", "", "--out", "m"), 2, "SPEC must name a folder or a file, got ''"),
    ((*INIT, "more"), 2, "tritonparam init takes no more than SPEC --out DIR [OPTIONS], got also more"),
    ((*INIT, "--sede", "1"), 2, "tritonparam init has no option --sede; did you mean --seed?"),
    ((*INIT, "--xyzzy"), 2, "tritonparam init has no option --xyzzy; tritonparam init --help lists them"),
    (("init", "gpt2-medium", "--out", "m"), 2, f"{HUB} its config.json and give its path"),
    (("init", "meta-llama/Llama-3.2-1B", "--out", "m"), 2, f"{HUB} its config.json and give its path"),
    (("plan", "gpt2", "--mesh", "tp=2"), 2, f"{HUB} its config.json and give its path"),
    (("inspect", "gpt2"), 2, f"gpt2 is not a folder; {HUB} the checkpoint and give its path"),
    (("diff", "meta-llama/Llama-3.2-1B", "."), 2, f"does not exist; {HUB} the checkpoint and give its path"),
    (("inspect", ""), 2, "DIR must name a folder or a file, got ''"),
    (("inspect", ".", "--plot", "p.txt"), 2, "--plot must end in one of"),
    (("inspect",), 2, "DIR is missing: tritonparam inspect DIR [OPTIONS]"),
    (("diff", "."), 2, "B is missing: tritonparam diff A B [OPTIONS]"),
    (("plan", TINY), 2, "--mesh is missing: tritonparam plan SPEC --mesh NAME=N,... [OPTIONS]"),
    (("plan", TINY, "--mesh", "a"), 2, "error: --mesh must be sizes by name, such as 'dp_shard=128,tp=8', got 'a'"),
    (("plan", TINY, "--mesh", "tp=0"), 2, "error: --mesh 'tp=0': tp must be from 1 to 1,048,576, got 0"),
    ((*PLAN, "--rank", "x"), 2, f"{RANK} a rank of the mesh: an int from 0 on, got 'x'"),
    ((*PLAN, "--rank", "-1"), 2, f"{RANK} a rank of the mesh: an int from 0 on, got -1"),
    ((*PLAN, "--rank", "2"), 2, f"{RANK} an int in [0, 2), the ranks of --mesh, got 2"),
    ((*PLAN, "--bandwidth", "inf"), 2, "--bandwidth must be a positive number of GB/s, got 'inf'"),
    ((*PLAN, "--bandwidth", "-3"), 2, "--bandwidth must be a positive number of GB/s, got -3"),
    (("warmup", "--arch", "x"), 2, f"{ARCH} 'x'"),
    (("warmup", "--arch", "9"), 2, f"{ARCH} 9"),
    (("warmup", "90"), 2, "warmup takes compute capabilities after --arch only, got 90 without it"),
    (("innit",), 2, "COMMAND must be one of init, inspect, plan, diff, warmup, got 'innit'; did you mean 'init'?"),
    (("explode",), 2, "COMMAND must be one of init, inspect, plan, diff, warmup, got 'explode'\n"),
    (("--nonsense",), 2, "tritonparam has no option --nonsense; tritonparam --help lists them"),
)


@pytest.mark.parametrize(("arguments", "status", "message"), WRONG)
def test_what_is_wrong_is_said_with_the_value_and_what_is_allowed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (status, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_spec_and_out_is_told_together(run: Run, tmp_path: Path) -> None:
    """And before the model is built: a wrong option costs no wait."""
    (tmp_path / "file").write_text("")
    code, _, err = run("init", "nowhere.json", "--out", tmp_path / "file", "--dtype", "int8")
    assert code == 2
    first, second, third = err.removeprefix("error: ").split("; and ")
    assert first == "SPEC not found: 'nowhere.json' is neither a file, a folder nor package.module:callable"
    assert second == f"{tmp_path}/file exists and is not a folder"
    assert third.startswith("--dtype must be")


def test_an_error_of_the_system_names_the_folder_that_was_asked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    code, _, err = run("init", TINY, "--out", tmp_path / "link" / "m", "--device", "cpu")
    assert code == 1
    assert err.startswith(f"error: {tmp_path}/link/m cannot be written: ")
    assert err.endswith("(/proc/m.partial)\n")


def test_quiet_init_prints_nothing(run: Run, tmp_path: Path) -> None:
    assert run("init", TINY, "--out", tmp_path / "m", "--device", "cpu", "--quiet") == (0, "", "")
    assert (tmp_path / "m" / "tritonparam.json").exists()


def test_a_home_folder_is_one_in_every_path(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `~` in quotes, and in --out=~/x."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.json").write_text(Path(TINY).read_text())
    (tmp_path / "tp.json").write_text('{"model.layers.*.mlp.up_proj": "colwise"}')
    assert run("init", "~/c.json", "--out", "~/a", "--device", "cpu")[0] == 0
    assert run("init", "~/a/tritonparam.json", "--out=~/b", "--device", "cpu")[0] == 0
    assert run("diff", "~/a", "~/b")[:2] == (0, "no difference\n")
    assert run("inspect", "~/a", "--plot", "~/p.png")[0] == 0
    assert run("plan", "~/c.json", "--mesh", "tp=1", "--tp-plan", "~/tp.json", "--plot", "~/q.png")[0] == 0
    assert {"a", "b", "p.png", "q.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.bin"])
def test_init_makes_a_folder_and_no_file(run: Callable[..., tuple[int, str, str]], tmp_path: Path, name: str) -> None:
    code, _, err = run("init", "config.json", "--out", tmp_path / name)
    assert code == 2
    assert f"--out must name a folder, got '{tmp_path / name}': its files are called model*.safetensors" in err
    assert not list(tmp_path.iterdir())


def test_quiet_says_so_where_there_is_nothing_to_compare_with(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    tritonparam.save({"w": torch.ones(2)}, tmp_path / "m")
    code, out, err = run("inspect", tmp_path / "m", "-q")
    assert (code, out) == (2, "")
    assert "has no tritonparam.json and no config.json: name its model by --spec" in err
