"""Who imports whom in detox_jax: read from the source, without importing anything.

`python tests/import_graph.py` prints the rooms, lowest first: files, lines, what each imports.
"""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "detox_jax"


def modules() -> dict[str, Path]:
    """Every module by its name below `detox_jax`; a room's own file is `ROOM.__init__`."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def room_of(name: str) -> str:
    """The folder that a module lies in, or the module itself where it lies in none."""
    return name.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, in functions too; `from a import b` counts as `a.b`.

    A text such as `"detox_jax.training.train"` counts, since `importlib` is given such.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if parts[0] == "detox_jax" and len(parts) > 1 and all(p.isidentifier() for p in parts):
                yield node.value


def local_imports(path: Path) -> set[str]:
    """The modules of detox_jax that a file imports."""
    known, found = modules(), set()
    for imported in imports(path):
        if not imported.startswith("detox_jax."):
            continue
        name = imported.removeprefix("detox_jax.")
        while name and name not in known and f"{name}.__init__" not in known:
            name = name.rpartition(".")[0]
        assert name, f"{path}: imports {imported}, which is none of the modules"
        found.add(name if name in known else f"{name}.__init__")
    return found


def module_graph() -> dict[str, set[str]]:
    """What each module imports."""
    return {name: local_imports(path) - {name} for name, path in modules().items()}


def room_graph() -> dict[str, dict[str, int]]:
    """How many imports lead from each room to each other one."""
    rooms: dict[str, dict[str, int]] = collections.defaultdict(lambda: collections.defaultdict(int))
    for name, imported in module_graph().items():
        for other in imported:
            if room_of(other) != room_of(name):
                rooms[room_of(name)][room_of(other)] += 1
        rooms[room_of(name)]
    return {room: dict(others) for room, others in rooms.items()}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Names along a cycle of a graph; none where it has none."""
    done: set[str] = set()

    def search(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := search(other, [*trail, name]):
                return found
        done.add(name)
        return []

    for name in graph:
        if found := search(name, []):
            return found
    return []


def floors(rooms: dict[str, dict[str, int]]) -> dict[str, int]:
    """The floor of each room: one above the highest that it imports."""
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            found[room] = 1 + max(map(floor, rooms[room]), default=-1)
        return found[room]

    for room in rooms:
        floor(room)
    return found


def main() -> None:
    """Prints the rooms as a table."""
    rooms, named = room_graph(), modules()
    levels = floors(rooms)
    print(f"{'room':16} floor files lines  imports (how often)")
    for room in sorted(rooms, key=lambda room: (levels[room], room)):
        files = [path for name, path in named.items() if room_of(name) == room]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        others = sorted(rooms[room].items(), key=lambda item: (-item[1], item[0]))
        listed = " ".join(f"{other} ({count})" for other, count in others)
        print(f"{room:16} {levels[room]:5} {len(files):5} {lines:5}  {listed}")
    arrows = sum(len(others) for others in rooms.values())
    print(f"{len(rooms)} rooms, {arrows} arrows, {sum(map(len, module_graph().values()))} imports")


if __name__ == "__main__":
    main()
