"""The scripts of docs/distributed.md run under torchrun, as the page says, and print what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("safetensors")
pytest.importorskip("torch.distributed.fsdp")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
SCRIPTS = sorted(path.name for path in (ROOT / "examples" / "distributed").glob("*.py") if path.stem != "tiny_gpt")
RUNS = {
    name: (processes, output)
    for processes, name, output in re.findall(
        r"^    torchrun --nproc-per-node (\d+) examples/distributed/(\w+\.py)\n\n```\n(.*?)```",
        PAGE,
        re.DOTALL | re.MULTILINE,
    )
}


def test_every_script_is_on_the_page_and_says_how_it_is_run():
    assert sorted(RUNS) == SCRIPTS
    for name, (processes, _) in RUNS.items():
        text = (ROOT / "examples" / "distributed" / name).read_text(encoding="utf-8")
        assert text.split('"""')[1].endswith(f": torchrun --nproc-per-node {processes} examples/distributed/{name}")


def test_what_the_page_shows_of_scripts_is_in_them():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "examples" / "distributed").glob("*.py")]
    shown = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown) >= len(RUNS)
    for each in shown:
        assert any(each in text for text in texts), each


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_prints_what_stands_on_the_page(name):
    processes, output = RUNS[name]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, ROOT / "examples" / "distributed" / name],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    got, want = ([re.split(r"(loss [\d.]+)", line) for line in text.splitlines()] for text in (done.stdout, output))
    assert len(got) == len(want), done.stdout
    for mine, shown in zip(got, want, strict=True):
        for part, printed in zip(mine, shown, strict=True):
            if part.startswith("loss "):
                assert float(part[5:]) == pytest.approx(float(printed[5:]), abs=1e-3)
            else:
                assert part == printed
