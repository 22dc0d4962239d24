"""The table of known layouts: how known classes cut the weights that hold several matrices.

The table is data, in ``known_layouts.toml``. A class is known if its own ``forward`` is the one that was read.
"""

from __future__ import annotations

import ast
import operator
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from torch import nn

Value = str | int | bool | None


@dataclass(frozen=True, kw_only=True)
class KnownLayout:
    """One row: a weight of some classes, and how they cut it."""

    family: str
    """Name for people, such as ``GPT-NeoX``."""
    classes: tuple[str, ...]
    """``package.file.Class``, without ``modeling_``; a ``*`` stands for any text."""
    weight: str
    """Name of the weight from the class's module on, such as ``c_attn.weight``."""
    source: str
    """The place that shows it: the method and its line, or torch's documentation."""
    when: str = ""
    """A condition on the module's attributes; empty if there is none."""
    split: tuple[str, ...] = ()
    """Names of the blocks; empty for one matrix."""
    sizes: tuple[str, ...] = ()
    """Rows of each block, as expressions of the module's attributes; empty if all have equally many."""
    repeat: Value = None
    heads: Value = None
    kv_heads: Value = None
    interleaved: Value = None
    transposed: Value = None

    @property
    def cut(self) -> str:
        """How the weight is cut, in words; names of attributes are those of the module."""
        blocks = f"rows of {', '.join(self.split)}" if self.split else "one matrix"
        parts = [
            f"if {self.when}" if self.when else "",
            f"{blocks} ({', '.join(self.sizes)})" if self.sizes else blocks,
            f"{self.repeat} times in turn" if self.repeat is not None else "",
            _where("the rows alternate", self.interleaved),
            _where("stored (in, out)", self.transposed),
        ]
        return "; ".join(part for part in parts if part)

    def layout_of(self, module: nn.Module) -> dict[str, Any] | None:
        """The layout that the module's attributes give; None if the condition fails or an attribute is missing."""
        try:
            if self.when and not evaluate(self.when, module):
                return None
            layout: dict[str, Any] = {"split": self.split} if self.split else {}
            if self.sizes:
                layout["sizes"] = tuple(evaluate(size, module) for size in self.sizes)
            for key in ("repeat", "interleaved", "transposed"):
                if (value := getattr(self, key)) is not None:
                    layout[key] = evaluate(value, module)
        except AttributeError:
            return None
        return layout | self._heads(module) if self.split else layout

    def _heads(self, module: nn.Module) -> dict[str, int]:
        """The heads of the blocks. Only a rule that asks for single heads needs them."""
        try:
            heads = {key: evaluate(value, module) for key in ("heads", "kv_heads") if (value := getattr(self, key))}
        except AttributeError:
            return {}
        return {"kv_heads": heads["heads"], **heads} if heads else {}


def _where(words: str, value: Value) -> str:
    """The words if the value is true, with the condition if it is one."""
    return f"{words} if {value}" if isinstance(value, str) else words if value else ""


@cache
def table() -> tuple[KnownLayout, ...]:
    """All rows, in the order of the file."""
    content = tomllib.loads((files("replastic.weights") / "known_layouts.toml").read_text(encoding="utf-8"))
    return tuple(KnownLayout(**_as_fields(row)) for row in content["layout"])


def _as_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def find(around: dict[str, nn.Module]) -> tuple[dict[str, Any], str] | None:
    """The layout of a weight, and the class that proves it; None if no class around it is known.

    Args:
        around: The modules around the weight, from its own outwards, by the name of the weight from that module on.
    """
    for path, module in reversed(around.items()):  # the outermost knows best what a layer is used for
        for kind in _classes(module):
            for row in _rows(kind):
                if fnmatchcase(path, row.weight) and (layout := row.layout_of(module)) is not None:
                    return layout, f"{kind.rpartition('.')[2]} of {kind.partition('.')[0]}"
    return None


def class_name(kind: type) -> str:
    """The name of a class as the table spells it: package, file and class."""
    package, *_, file = (kind.__module__ if "." in kind.__module__ else f"{kind.__module__}.").split(".")
    return f"{package}.{file.removeprefix('modeling_')}.{kind.__name__}"


def evaluate(expression: Value, module: nn.Module) -> Any:
    """The value of an expression of a module's attributes: names, numbers, ``+ - * //``, ``not``, ``and``, ``or``.

    Raises:
        AttributeError: The module lacks one of the attributes.
    """
    if not isinstance(expression, str):
        return expression
    return _value(ast.parse(expression, mode="eval").body, module)


_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _value(node: ast.expr, module: nn.Module) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return getattr(module, name)
        case ast.Attribute(value=owner, attr=name):
            return getattr(_value(owner, module), name)
        case ast.Subscript(value=owner, slice=index):
            return _value(owner, module)[_value(index, module)]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, module)
        case ast.BoolOp(op=op, values=values):
            found = (bool(_value(value, module)) for value in values)
            return all(found) if isinstance(op, ast.And) else any(found)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, module), _value(right, module))
    raise ValueError(f"known_layouts.toml: {ast.unparse(node)} is no expression of the table")


def _classes(module: nn.Module) -> Iterator[str]:
    """The module's class and the bases whose `forward` it still has, as the table spells them."""
    kind = type(module)
    for base in kind.__mro__:
        if base is nn.Module:
            return
        if getattr(base, "forward", None) is kind.forward:
            yield class_name(base)


@cache
def _rows(kind: str) -> tuple[KnownLayout, ...]:
    return tuple(row for row in table() if any(fnmatchcase(kind, pattern) for pattern in row.classes))
