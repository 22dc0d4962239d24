"""The settings of a class whose fields are settings: their defaults, and what the source says of each."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any


def described(kind: object) -> list[dict[str, Any]]:
    """Every field of a dataclass, in order, as ``name``, ``default`` and ``help``; none of anything else.

    The help is that of an `option`, or the text under the field in the class that defines it.
    """
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return []
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        texts |= _texts(parent) if is_dataclass(parent) else {}
    return [
        {"name": f.name, "default": f.default, "help": f.metadata.get("help") or texts.get(f.name, "")}
        for f in fields(kind)
    ]


def _texts(kind: type) -> dict[str, str]:
    """The string under each annotated name in the body of a class, on one line."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):  # Typed into a session, so that there is no source to read.
        return {}
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    found = {}
    for statement, after in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[statement.target.id] = " ".join(text.value.split())
    return found
