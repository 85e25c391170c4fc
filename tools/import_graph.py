"""The package's imports as a graph of files, and the rules of the house: `python tools/import_graph.py` prints both.

A room is a folder of the package; its face is its `__init__`. Some rooms have inner rooms. Rooms stand in ROOMS in
order, and arrows point down: a file imports from its own room and, by their faces, from rooms before it. Below all of
them lies the ground, files of the package's root that import nothing. Imports that only a type checker sees count like
all others, and so do those inside functions and those by `import_module`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "tritonparam"
ROOMS = ("stream", "plan", "tensor", "initializer", "parameter", "module", "checkpoint", "distributed", "cli")
INNER_ROOMS = (
    "stream.reference",
    "stream.loops",
    "plan.backends",
    "module.making",
    "module.recording",
    "module.wrapping",
    "checkpoint.disk",
    "checkpoint.format",
    "checkpoint.joint",
    "checkpoint.matching",
    "checkpoint.wrappers",
    "cli.init",
    "cli.inspect",
    "cli.plan",
)
GROUND = (
    *("_arguments", "_errors", "_interrupt", "_lazy", "_locks", "_meeting", "_processes", "_program", "_underflow"),
    *("_version", "dtype"),
)
KERNELS = "kernels"
OUTSIDE = ("tests", "bench", "tools", "kernels")  # beside the package, and not installed under these names
RUNS_KERNELS = "plan.backends"
MAKERS = ("stream.reference", "stream.loops")  # of values, which the backends run
MOST_FILES = 15
MOST_LINES = 400


@dataclass(frozen=True)
class Import:
    """An import statement of one name.

    Attributes:
        path, line: Where it stands.
        importer: The module that imports, without the package's name; "" for the root.
        imported: The module that it comes from; what is no part of the package begins with "/".
        name: What is imported from it; None for the module itself.
        is_statement: Whether it is `import x`, by which all of the package can be reached.
    """

    path: Path
    line: int
    importer: str
    imported: str
    name: str | None
    is_statement: bool = False


@dataclass(frozen=True)
class Graph:
    """The files of a package and their imports of each other.

    Attributes:
        files: The file of each module.
        faces: Of those that are packages, the names in `__all__`; None where there is none.
        imports: All imports within the package.
    """

    files: dict[str, Path]
    faces: dict[str, tuple[str, ...] | None]
    imports: tuple[Import, ...]

    def arrows(self) -> dict[str, set[str]]:
        """The modules that each module imports."""
        arrows: dict[str, set[str]] = {module: set() for module in self.files}
        for each in self.imports:
            if each.imported in self.files:
                arrows[each.importer].add(each.imported)
        return arrows

    def circles(self) -> list[list[str]]:
        """Sets of modules each of which leads to all others of its set (Tarjan, 1972), those of one left out."""
        arrows, found = self.arrows(), []
        number: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []

        def visit(module: str) -> None:
            number[module] = low[module] = len(number)
            stack.append(module)
            for other in arrows[module]:
                if other not in number:
                    visit(other)
                    low[module] = min(low[module], low[other])
                elif other in stack:
                    low[module] = min(low[module], number[other])
            if low[module] == number[module]:
                at = stack.index(module)
                circle = sorted(stack[at:])
                del stack[at:]
                if len(circle) > 1 or module in arrows[module]:
                    found.append(circle)

        for module in arrows:
            if module not in number:
                visit(module)
        return found

    def longest_chain(self) -> list[str]:
        """Files each of which imports from the next, as many as there are; circles must be gone.

        Faces are looked through: what is imported from one comes from the file that has it.
        """
        behind = {(each.importer, each.name): each.imported for each in self.imports if each.importer in self.faces}
        arrows: dict[str, set[str]] = {module: set() for module in self.files}
        for each in self.imports:
            origin = each.imported
            while each.name is not None and (origin, each.name) in behind:
                origin = behind[origin, each.name]
            if each.importer not in self.faces and origin in self.files:
                arrows[each.importer].add(origin)
        known: dict[str, list[str]] = {}

        def chain(module: str) -> list[str]:
            if module not in known:
                known[module] = [module, *max(map(chain, sorted(arrows[module])), key=len, default=[])]
            return known[module]

        return max(map(chain, arrows), key=len)


def read(package: Path) -> Graph:
    """The graph of the package in the folder `package`."""
    files: dict[str, Path] = {}
    for path in sorted(_sources(package)):
        parts = path.relative_to(package).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in files.items()}
    faces = {module: _exported(trees[module]) for module, path in files.items() if path.name == "__init__.py"}
    imports = [
        each for module, tree in trees.items() for node in ast.walk(tree) for each in _imports(node, module, files)
    ]
    return Graph(files, faces, tuple(imports))


def _sources(folder: Path) -> Iterator[Path]:
    """The Python files below `folder`, through links."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _exported(tree: ast.Module) -> tuple[str, ...] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    return None


