"""Options: dataclass fields with a help text and the values they allow, read from ``name:field=value,field=value``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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


@dataclass(frozen=True)
class Range:
    """The numbers that an option allows: its ends as in `option`, None where there is no limit."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        for ends in (("low", "above"), ("high", "below")):
            if None not in (first := [getattr(self, end) for end in ends]):
                raise UserError(f"an option takes {ends[0]} or {ends[1]}, not both; got {first[0]} and {first[1]}")

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """The words after "must": ``be at least 0``, or ``lie in [0, 1)``, where a round bracket leaves the end out."""
        named = {"at least": self.low, "above": self.above, "at most": self.high, "below": self.below}
        ends = [(words, end) for words, end in named.items() if end is not None]
        if len(ends) < 2:
            return "".join(f"be {words} {end}" for words, end in ends)
        (_, start), (_, stop) = ends
        return f"lie in {'(' if self.low is None else '['}{start}, {stop}{')' if self.high is None else ']'}"


def option(
    default: Any,
    *,
    help: str,
    choices: Sequence[Any] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    nonempty: bool = False,
    search: Sequence[Any] = (),
) -> Any:
    """A dataclass field from which flags, specs and checks are made.

    A range is checked by `check_values`; of a tuple, each element must lie in it. No option allows NaN or infinity.

    Args:
        default: Its value when nobody gives one.
        help: Its effect, in a few words without a full stop; shown by ``--help``.
        choices: Every value that is allowed, if they can be listed; the values of a Literal type are listed already.
        low: Smallest number allowed.
        high: Largest number allowed.
        above: Instead of `low`: every number must be greater than this one.
        below: Instead of `high`: every number must be smaller than this one.
        nonempty: Whether a tuple must have an element.
        search: Values that a sweep tries, if it is to be searched at all: those of the paper where it gives them.

    Raises:
        UserError: Both `low` and `above`, or both `high` and `below`, are given.
    """
    rules = {"choices": tuple(choices), "range": Range(low, high, above, below), "nonempty": nonempty}
    return field(default=default, metadata={"help": help, **rules, "search": tuple(search)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the dataclasses whose fields are options and never change: all are checked when an object is made."""

    name: ClassVar[str] = ""
    """Public name, with which messages begin; set by `register`."""

    def __post_init__(self) -> None:
        check_values(self.name, self)
        self.validate()

    def validate(self) -> None:
        """Refuse fields that do not go together; each by itself is checked by then.

        Raises:
            UserError: Naming the fields, their values and what is allowed.
        """


def read(spec: str, kind_of: Callable[[str], K]) -> tuple[K, dict[str, Any]]:
    """The class that a text names, and the values it gives for the fields.

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
    """Check type, finiteness, choices and range of every field of a dataclass instance.

    Raises:
        UserError: A value is not allowed; the message names `name`, the field, the value and what is.
    """
    hints = get_type_hints(type(owner))
    for f in fields(owner):
        value = getattr(owner, f.name)
        if not is_dataclass(value):  # It has checked its own.
            _check_value(f"{name}: {f.name}" if name else f.name, value, hints[f.name], f.metadata)


def _check_value(label: str, value: Any, hint: Any, rules: Mapping[str, Any]) -> None:
    alternatives = _alternatives(hint)
    elements = [get_args(a)[0] for a in alternatives if get_origin(a) is tuple]
    several = isinstance(value, tuple) and bool(elements)
    if several:
        alternatives = _alternatives(elements[0])
        if rules.get("nonempty") and not value:
            raise UserError(f"{label} must have at least one element, got ()")
    must = f"{label} must each" if several else f"{label} must"
    kinds = _kinds(alternatives)
    choices = rules.get("choices") or [c for a in alternatives if get_origin(a) is Literal for c in get_args(a)]
    allowed = rules.get("range", Range())
    for each in value if several else (value,):
        if not _fits(each, kinds):
            raise UserError(f"{must} be of type {_describe(kinds)}, got {value!r}")
        if isinstance(each, float) and not math.isfinite(each):
            raise UserError(f"{must} be finite, got {value!r}")
        if choices and each is not None and each not in choices:
            near = did_you_mean(str(each), map(str, choices))
            raise UserError(f"{must} be one of {', '.join(map(str, choices))}, got {value!r}{near}")
        if isinstance(each, int | float) and not isinstance(each, bool) and each not in allowed:
            raise UserError(f"{must} {allowed}, got {value!r}")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _kinds(alternatives: Iterable[Any]) -> tuple[type, ...]:
    """The classes of the values that some hints allow, each once."""
    found: list[type] = []
    for hint in alternatives:
        origin = get_origin(hint) or hint
        found += map(type, get_args(hint)) if origin is Literal else [object if origin is Any else origin]
    return tuple(dict.fromkeys(found))


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of one of these classes; a whole number is a float, too, and a bool is no number."""
    if isinstance(value, bool):
        return bool in kinds or object in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)


def _parse(text: str, hint: Any, label: str) -> Any:
    kinds = _kinds(_alternatives(hint))
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
