"""The options of a class: as rows of a list, and as flags of a command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from replastic.errors import UserError

T = TypeVar("T")

Flag = tuple[str, Any, Any]
"""Name, type with help, and field: as `make_dataclass` takes them."""


def described(kind: object) -> list[dict[str, Any]]:
    """Every option of a dataclass, in order, as ``name``, ``default`` and ``help``; none of anything else."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return []
    return [{"name": f.name, "default": f.default, "help": f.metadata.get("help", "")} for f in fields(kind)]


def flags_of(part: Any, about: str = "") -> list[Flag]:
    """A flag for every option of a dataclass, for `with_flags`.

    Args:
        part: The class, or an object of it: its values are the defaults of the flags then.
        about: Beginning of every help text.
    """
    hints = get_type_hints(part if isinstance(part, type) else type(part))
    flags = []
    for f in fields(part):
        choices = f.metadata.get("choices")
        hint: Any = Literal[tuple(choices)] if choices else hints[f.name]
        text = about + f.metadata.get("help", f.name.replace("_", " "))
        default = f.default if isinstance(part, type) else getattr(part, f.name)
        flags.append(
            (
                f.name,
                Annotated[hint, tyro.conf.arg(help=f"{text[0].upper()}{text[1:]}.")],
                field(default=tyro.MISSING if default is MISSING else default, kw_only=True),
            )
        )
    return flags


def with_flags(arguments: type[T], flags: Sequence[Flag]) -> type[T]:
    """The class of a command's arguments with further flags, to be handed to tyro.

    Raises:
        UserError: Two flags have one name.
    """
    names = [f.name for f in fields(arguments)] + [name for name, _, _ in flags]  # type: ignore[arg-type]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the option {name!r} has the name of another flag of this command; rename it")
    return make_dataclass(arguments.__name__, flags, bases=(arguments,))
