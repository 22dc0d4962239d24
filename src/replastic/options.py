"""Options of methods and data sets: dataclass fields, read from ``name:field=value,field=value`` and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from replastic.errors import UserError, did_you_mean

K = TypeVar("K", bound=type)


_JOIN = re.compile(r"\+(?=\s*[A-Za-z_])")
"""Between two specs; the plus of a number such as 1e+3 is none."""


def pieces(spec: str) -> list[str]:
    """The specs that a text joins by ``+``: ``fire:solver=fast`` and ``ewc`` of ``fire:solver=fast+ewc``."""
    return _JOIN.split(spec)


def name_of(spec: str) -> str:
    """The text without its options: ``fire+ewc`` for ``fire:solver=fast+ewc``."""
    return "+".join(piece.partition(":")[0].strip() for piece in pieces(spec))


def split(spec: str) -> tuple[str, dict[str, str]]:
    """The name in ``name:field=value,field=value``, and the texts of its fields in their order.

    Raises:
        UserError: A part is no ``field=value``, or a field is given twice.
    """
    name, colon, rest = spec.partition(":")
    given: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, equals, text = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not equals or not key:
            comma = "; a value cannot hold a comma (rename or link a folder whose path has one)" if given else ""
            raise UserError(f"cannot read {part.strip()!r} in {spec!r}: write name:field=value,field=value{comma}")
        if key in given:
            raise UserError(f"{key} is given twice in {spec!r}")
        given[key] = text
    return name.strip(), given


def completed(given: str, known: str) -> str:
    """The spec `given`, with the fields of `known` that it does not give, if both are of the same name."""
    name, own = split(given)
    if name != split(known)[0]:
        return given
    texts = [f"{key}={text}" for key, text in (split(known)[1] | own).items()]
    return f"{name}:{','.join(texts)}" if texts else name


def option(default: Any, *, help: str, choices: Sequence[Any] = (), search: Sequence[Any] = ()) -> Any:
    """A dataclass field from which flags, specs and checks are made.

    Args:
        default: Its value when nobody gives one.
        help: What it does, in a few words without a full stop; shown by ``--help``.
        choices: Every value that is allowed, if they can be listed.
        search: Values that a sweep tries, if it is to be searched at all: those of the paper where it gives them.
    """
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "search": tuple(search)})


def read(spec: str, kind_of: Callable[[str], K]) -> tuple[K, dict[str, Any]]:
    """Which class a text names, and the fields it gives.

    Args:
        spec: ``name`` or ``name:field=value,field=value``; values are read by the type of the field.
        kind_of: The dataclass of a name.

    Raises:
        UserError: No such field, a field given twice, or a text that cannot be read.
    """
    name, given = split(spec)
    kind = kind_of(name)
    check_known(name, kind, given)
    hints = get_type_hints(kind)
    return kind, {key: _parse(text, hints[key], f"{name}: {key}") for key, text in given.items()}


def check_known(name: str, kind: type, options: Iterable[str]) -> None:
    """See that every option is a field of the class registered as `name`.

    Raises:
        UserError: It is not; the message offers near misses.
    """
    known = sorted(f.name for f in fields(kind))
    for key in options:
        if key not in known:
            hint = did_you_mean(key, known, f"; it has: {', '.join(known) or 'none'}")
            raise UserError(f"{name} has no option {key!r}{hint}")


def check_values(name: str, owner: Any) -> None:
    """Check types, closed choices and finiteness of every field of a dataclass instance.

    Raises:
        UserError: A value is not allowed; the message names `name`, the field, the value and what is.
    """
    hints = get_type_hints(type(owner))
    for f in fields(owner):
        _check_value(name, f, getattr(owner, f.name), hints[f.name])


def _check_value(name: str, field: Field[Any], value: Any, hint: Any) -> None:
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return
    allowed = tuple(float if k is float else k for k in kinds)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number if float in allowed else type(value) in allowed
    label = f"{name}: {field.name}"
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