def _imports(node: ast.AST, importer: str, files: dict[str, Path]) -> Iterator[Import]:
    """The imports of the package's own modules that `node` is."""
    path = files[importer]
    if isinstance(node, ast.Import):
        for alias in node.names:
            if (module := _within(alias.name)) is not None:
                yield Import(path, node.lineno, importer, module, None, is_statement=True)
            elif alias.name.partition(".")[0] in OUTSIDE:
                yield Import(path, node.lineno, importer, f"/{alias.name}", None)
    elif isinstance(node, ast.ImportFrom):
        origin = _within(node.module or "") if not node.level else _relative(node, importer, path)
        for alias in node.names if origin is not None else ():
            inner = f"{origin}.{alias.name}".lstrip(".")
            if inner in files:
                yield Import(path, node.lineno, importer, inner, None)
            elif origin is not None:
                yield Import(path, node.lineno, importer, origin, alias.name)
        if not node.level and (node.module or "").partition(".")[0] in OUTSIDE:
            yield Import(path, node.lineno, importer, f"/{node.module}", None)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
        parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
        named = parts[0] if parts else None
        text = named.value if isinstance(named, ast.Constant) else ""
        module = _within(str(text).rstrip("."))
        if module is not None and module != importer:  # a face that looks for one of its files by name
            yield Import(path, node.lineno, importer, module, None)


def _within(name: str) -> str | None:
    """The module called `name` without the package's name; None for one of another package."""
    first, _, rest = name.partition(".")
    return rest if first == PACKAGE else None


