"""`make test-gpu` needs no more than torch, triton, NumPy and pytest: what else is missing skips its tests by name."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def packages(*wanted: str) -> dict[str, Path]:
    """The files and folders that these packages, and what they depend on, put beside each other."""
    found: dict[str, Path] = {}
    pending, seen = list(wanted), set[str]()
    while pending:
        name = pending.pop()
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for other systems
            continue
        if package.name in seen:
            continue
        seen.add(package.name)
        for file in package.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__"):
                found[top] = Path(str(package.locate_file(top)))
        needed = [each for each in package.requires or () if "extra ==" not in each]
        pending += [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in needed]
    return found


def test_all_files_are_collected_and_deferred_models_are_built(tmp_path):
    for name, path in packages("torch", "triton", "numpy", "pytest").items():
        (tmp_path / name).symlink_to(path)
    assert not (tmp_path / "hypothesis").exists()
    command = [sys.executable, "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-ignore-import-errors"]
    done = subprocess.run(
        [*command, "-k", "eye_ or deferred_init"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
