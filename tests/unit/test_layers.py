"""The house keeps its floors: a file imports from floors below its own or from its own room, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "replastic"
FLOORS = {
    "denormals": 0,
    "disk": 0,
    "environment": 0,
    "errors": 0,
    "extras": 0,
    "memory": 0,
    "options": 0,
    "registry": 0,
    "records": 0,
    "seeds": 0,
    "text": 0,
    "_version": 0,
    "linalg": 1,
    "optim": 1,
    "parallel": 1,
    "weights": 2,
    "probes": 2,
    "data": 2,
    "envs": 2,
    "interventions": 3,
    "recipes": 3,
    "networks": 3,
    "streams": 3,
    "methods": 4,
    "metrics": 4,
    "datasets": 4,
    "corpora": 4,
    "learners": 4,
    "triggers": 4,
    "api": 5,
    "training": 5,
    "report": 5,
    "experiments": 6,
    "benchmarks": 7,
    "cli": 8,
}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("replastic", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FILES
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules of this package that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "replastic")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            module = node.module or ""
            if module.split(".")[0] == "replastic":
                yield from (f"{module}.{a.name}" if f"{module}.{a.name}" in MODULES else module for a in node.names)


def violations(room: str, source: str) -> list[str]:
    """Imports that point upwards or sideways."""
    if room in ("__init__", "__main__"):
        return []
    if room not in FLOORS:
        return [f"{room} has no floor: add it to FLOORS and to docs/architecture.md"]
    rooms = {[*module.split("."), ""][1] for module in imports(ast.parse(source))}
    return [
        f"{room} (floor {FLOORS[room]}) imports {other or 'the package root'} (floor {FLOORS.get(other, 'none')})"
        for other in sorted(rooms - {room})
        if FLOORS.get(other, 99) >= FLOORS[room] and not (FLOORS[room] == 0 and FLOORS.get(other) == 0)
    ]


def hidden_imports(source: str) -> list[int]:
    """Lines of imports of this package inside functions, where they could hide a circle."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = [(node, module) for f in functions for node in ast.walk(f) for module in _imported_by(node)]
    return sorted({node.lineno for node, module in found if module.startswith("replastic")})


def _imported_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {}
    for name, path in MODULES.items():
        # A room's __init__ hands on what its files hold, so what matters is which files these are.
        graph[name] = set(imports(ast.parse(path.read_text(encoding="utf-8")))) - {name}
    assert circle(graph) == []


def test_the_search_for_circles_finds_one() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not circle({"a": {"b", "c"}, "b": {"c"}})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_hides_in_a_function(path: Path) -> None:
    assert hidden_imports(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_points_up(path: Path) -> None:
    assert violations(room_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("linalg", "from replastic.weights.views import View"),
        ("methods", "from replastic.metrics import names"),
        ("interventions", "from replastic import methods"),
        ("weights", "import replastic"),
        ("api", "from replastic import training"),
        ("attic", "import math"),
    ],
)
def test_the_check_sees_a_violation(room: str, source: str) -> None:
    assert violations(room, source)


def test_the_check_sees_a_hidden_import() -> None:
    assert hidden_imports("def f():\n    from replastic.weights import views\n    import json\n") == [2]


def test_the_rooms_of_plugins_hold_nothing_else() -> None:
    """In these a file is a method, a data set or a benchmark; machinery has rooms of its own."""
    for room in ("methods", "datasets", "benchmarks"):
        assert [p.name for p in (PACKAGE / room).glob("_*.py")] == ["__init__.py"], room


def test_the_picture_in_the_docs_shows_the_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn: dict[str, int] = {}
    for floor, rooms in re.findall(r"^    (\d)  (.+?)(?:   .*)?$", page, flags=re.MULTILINE):
        drawn |= {room: int(floor) for room in re.findall(r"(\w+)(?:/|\.py)", rooms)}
    assert drawn == FLOORS


def test_every_floor_is_furnished() -> None:
    rooms = {room_of(path) for path in FILES if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")}
    assert rooms == set(FLOORS)