def _relative(node: ast.ImportFrom, importer: str, path: Path) -> str:
    parts = importer.split(".") if importer else []
    if path.name != "__init__.py":
        parts = parts[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def room_of(module: str) -> str:
    """The innermost room that `module` is in or is the face of; "" for the files of the root that are no ground."""
    for inner in INNER_ROOMS:
        if module == inner or module.startswith(inner + "."):
            return inner
    first = module.partition(".")[0]
    return first if first in (*ROOMS, *GROUND, KERNELS) else ""


def broken_rules(graph: Graph) -> list[str]:
    """What is not as the house has it: one line each, which names file, line and rule."""
    broken = [f"{each.path}:{each.line}: {why}" for each in graph.imports if (why := _wrong(each, graph)) is not None]
    broken += _past_faces_by_attribute(graph)
    for circle in graph.circles():
        broken.append(f"{graph.files[circle[0]]}:1: a circle of imports: {', '.join(circle)}")
    for module, path in graph.files.items():
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES:
            broken.append(f"{path}:{count}: a file has at most {MOST_LINES} lines")
        if not room_of(module) and module not in ("", "__main__"):
            broken.append(f"{path}:1: {module} is in no room: {', '.join(ROOMS)}")
    for room in (*ROOMS, *INNER_ROOMS):
        broken += _wrong_face(room, graph)
    return broken


def _wrong(each: Import, graph: Graph) -> str | None:
    """The rule that an import breaks."""
    here, there = room_of(each.importer), room_of(each.imported)
    what = f"{each.importer or PACKAGE} imports {each.imported.lstrip('/') or PACKAGE}"
    if each.imported.startswith("/"):
        return f"{what}: what is shipped imports nothing beside it"
    if each.imported not in graph.files:
        return f"{what}: there is no such module"
    if each.is_statement and here:
        return f"{what}: names are imported from a room, so that its face can be held to them"
    if not here:  # the root and what starts the command line stand above all rooms
        return _past_the_face(each, what, there, graph)
    if here in GROUND:
        if there in GROUND[: GROUND.index(here)]:
            return None
        return f"{what}: the ground imports nothing of the package but the ground before it"
    if KERNELS in (here, there):
        if here == there or (here == RUNS_KERNELS and there == KERNELS):
            return None
        return f"{what}: kernels import kernels only, and only {RUNS_KERNELS} imports them"
    if not there:
        return f"{what}: the package's root stands above all rooms"
    if there in GROUND:
        return None
    outer, other = here.partition(".")[0], there.partition(".")[0]
    if ROOMS.index(other) > ROOMS.index(outer):
        return f"{what}: an arrow that runs up; {outer} stands below {other}"
    if here == there or (other == outer and there == other):
        return None
    if there in INNER_ROOMS and other != outer and not (here == RUNS_KERNELS and there in MAKERS):
        return f"{what}: an inner room is entered from its own room, {other}"
    return _past_the_face(each, what, there, graph)


def _past_the_face(each: Import, what: str, there: str, graph: Graph) -> str | None:
    if there in GROUND or each.imported == "":
        return None
    if each.imported != there:
        return f"{what}: a room is entered by its face, {PACKAGE}.{there}"
    if each.name is not None and each.name not in (graph.faces.get(there) or ()):
        return f"{what}: {each.name} is not in the __all__ of its face"
    return None


def _past_faces_by_attribute(graph: Graph) -> Iterator[str]:
    """Attributes of rooms that were imported as modules, and are not in their faces."""
    for each in graph.imports:
        is_room = each.imported in graph.faces and room_of(each.importer) != room_of(each.imported)
        if each.name is not None or each.is_statement or not is_room:
            continue
        nodes = list(ast.walk(ast.parse(each.path.read_text(encoding="utf-8"))))
        here = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.lineno == each.line]
        called = {alias.asname or alias.name for node in here for alias in node.names}
        for node in nodes:
            is_used = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in called
            if is_used and node.attr not in (graph.faces[each.imported] or ()):
                what = f"{each.importer} uses {each.imported}.{node.attr}"
                yield f"{each.path}:{node.lineno}: {what}: {node.attr} is not in the __all__ of its face"


def _wrong_face(room: str, graph: Graph) -> Iterable[str]:
    path = graph.files.get(room)
    if path is None or path.name != "__init__.py":
        return [f"{room}: a room has an __init__.py, its face"]
    text, names = path.read_text(encoding="utf-8"), graph.faces[room]
    broken = []
    if not ast.get_docstring(ast.parse(text)):
        broken.append(f"{path}:1: a face says in its docstring what the room is for")
    if names is None:
        broken.append(f"{path}:1: a face has __all__")
    files = [module for module in graph.files if module.startswith(room + ".") and room_of(module) == room]
    if len(files) > MOST_FILES:
        broken.append(f"{path}:1: a room has at most {MOST_FILES} files, got {len(files)}")
    inside = {module.rpartition(".")[2] for module in graph.files if module.rpartition(".")[0] == room}
    hidden = sorted(inside & {*(names or ())})
    if hidden:
        broken.append(f"{path}:1: names in __all__ hide files of the room: {', '.join(hidden)}")
    return broken


def figures(graph: Graph) -> str:
    """The graph in numbers."""
    circles = graph.circles()
    up = sum("runs up" in line for line in broken_rules(graph))
    chain = [] if circles else graph.longest_chain()
    return (
        f"{len(graph.files)} modules in {len(ROOMS)} rooms; {up} arrows against the order, {len(circles)} circles; "
        f"longest chain, faces looked through, {len(chain) or 'endless'}: {' > '.join(chain)}"
    )


if __name__ == "__main__":
    house = read(Path(__file__).resolve().parents[1] / PACKAGE)
    print(figures(house))
    print("\n".join(broken_rules(house)) or "all rules hold")
