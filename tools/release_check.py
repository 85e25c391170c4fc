"""Is this checkout ready to be released? `python tools/release_check.py`, or `make release-check`.

The version is the same everywhere; wheel and sdist are built into dist/; their metadata can be read anywhere; the
wheel, installed into a new environment, runs the first example of the README.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r'(?:\]\(|src="|href="|^\[[^]\n]+\]: )([^)\s"]*)', re.MULTILINE)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


class NotReady(Exception):
    """What has to be put right before a release."""


def check_versions(root: Path, tag: str | None = None) -> str:
    """The version that the package, the changelog, the citation and the tag agree on.

    Args:
        root: A checkout.
        tag: The tag of the release; None before there is one.

    Raises:
        NotReady: They do not agree; or there is a tag, and the changelog has no date for it.
    """
    version = _found(root / "tritonparam" / "_version.py", r'__version__ = "(.+)"')
    top = _found(root / "CHANGELOG.md", r"^## \[(.+)\] - ")
    date = _found(root / "CHANGELOG.md", r"^## \[.+\] - (.+)$")
    others = {"CHANGELOG.md": top, "CITATION.cff": _found(root / "CITATION.cff", r"^version: (.+)$")}
    if tag is not None:
        others["the tag"] = tag.removeprefix("v") if tag.startswith("v") else f"{tag} (which must begin with v)"
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            raise NotReady(f"CHANGELOG.md must have the date of [{top}], such as 2026-01-31, got {date}")
    for where, other in others.items():
        if other != version:
            raise NotReady(f"{where} must have the version of tritonparam/_version.py, {version}, got {other}")
    return version


def relative_links(markdown: str) -> list[str]:
    """The targets of links in `markdown` that lead nowhere when it is read elsewhere.

    Examples:
        >>> relative_links("[a](docs/a.md), [b](https://x.org/b), `[c](c)`")
        ['docs/a.md']
    """
    return [target for target in _LINK.findall(_CODE.sub("", markdown)) if not target.startswith("https://")]


def check_metadata(wheel: Path, version: str) -> Message:
    """The metadata of `wheel`.

    Raises:
        NotReady: It is of another version, without an address or a license, or its README has relative links.
    """
    with zipfile.ZipFile(wheel) as archive:
        told = Parser().parsestr(archive.read(f"tritonparam-{version}.dist-info/METADATA").decode())
        names = archive.namelist()
    links = relative_links(str(told.get_payload()))
    if links:
        raise NotReady(f"the README in the metadata must have absolute links only, got {links[:5]}")
    if (told["Name"], told["Version"]) != ("tritonparam", version):
        raise NotReady(f"the wheel must be of tritonparam {version}, got {told['Name']} {told['Version']}")
    lacking = [key for key in ("Summary", "License-Expression", "Requires-Python", "Project-URL") if not told[key]]
    if lacking or told["Description-Content-Type"] != "text/markdown":
        raise NotReady(f"the metadata must have {', '.join(lacking) or 'a README in Markdown'}")
    tops = {name.partition("/")[0] for name in names}
    if tops != {"tritonparam", f"tritonparam-{version}.dist-info"} or "tritonparam/kernels/fill.py" not in names:
        raise NotReady(f"the wheel must hold tritonparam with its kernels and nothing else, got {sorted(tops)}")
    return told


def build(root: Path, version: str) -> tuple[Path, Path]:
    """The wheel and the sdist of `root`, in its dist/, where nothing else of the package is left."""
    dist = root / "dist"
    for old in dist.glob("tritonparam-*"):
        old.unlink()
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist], root)
    return dist / f"tritonparam-{version}-py3-none-any.whl", dist / f"tritonparam-{version}.tar.gz"


def run_example(wheel: Path, root: Path, here: bool = False) -> None:
    """Install `wheel` into a new environment, and run the first example of the README there.

    Args:
        wheel: What to install.
        root: The checkout with README.md and constraints.txt.
        here: Whether all other packages are those of the environment that runs this; else they are fetched.

    Raises:
        NotReady: It prints something else than the README says, or was not run from the wheel.
    """
    readme = (root / "README.md").read_text("utf-8")
    code, want = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", readme, re.DOTALL)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        venv.create(folder / "venv", with_pip=not here, symlinks=os.name != "nt")
        python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        if here:
            site = _run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
            (Path(site) / "zz_here.pth").write_text(sysconfig.get_path("purelib"))  # .pth files there are not read
            pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
        else:
            pip = [python, "-m", "pip", "install", "--constraint", root / "constraints.txt"]
        _run([*pip, "--quiet", wheel], folder)
        place = _run([python, "-c", "import tritonparam; print(tritonparam.__file__)"], folder).strip()
        if not Path(place).resolve().is_relative_to(folder / "venv"):
            raise NotReady(f"the example must run from the wheel, got {place}")
        got = _run([python, "-c", code], folder)
    if got != want:
        raise NotReady(f"the first example of the README must print\n{want}\ngot\n{got}")


def _found(file: Path, pattern: str) -> str:
    found = re.search(pattern, file.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise NotReady(f"{file.name} must hold {pattern}")
    return found[1]


def _run(command: list[str | Path], folder: Path) -> str:
    """What a command prints that sees no modules but its own."""
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=away, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"{' '.join(map(str, command))[:300]} must succeed, got\n{done.stdout}{done.stderr}")
    return done.stdout


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", help="the tag of the release, such as v1.2.3")
    parser.add_argument("--here", action="store_true", help="fetch nothing: run the example with the packages of here")
    options = parser.parse_args(arguments)
    try:
        version = check_versions(ROOT, options.tag or None)
        wheel, sdist = build(ROOT, version)
        check_metadata(wheel, version)
        run_example(wheel, ROOT, options.here)
    except NotReady as error:
        sys.exit(f"not ready: {error}")
    print(f"ready: {wheel.relative_to(ROOT)}, {sdist.relative_to(ROOT)}")
    if options.tag is None:
        print(f"release: write the date into CHANGELOG.md, commit, git tag v{version}, git push origin v{version}")


if __name__ == "__main__":
    main()
