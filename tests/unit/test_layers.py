"""The house keeps its floors: a file imports only from floors below its own, or from its own room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "replastic"
FLOORS = {
    "errors": 0,
    "extras": 0,
    "options": 0,
    "registry": 0,
    "records": 0,
    "seeds": 0,
    "text": 0,
    "_version": 0,
    "linalg": 1,
    "weights": 2,
    "probes": 2,
    "data": 2,
    "optim": 2,
    "methods": 3,
    "metrics": 3,
    "networks": 3,
    "streams": 3,
    "recipes": 3,
    "api": 4,
    "training": 4,
    "report": 4,
    "benchmarks": 5,
    "cli": 6,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    """Rooms of this package that a file imports, anywhere in it; '' stands for the package root."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "replastic":
            modules = [f"replastic.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where an arrow points"
            modules = [node.module or ""]
        else:
            continue
        rooms |= {[*m.split("."), ""][1] for m in modules if m.split(".")[0] == "replastic"}
    return rooms


def violations(room: str, source: str) -> list[str]:
    if room in ("__init__", "__main__"):
        return []
    if room not in FLOORS:
        return [f"{room} has no floor: add it to FLOORS and to docs/architecture.md"]
    return [
        f"{room} (floor {FLOORS[room]}) imports {other or 'the package root'} (floor {FLOORS.get(other, 'none')})"
        for other in sorted(imported_rooms(source) - {room})
        if FLOORS.get(other, 99) >= FLOORS[room] and not (FLOORS[room] == 0 and FLOORS.get(other) == 0)
    ]


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
        ("weights", "import replastic"),
        ("api", "from replastic import training"),
        ("attic", "import math"),
    ],
)
def test_the_check_sees_a_violation(room: str, source: str) -> None:
    assert violations(room, source)


def test_the_picture_in_the_docs_shows_the_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn: dict[str, int] = {}
    for floor, rooms in re.findall(r"^    (\d)  (.+?)(?:   .*)?$", page, flags=re.MULTILINE):
        drawn |= {room: int(floor) for room in re.findall(r"(\w+)(?:/|\.py)", rooms)}
    assert drawn == FLOORS


def test_every_floor_is_furnished() -> None:
    rooms = {room_of(path) for path in FILES if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")}
    assert rooms == set(FLOORS)
