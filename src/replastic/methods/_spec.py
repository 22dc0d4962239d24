"""Methods from text and back: ``fire:solver=newton_schulz,num_iters=5``, and the checks every field goes through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from replastic.errors import UserError, did_you_mean
from replastic.methods._interface import Method
from replastic.methods._registry import get

M = TypeVar("M", bound=Method)


def build(kind: type[M], options: Mapping[str, Any]) -> M:
    """A method of that class with these hyperparameters, validated; `explicit` on it records which were given.

    Raises:
        UserError: No such field, or a value that is not allowed.
    """
    known = {f.name for f in fields(kind)}
    for option in options:
        if option not in known:
            raise UserError(_no_such_field(kind, option, known))
    method = kind(**options)
    method.explicit = frozenset(options)
    check_fields(method)
    return method


def from_spec(spec: str, **options: Any) -> Method:
    """The method a text describes: ``name`` or ``name:field=value,field=value``.

    Args:
        spec: The text; values are read by the type of the field.
        options: Further fields, as values; they go before those of the text.

    Raises:
        UserError: No such method, the text cannot be read, or as `build`.
    """
    name, colon, rest = spec.partition(":")
    kind = get(name.strip())
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    given: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        option, equals, text = (piece.strip() for piece in part.partition("="))
        option = option.replace("-", "_")
        if not equals or not option:
            raise UserError(f"cannot read {part.strip()!r} in {spec!r}: write name:field=value,field=value")
        if option not in known:
            raise UserError(_no_such_field(kind, option, known))
        if option in given:
            raise UserError(f"{option} is given twice in {spec!r}")
        given[option] = _parse(text, hints[option], f"{kind.name}: {option}")
    return build(kind, {**given, **options})


def spec_of(method: Method) -> str:
    """The shortest text from which `from_spec` makes an equal method: fields that differ from their defaults."""
    parts = [
        f"{f.name}={getattr(method, f.name)}"
        for f in fields(method)
        if getattr(method, f.name) != f.default or f.name in method.explicit
    ]
    return f"{method.name}:{','.join(parts)}" if parts else method.name


def check_fields(method: Method) -> None:
    """Check types, closed choices and finiteness of every field, then what the method itself asks (`validate`).

    Raises:
        UserError: A value is not allowed; the message names the field, the value and what is.
    """
    hints = get_type_hints(type(method))
    for f in fields(method):
        _check_value(method.name, f, getattr(method, f.name), hints[f.name])
    method.validate()


def _check_value(method: str, field: Field[Any], value: Any, hint: Any) -> None:
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return
    allowed = tuple(float if k is float else k for k in kinds)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number if float in allowed else type(value) in allowed
    label = f"{method}: {field.name}"
    if not fits:
        raise UserError(f"{label} must be of type {_describe(kinds)}, got {value!r}")
    if number and not math.isfinite(value):
        raise UserError(f"{label} must be finite, got {value!r}")
    choices = field.metadata.get("choices", ())
    if choices and value not in choices:
        hint = did_you_mean(str(value), map(str, choices))
        raise UserError(f"{label} must be one of {', '.join(map(str, choices))}, got {value!r}{hint}")


def _parse(text: str, hint: Any, label: str) -> Any:
    kinds = get_args(hint) or (hint,)
    if NoneType in kinds and text.lower() in ("none", ""):
        return None
    if bool in kinds:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() in words:
            return words[text.lower()]
    elif str in kinds:
        return text
    else:
        for kind in (k for k in (int, float) if k in kinds):
            try:
                return kind(text)
            except ValueError:
                continue
    raise UserError(f"{label} must be of type {_describe(kinds)}, got {text!r}")


def _describe(kinds: tuple[Any, ...]) -> str:
    return " or ".join("None" if k is NoneType else k.__name__ for k in kinds)


def _no_such_field(kind: type[Method], option: str, known: set[str]) -> str:
    hint = did_you_mean(option, sorted(known), f"; it has: {', '.join(sorted(known)) or 'none'}")
    return f"{kind.name} has no option {option!r}{hint}"
