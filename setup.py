"""What pyproject.toml cannot say of the build: the README of the metadata, and what an editable install shows."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
# Holds a link to the package and nothing else. With the clone itself on sys.path, `import kernels` would work.
SHOWN = ROOT / ".editable"
# Code, or what comes before a target, and the target where it is relative.
LINK = re.compile(
    r"""^```.*?^```|`[^`\n]*`|(\]\(|src="|href="|^\[[^]\n]+\]: )(?![a-z]+:)([^)\s"]+)""", re.MULTILINE | re.DOTALL
)


def one(pattern: str, file: str) -> str:
    """What the group of `pattern` has in `file`."""
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{file} must hold {pattern}")
    return found[1]


def readme() -> str:
    """README.md with the addresses that its files have in the repository, for readers who see it elsewhere."""
    repository = one('^Homepage = "(.*)"', "pyproject.toml")
    tag = "v" + one('__version__ = "(.*)"', "tritonparam/_version.py")

    def absolute(found: re.Match[str]) -> str:
        before, target = found.groups()
        if before is None:  # code
            return found[0]
        kind = "raw" if target.endswith((".png", ".svg")) else "blob"
        path = f"README.md{target}" if target.startswith("#") else target
        return f"{before}{repository}/{kind}/{tag}/{path}"

    return LINK.sub(absolute, (ROOT / "README.md").read_text(encoding="utf-8"))


class EditableWheel(editable_wheel):
    """An install by a path, which type checkers follow; setuptools' own is a finder, which they cannot run."""

    def finalize_options(self) -> None:
        SHOWN.mkdir(exist_ok=True)
        link = SHOWN / "tritonparam"
        try:
            if not link.is_symlink():
                link.symlink_to(Path("..", "tritonparam"), target_is_directory=True)
            self.distribution.package_dir = {"": SHOWN.name}
        except OSError:  # Windows without the right to make links: as setuptools does it
            pass
        super().finalize_options()


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    cmdclass={"editable_wheel": EditableWheel},
)
