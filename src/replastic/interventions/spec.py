"""Methods from text and back: ``fire:solver=newton_schulz,num_iters=5``, and the checks every field goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from replastic.errors import UserError
from replastic.interventions.combined import Combined
from replastic.interventions.method import Method, get
from replastic.options import check_known, check_values, pieces, read

M = TypeVar("M", bound=Method)


def build(kind: type[M], options: Mapping[str, Any]) -> M:
    """A method of that class with these hyperparameters, validated; `explicit` on it records which were given.

    Raises:
        UserError: No such field, or a value that is not allowed.
    """
    check_known(kind.name, kind, options)
    method = kind(**options)
    method.explicit = frozenset(options)
    check_fields(method)
    return method


def from_spec(spec: str, **options: Any) -> Method:
    """The method a text describes: ``name`` or ``name:field=value,field=value``, several of them joined by ``+``.

    Args:
        spec: The text; values are read by the type of the field.
        options: Further fields, as values; they go before those of the text.

    Raises:
        UserError: No such method, the text cannot be read, options beside several methods, or as `build`.
    """
    several = pieces(spec)
    if len(several) == 1:
        kind, given = read(spec, get)
        return build(kind, {**given, **options})
    if options:
        raise UserError(f"options {', '.join(options)} could be meant for any part of {spec!r}: write them in the text")
    method = Combined(combined=tuple(map(from_spec, several)))
    method.validate()
    return method


def spec_of(method: Method) -> str:
    """The shortest text from which `from_spec` makes an equal method: fields that differ from their defaults."""
    return "+".join(map(_spec_of_part, method.parts))


def settings(method: Method) -> dict[str, Any]:
    """Name and every field of a method, as they go into run.json; of a combination those of its parts, in order."""
    found = [{"name": part.name, **asdict(part)} for part in method.parts]
    return found[0] if len(found) == 1 else {"name": "+".join(part.name for part in method.parts), "parts": found}


def _spec_of_part(method: Method) -> str:
    parts = [
        f"{f.name}={getattr(method, f.name)}"
        for f in fields(method)
        if getattr(method, f.name) != f.default or f.name in method.explicit
    ]
    return f"{method.name}:{','.join(parts)}" if parts else method.name


def check_fields(method: Method) -> None:
    """Check the type, choices and range of every field, then how the fields go together (`validate`).

    Raises:
        UserError: A value is not allowed; the message names the field, the value and what is.
    """
    check_values(method.name, method)
    method.validate()
