"""The package is built of rooms, and every import keeps to their rules; `tools/import_graph.py` says which."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from tools import import_graph

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tritonparam"


@pytest.fixture(scope="module")
def house() -> import_graph.Graph:
    return import_graph.read(PACKAGE)


def test_every_import_keeps_to_the_rules(house: import_graph.Graph, capsys: pytest.CaptureFixture[str]) -> None:
    """Arrows between rooms point one way, rooms are entered by their faces, nothing runs in a circle."""
    with capsys.disabled():
        sys.stdout.write(f"\n{import_graph.figures(house)}\n")
    assert import_graph.broken_rules(house) == []


def test_the_graph_holds_every_file_and_every_room(house: import_graph.Graph) -> None:
    """A rule that looks at nothing would hold."""
    want = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    want |= {f"kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert {path.relative_to(PACKAGE).as_posix() for path in house.files.values()} == want
    folders = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_dir()}
    rooms = {folder.replace("/", ".") for folder in folders if "__pycache__" not in folder}
    assert rooms == {*import_graph.ROOMS, *import_graph.INNER_ROOMS, import_graph.KERNELS}
    pairs = {(import_graph.room_of(each.importer), import_graph.room_of(each.imported)) for each in house.imports}
    assert {("plan", "stream"), ("plan.backends", "kernels"), ("cli.inspect", "cli.init"), ("tensor", "dtype")} <= pairs
    assert len(house.longest_chain()) > len(import_graph.ROOMS)


PLANTED = {
    "up": ("plan/fill.py", "from tritonparam.tensor import Tensor", "runs up; plan stands below tensor"),
    "up, for types only": (
        "stream/key.py",
        "if TYPE_CHECKING:\n    from tritonparam.plan import Plan",
        "runs up; stream stands below plan",
    ),
    "up, in a function": (
        "initializer/factory.py",
        "def late():\n    from tritonparam.parameter import Parameter",
        "runs up; initializer stands below parameter",
    ),
    "up, by a string": (
        "module/tape.py",
        'import_module("tritonparam.checkpoint")',
        "runs up; module stands below checkpoint",
    ),
    "up, relative": ("plan/memory.py", "from ..tensor import Tensor", "runs up; plan stands below tensor"),
    "up, as a statement": ("parameter/flags.py", "import tritonparam.cli", "names are imported from a room"),
    "past a face": (
        "tensor/swap.py",
        "from tritonparam.plan.memory import overlap",
        "a room is entered by its face, tritonparam.plan",
    ),
    "past a face, the module": (
        "tensor/swap.py",
        "from tritonparam.plan import memory",
        "a room is entered by its face, tritonparam.plan",
    ),
    "past a face, by an attribute": (
        "tensor/swap.py",
        "from tritonparam import plan\nused = plan.memory.overlap",
        "memory is not in the __all__ of its face",
    ),
    "all of the package": ("tensor/swap.py", "import tritonparam.plan", "names are imported from a room"),
    "an inner room of another": (
        "tensor/swap.py",
        "from tritonparam.plan.backends import BACKENDS",
        "an inner room is entered from its own room, plan",
    ),
    "what is not shipped": ("tensor/swap.py", "from tests.module import eager", "imports nothing beside it"),
    "kernels beside the package": ("plan/fill.py", "import kernels.fill", "imports nothing beside it"),
    "nothing": ("plan/fill.py", "from tritonparam.nothing import x", "there is no such module"),
    "past an inner face": (
        "cli/commands.py",
        "from tritonparam.cli.init.job import Job",
        "a room is entered by its face, tritonparam.cli.init",
    ),
    "not in a face": (
        "tensor/swap.py",
        "from tritonparam.plan import contiguous_start",
        "contiguous_start is not in the __all__",
    ),
    "the root": ("module/tape.py", "from tritonparam import Tensor", "the package's root stands above all rooms"),
    "kernels": ("plan/fill.py", "from tritonparam.kernels.fill import fill", "only plan.backends imports them"),
    "kernels, from the definition": (
        "stream/reference/fill.py",
        "from tritonparam.kernels import fill",
        "only plan.backends imports them",
    ),
    "the definition, from a kernel": (
        "kernels/fill.py",
        "from tritonparam.stream.reference import box_chunks",
        "kernels import kernels only",
    ),
    "from the ground": ("dtype.py", "from tritonparam.stream import Law", "the ground imports nothing"),
    "a circle": (
        "plan/memory.py",
        "from tritonparam.plan.copy import Copy",
        "a circle of imports: plan.copy, plan.memory",
    ),
    "its own face": ("plan/memory.py", "from tritonparam.plan import Plan", "a circle of imports: plan, "),
}


def copied(folder: Path) -> Path:
    """A copy of the package."""
    return Path(shutil.copytree(PACKAGE, folder / "tritonparam", ignore=shutil.ignore_patterns("__pycache__")))


def broken(package: Path) -> list[str]:
    return import_graph.broken_rules(import_graph.read(package))


def planted(folder: Path, file: str, line: str) -> list[str]:
    """The rules that a copy of the package breaks whose `file` has `line` too."""
    package = copied(folder)
    path = package / file
    path.write_text(f"{path.read_text()}\n\n{line}\n")
    return broken(package)


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_import_is_named_with_file_line_and_rule(case: str, tmp_path: Path) -> None:
    file, line, rule = PLANTED[case]
    every = planted(tmp_path, file, line)
    # An arrow that runs up closes circles too.
    (found,) = [each for each in every if "circle" in rule or "a circle of imports" not in each]
    assert rule in found
    assert re.match(rf"{re.escape(str(tmp_path / 'tritonparam'))}/[a-z_/]+\.py:\d+: ", found)
    if "circle" not in rule:  # of which the first file is named
        last = len((tmp_path / "tritonparam" / file).read_text().splitlines())
        assert found.startswith(f"{tmp_path / 'tritonparam' / file}:{last}: ")


def test_a_file_in_no_room_is_named(tmp_path: Path) -> None:
    package = copied(tmp_path)
    (package / "helpers.py").write_text("")
    (found,) = broken(package)
    assert found.startswith(f"{package / 'helpers.py'}:1: helpers is in no room")


def test_a_long_file_and_a_full_room_are_named(tmp_path: Path) -> None:
    package = copied(tmp_path)
    for number in range(import_graph.MOST_FILES):
        (package / "stream" / f"file{number}.py").write_text("")
    (package / "cli" / "commands.py").write_text("\n" * (import_graph.MOST_LINES + 1))
    found = "\n".join(broken(package))
    assert "commands.py:401: a file has at most 400 lines" in found
    assert re.search(r"stream/__init__\.py:1: a room has at most 15 files, got \d\d$", found, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "before", "after", "rule"),
    [
        ("stream/__init__.py", "__all__", "_all", "a face has __all__"),
        ("stream/__init__.py", '"""', 'f"""', "a face says in its docstring"),
        ("plan/__init__.py", '"RANDOM_DTYPES"', '"fill"', "names in __all__ hide files of the room: fill"),
    ],
)
def test_a_bad_face_is_named(file: str, before: str, after: str, rule: str, tmp_path: Path) -> None:
    package = copied(tmp_path)
    path = package / file
    path.write_text(path.read_text().replace(before, after, 1))
    found = broken(package)
    assert any(line.startswith(f"{path}:1: ") and rule in line for line in found)


def test_tests_have_the_rooms_of_what_they_test() -> None:
    folders = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*") if path.is_dir()}
    folders = {path for path in folders if "__pycache__" not in path.parts and path not in (Path("data"), Path("fuzz"))}
    assert {path.parts[0] for path in folders} >= {*import_graph.ROOMS, import_graph.KERNELS, "bench", "tools"}
    assert [path for path in folders if not (PACKAGE / path).is_dir() and not (ROOT / path).is_dir()] == []


def test_what_has_one_name_is_one_thing() -> None:
    """A kernel, its definition and its tests have one name."""
    kernels, definitions, tests = (
        {path.stem.removeprefix("test_") for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        for folder in ("kernels", "tritonparam/stream/reference", "tests/kernels")
    )
    assert definitions - kernels == {"fma"}, "which a GPU has built in"
    no_definition = {"copy": "moves bits as they are", "dtypes": "a table", "rows": "a table", "store": "writes only"}
    no_definition |= {"boxes": "finds places only", "laws": "reads a table"}
    assert kernels - definitions == set(no_definition)
    tested_by_others = {
        "dtypes",
        "laws",
        "rows",
        "store",
        "rounding",
        "transforms",
    }  # by fill, cast and the machine code
    assert kernels - tests == tested_by_others


def test_no_test_file_is_long() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > import_graph.MOST_LINES} == {}
