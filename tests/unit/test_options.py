"""Fields from text: one routine for methods, data sets and presets, so that all refuse the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import pytest

from replastic import benchmarks, data, methods, networks, streams
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.options import Settings, check_values, option, split


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("fire", ("fire", {})),
        (" fire : scale = unit ", ("fire", {"scale": "unit"})),
        (
            "images:train-split=a,source=/x/y=z,label=",
            ("images", {"train_split": "a", "source": "/x/y=z", "label": ""}),
        ),
    ],
)
def test_what_a_text_gives(spec: str, expected: tuple[str, dict[str, str]]) -> None:
    assert split(spec) == expected


def on_preset(given: str) -> str:
    """The data of the first preset of an experiment that is asked to run on `given`."""
    spec = benchmarks.get("vision_warm_start")()
    return spec.on(given).presets[spec.preset_name(None)].protocol.task.data


@pytest.mark.parametrize(
    ("read", "spec", "field"),
    [
        (methods.from_spec, "fire:scale=init,scale=unit", "scale"),
        (methods.from_spec, "fire:num-iters=3,num_iters=4", "num_iters"),
        (data.from_spec, "cifar10:train=100,train=200", "train"),
        (on_preset, "cifar10:train=100,train=200", "train"),
    ],
)
def test_a_field_given_twice(read: Callable[[str], object], spec: str, field: str) -> None:
    with pytest.raises(UserError) as caught:
        read(spec)
    assert str(caught.value) == f"{field} is given twice in {spec!r}"


def test_what_is_given_goes_before_the_preset() -> None:
    assert on_preset("cifar10: first-classes = 5, train=100") == "cifar10:train=100,test=4000,first_classes=5"


@pytest.mark.parametrize("read", [data.from_spec, on_preset])
def test_a_value_with_a_comma(read: Callable[[str], object]) -> None:
    spec = "cifar10:source=photos/com,ma"
    with pytest.raises(UserError) as caught:
        read(spec)
    assert str(caught.value) == (
        f"cannot read 'ma' in {spec!r}: write name:field=value,field=value; "
        "a value cannot hold a comma (rename or link a folder whose path has one)"
    )


@dataclass(frozen=True, kw_only=True)
class Every(Settings):
    """A field of every kind."""

    name = "every"

    closed: float = option(0.5, help="both ends belong to it", low=0, high=1)
    half: float = option(0.5, help="the upper end is left out", low=0, below=1)
    inside: float = option(0.5, help="both ends are left out", above=0, below=1)
    least: int = option(3, help="from 1 on", low=1)
    most: int = option(-3, help="up to 7", high=7)
    positive: float = option(0.5, help="above 0", above=0)
    negative: float = option(-0.5, help="below 0", below=0)
    free: float = option(0.0, help="any number")
    limit: float | None = option(None, help="a limit, or none", low=0)
    on: bool = option(False, help="a switch", low=1)
    mode: Literal["a", "b"] = option("a", help="one of two")
    sides: int = option(3, help="one of two numbers", choices=(1, 3))
    word: str = option("", help="any text", low=1)
    widths: tuple[int, ...] = option((4,), help="a number for each layer", low=1)
    shares: tuple[float, ...] = option((0.5,), help="at least one share", low=0, high=1, nonempty=True)
    modes: tuple[Literal["a", "b"], ...] = option((), help="any of two")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("closed", value) for value in (0.0, 1.0, 0, 1, 5e-324)),
        *(("half", value) for value in (0.0, math.nextafter(1.0, 0.0))),
        *(("inside", value) for value in (5e-324, math.nextafter(1.0, 0.0))),
        *(("least", value) for value in (1, 10**400)),
        *(("most", value) for value in (7, -(10**400))),
        *(("positive", value) for value in (5e-324, 1e308)),
        *(("negative", value) for value in (-5e-324, -1e308)),
        *(("free", value) for value in (-1e308, 0, 1e308)),
        *(("limit", value) for value in (None, 0.0, 2)),
        *(("on", value) for value in (True, False)),
        *(("mode", value) for value in ("a", "b")),
        *(("sides", value) for value in (1, 3)),
        *(("widths", value) for value in ((), (1,), (1, 2, 10**400))),
        *(("shares", value) for value in ((0,), (0.0, 1.0), (0.5, 1))),
        *(("modes", value) for value in ((), ("a", "b", "a"))),
    ],
)
def test_values_that_are_allowed(field: str, value: object) -> None:
    assert getattr(Every(**{field: value}), field) is value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("closed", math.nextafter(1.0, 2.0), "closed must lie in [0, 1], got 1.0000000000000002"),
        ("closed", -5e-324, "closed must lie in [0, 1], got -5e-324"),
        ("half", 1.0, "half must lie in [0, 1), got 1.0"),
        ("half", -1, "half must lie in [0, 1), got -1"),
        ("inside", 0, "inside must lie in (0, 1), got 0"),
        ("inside", 1.0, "inside must lie in (0, 1), got 1.0"),
        ("least", 0, "least must be at least 1, got 0"),
        ("least", 1.0, "least must be of type int, got 1.0"),
        ("least", True, "least must be of type int, got True"),
        ("most", 8, "most must be at most 7, got 8"),
        ("positive", 0.0, "positive must be above 0, got 0.0"),
        ("negative", 0.0, "negative must be below 0, got 0.0"),
        ("free", math.nan, "free must be finite, got nan"),
        ("free", math.inf, "free must be finite, got inf"),
        ("free", "1", "free must be of type float, got '1'"),
        ("limit", -1.0, "limit must be at least 0, got -1.0"),
        ("limit", "x", "limit must be of type float or None, got 'x'"),
        ("on", 1, "on must be of type bool, got 1"),
        ("mode", "c", "mode must be one of a, b, got 'c'"),
        ("mode", None, "mode must be of type str, got None"),
        ("sides", 2, "sides must be one of 1, 3, got 2"),
        ("widths", (3, 0), "widths must each be at least 1, got (3, 0)"),
        ("widths", (3, 2.0), "widths must each be of type int, got (3, 2.0)"),
        ("widths", [3], "widths must be of type tuple, got [3]"),
        ("widths", 3, "widths must be of type tuple, got 3"),
        ("shares", (), "shares must have at least one element, got ()"),
        ("shares", (0.5, 1.5), "shares must each lie in [0, 1], got (0.5, 1.5)"),
        ("shares", (0.5, math.nan), "shares must each be finite, got (0.5, nan)"),
        ("modes", ("a", "aa"), "modes must each be one of a, b, got ('a', 'aa')"),
    ],
)
def test_values_that_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Every(**{field: value})
    assert str(caught.value).startswith(f"every: {message}")


def test_a_value_of_an_object_without_a_name_is_named_by_its_field_alone() -> None:
    @dataclass
    class Plain:
        size: int = option(0, help="a size", low=1)

    with pytest.raises(UserError) as caught:
        check_values("", Plain())
    assert str(caught.value) == "size must be at least 1, got 0"


def test_fields_are_checked_one_by_one_before_they_are_checked_together() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pair(Settings):
        first: int = option(1, help="a number", low=0)
        second: int = option(1, help="a larger one", low=0)

        def validate(self) -> None:
            if self.second < self.first:
                raise UserError(f"second must be at least first, got {self.second} and {self.first}")

    with pytest.raises(UserError, match="first must be at least 0, got -1"):
        Pair(first=-1, second=-2)
    with pytest.raises(UserError, match="second must be at least first, got 1 and 2"):
        Pair(first=2)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ({"low": 0, "above": 0}, "an option takes low or above, not both; got 0 and 0"),
        ({"high": 1, "below": 2}, "an option takes high or below, not both; got 1 and 2"),
    ],
)
def test_an_option_has_one_end_on_each_side(ends: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        option(0, help="a number", **ends)
    assert str(caught.value) == message


BUILT_IN = [
    *(networks.get(name) for name in networks.names()),
    *(streams.get(name) for name in streams.names()),
    *(data.get(name) for name in data.names() if name != "images"),  # which is nothing without a source
    Trainer,
]


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_every_setting_has_help_and_every_number_a_range(kind: type[Any]) -> None:
    for field in fields(kind):
        assert field.metadata["help"], field.name
        elements = field.default if isinstance(field.default, tuple) else (field.default,)
        if isinstance(elements[0], int | float) and not isinstance(elements[0], bool):
            for wrong in (-1, -math.inf, math.inf, math.nan):
                with pytest.raises(UserError, match=field.name):
                    replace(kind(), **{field.name: (wrong,) if isinstance(field.default, tuple) else wrong})
