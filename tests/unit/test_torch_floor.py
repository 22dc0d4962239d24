"""The oldest torch that pyproject.toml allows: what it lacks is asked for where it is used, and says so."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from replastic import methods
from replastic.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "src" / "replastic").rglob("*.py"))
NEWER = {"torch.optim.Muon": "2.9"}
"""Names this package uses that torch has only since the version given: the one list to add to."""


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def floor() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        (wanted,) = [d for d in tomllib.load(file)["project"]["dependencies"] if re.match(r"torch\b", d)]
    return wanted.removeprefix("torch>=")


def torch_names(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Dotted names of torch that a file imports or spells out, each with where it is."""
    short = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = [
                (a.name if a.asname else a.name.split(".")[0], a.asname or a.name.split(".")[0], a.name)
                for a in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            named = [(f"{node.module}.{a.name}", a.asname or a.name, f"{node.module}.{a.name}") for a in node.names]
        else:
            continue
        for bound, name, full in named:
            if full.split(".")[0] == "torch":
                short[name] = bound
                yield full, node
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in short:
            yield ".".join([short[inner.id], *reversed(parts)]), node


def guarded(tree: ast.AST) -> set[ast.AST]:
    """Nodes inside a `try` of a function that answers an ImportError."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    tries = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.Try)]
    answering = [t for t in tries if any(ast.unparse(h.type or t) == "ImportError" for h in t.handlers)]
    return {node for t in answering for statement in t.body for node in ast.walk(statement)}


def there(name: str) -> bool:
    """Whether the installed torch has it."""
    thing: object = torch
    parts = name.split(".")
    for end, part in enumerate(parts[1:], 2):
        if hasattr(thing, part):
            thing = getattr(thing, part)
            continue
        try:
            thing = import_module(".".join(parts[:end]))  # torch.optim deletes the names of some of its modules
        except ImportError:
            return False
    return True


def complaints(source: str) -> list[str]:
    tree = ast.parse(source)
    safe = guarded(tree)
    found = []
    for name, node in torch_names(tree):
        since = next((v for n, v in NEWER.items() if f"{name}.".startswith(f"{n}.")), floor())
        if numbers(since) <= numbers(floor()):
            if not there(name):
                found.append(
                    f"{name} is not in torch {torch.__version__}: raise the floor ({floor()}), or NEWER and a guard"
                )
        elif node not in safe:
            found.append(f"{name} needs torch {since}, the floor is {floor()}: import it inside a function, in a try")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT / "src" / "replastic")))
def test_no_file_needs_more_than_the_floor(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from torch.optim import Adam, Muon",
        "import torch\nmuon = torch.optim.Muon",
        "from torch import optim\ndef make(): return optim.Muon",
        "def make():\n    from torch.optim import Muon",
        "try:\n    from torch.optim import Muon\nexcept ImportError:\n    pass",
        "from torch import nothing_of_the_kind",
    ],
)
def test_the_check_sees_what_is_not_guarded(source: str) -> None:
    assert complaints(source)


def test_the_list_is_of_names_newer_than_the_floor_in_use() -> None:
    used = {name for path in FILES for name, _ in torch_names(ast.parse(path.read_text(encoding="utf-8")))}
    for name, since in NEWER.items():
        assert name in used
        assert numbers(since) > numbers(floor()), f"the floor has {name}: take it from the list, and its guard away"
        assert there(name) == (numbers(torch.__version__) >= numbers(since))


def test_the_readme_tells_the_floor() -> None:
    assert f"({floor()} or newer)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_without_torchs_muon_the_method_says_which_torch_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.optim.Muon", raising=False)
    method = methods.from_spec("muon")
    method._hidden = frozenset()
    since = re.escape(NEWER["torch.optim.Muon"])
    with pytest.raises(
        UserError, match=rf"^muon needs torch {since} or newer, this is {re.escape(torch.__version__)}$"
    ):
        method.make_optimizer([{"params": [nn.Parameter(torch.ones(2, 2))]}], torch.optim.Adam)
