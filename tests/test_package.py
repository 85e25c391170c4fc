"""The wheel and the sdist hold what they should, and the wheel works outside the checkout."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch

import tritonparam
from tritonparam import Fill, Normal, Plan, derive_key

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tritonparam"
NOT_SOURCE = (".*", "__pycache__", "*.egg-info", "build", "dist", "demo")
USE = """
import hashlib, importlib.metadata, importlib.util, torch, tritonparam
from tritonparam import Fill, Normal, Plan, derive_key
out = torch.empty(1000)
Plan([Fill(out, Normal(), derive_key(3, "w"))], backend="numpy").run()
print(tritonparam.__file__)
print(importlib.metadata.version("tritonparam"))
print(importlib.util.find_spec("tritonparam.kernels.fill").origin)
print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""


def modules() -> set[str]:
    """The package's files as the checkout has them, through the link to kernels/."""
    walked = os.walk(PACKAGE, followlinks=True)
    return {
        (Path(folder).relative_to(ROOT) / name).as_posix()
        for folder, _, names in walked
        for name in names
        if name.endswith(".py")
    }


def tool(*arguments: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """An sdist of a copy of the checkout, and the wheel that is built from that sdist; nothing is fetched."""
    for name in ("build", "setuptools", "pip"):
        pytest.importorskip(name)
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than 77")
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    tool("-m", "build", "--no-isolation", cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_every_package_of_the_checkout_is_listed():
    """A new folder with Python files that pyproject.toml does not name would be missing from the wheel."""
    listed = (ROOT / "pyproject.toml").read_text().partition("\npackages = [")[2].partition("]")[0]
    folders = {name.rpartition("/")[0].replace("/", ".") for name in modules()}
    assert folders == set(listed.replace('"', "").replace(",", " ").split())


def test_kernels_in_the_package_are_those_beside_it():
    """A link in a checkout, a copy in an sdist."""
    names = {path.name for path in (ROOT / "kernels").glob("*.py")}
    assert names == {path.name for path in (PACKAGE / "kernels").glob("*.py")} > {"fill.py"}
    assert all((ROOT / "kernels" / name).read_bytes() == (PACKAGE / "kernels" / name).read_bytes() for name in names)


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        outside = {name for name in names if not name.startswith("tritonparam/")}
        assert {name for name in names if name.endswith(".py")} == modules()
        assert names - outside - modules() == {"tritonparam/py.typed"}
        assert {name.partition("/")[0] for name in outside} == {f"tritonparam-{tritonparam.__version__}.dist-info"}
        assert any(name.endswith("/licenses/LICENSE") for name in outside)
        for name in modules():
            assert archive.read(name) == (ROOT / name).read_bytes()
            assert archive.getinfo(name).external_attr >> 28 != 0o12, "a link, not a file"


def test_the_readme_of_the_metadata_can_be_read_anywhere(wheel):
    """Every link of it is absolute, all that are in README.md are there, and the rest is as it stands there."""
    with zipfile.ZipFile(wheel) as archive:
        told = Parser().parsestr(archive.read(f"tritonparam-{tritonparam.__version__}.dist-info/METADATA").decode())
    assert told["Description-Content-Type"] == "text/markdown"
    urls = dict(each.split(", ") for each in told.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    home = urls["Homepage"]
    assert all(url.startswith(home) for url in urls.values())

    text, here = told.get_payload(), (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
    link = re.compile(r'(?:\]\(|src="|href="|^\[[^]\n]+\]: )([^)\s"]*)', re.MULTILINE)
    got, want = link.findall(code.sub("", text)), link.findall(code.sub("", here))
    assert [target for target in got if not target.startswith("https://")] == []
    assert [re.sub(rf"^{home}/(blob|raw)/v{tritonparam.__version__}/", "", target) for target in got] == [
        f"README.md{target}" if target.startswith("#") else target for target in want
    ]
    assert link.sub("", text).split() == link.sub("", here).split()


def test_sdist_holds_what_is_needed_to_build_and_to_test(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers() if member.isfile()}
    want = {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        "setup.py",
        "Makefile",
        "constraints.txt",
        "tritonparam/py.typed",
    }
    want |= modules() | {f"kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    for folder in ("tests", "bench", "examples"):
        want |= {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()}
    assert want <= set(members)
    assert not any("__pycache__" in name for name in members)


def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    """It is what gets imported, it has its metadata and kernels, its command runs, its values are those made here."""
    home = tmp_path / "site"
    tool("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", home, wheel, cwd=tmp_path)
    file, version, kernel, digest = tool("-c", USE, cwd=tmp_path, PYTHONPATH=str(home)).split()
    assert Path(file) == home / "tritonparam" / "__init__.py"
    assert version == tritonparam.__version__
    assert Path(kernel) == home / "tritonparam" / "kernels" / "fill.py"
    out = torch.empty(1000)
    Plan([Fill(out, Normal(), derive_key(3, "w"))], backend="numpy").run()
    assert digest == hashlib.sha256(out.numpy().tobytes()).hexdigest()
    told = tool(home / "bin" / "tritonparam", "--version", cwd=tmp_path, PYTHONPATH=str(home))
    assert told == f"tritonparam {version}\n"
