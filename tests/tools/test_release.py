"""What is not ready is not released: versions that disagree, links that lead nowhere, an example that fails."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.release_check import ROOT, NotReady, check_metadata, check_versions, relative_links
from tritonparam import __version__

FILES = ("CHANGELOG.md", "CITATION.cff", "tritonparam/_version.py")
OUTSIDE = (".*", "__pycache__", "*.egg-info", "build", "dist", "demo")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that name the version, as of a release on a day of 2026."""
    (tmp_path / "tritonparam").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(f"# Changelog\n\n## [{__version__}] - 2026-01-31\n\n## [0.0.1] - 2025-01-01\n")
    return tmp_path


def test_this_checkout_has_one_version() -> None:
    assert check_versions(ROOT) == __version__


def test_a_release_has_its_tag_and_a_date(checkout: Path) -> None:
    assert check_versions(checkout, f"v{__version__}") == __version__
    for tag in ("v9.9.9", __version__, "release"):
        with pytest.raises(NotReady, match=rf"the tag must have the version .*, {__version__}, got "):
            check_versions(checkout, tag)
    changelog = checkout / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("2026-01-31", "unreleased"))
    assert check_versions(checkout) == __version__
    with pytest.raises(NotReady, match=rf"CHANGELOG.md must have the date of \[{__version__}\], .* got unreleased"):
        check_versions(checkout, f"v{__version__}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_another_version_is_named(name: str, checkout: Path) -> None:
    file = checkout / name
    file.write_text(file.read_text().replace(__version__, "9.9.9", 1))
    named = "CHANGELOG.md" if name.endswith("_version.py") else name
    with pytest.raises(NotReady, match=f"{named} must have the version of tritonparam/_version.py"):
        check_versions(checkout)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[a](docs/a.md)", ["docs/a.md"]),
        ("[`a`](docs/a.md#b)", ["docs/a.md#b"]),
        ("[a](#b)", ["#b"]),
        ('<img src="a.png">', ["a.png"]),
        ("[a]: docs/a.md", ["docs/a.md"]),
        ("[a](https://x.org/a) `[b](c)`", []),
        ("```python\nmodel[0](x)\n```", []),
    ],
)
def test_a_relative_link_is_found(text: str, want: list[str]) -> None:
    assert relative_links(text) == want


def test_a_checkout_is_built_and_its_example_runs_from_the_wheel(tmp_path: Path) -> None:
    """Nothing is fetched; dist/ holds this release alone; an example that prints something else is not ready."""
    for name in ("build", "setuptools", "pip"):
        pytest.importorskip(name)
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than 77")
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=shutil.ignore_patterns(*OUTSIDE))
    (clone / "dist").mkdir()
    (clone / "dist" / "tritonparam-0.0.1.tar.gz").write_text("")

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "tools/release_check.py", "--here"]
        return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=300, check=False)

    done = check()
    assert done.returncode == 0, done.stderr
    names = {f"tritonparam-{__version__}-py3-none-any.whl", f"tritonparam-{__version__}.tar.gz"}
    assert {path.name for path in (clone / "dist").iterdir()} == names
    assert done.stdout.startswith("ready: ")

    wheel = clone / "dist" / f"tritonparam-{__version__}-py3-none-any.whl"
    told = check_metadata(wheel, __version__)
    assert told["Requires-Python"].startswith(">=3.")

    (clone / "README.md").write_text((clone / "README.md").read_text().replace("```\n[-0.2", "```\n[-0.3", 1))
    done = check()
    assert done.returncode == 1
    assert "not ready: the first example of the README must print" in done.stderr
