"""Options as flags: each with its help, its choices and its default, and no two of one name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import tyro

from replastic.cli._arguments import parse
from replastic.cli._fields import described, flags_of, with_flags
from replastic.errors import UserError
from replastic.options import Settings, option


@dataclass(kw_only=True)
class Arguments:
    """What the command takes."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Part(Settings):
    """Options of every type."""

    name = "part"

    size: int = option(4, help="number of things", low=1)
    rate: float = option(0.5, help="share of them")
    on: bool = option(True, help="whether to look")
    mode: Literal["near", "far"] = option("near", help="how to look")
    side: int = option(3, help="one of two sides", choices=(1, 3))
    widths: tuple[int, ...] = option((8, 16), help="one number for each layer", low=1)


def test_flags_have_the_help_the_choices_and_the_values_of_the_part(capsys: pytest.CaptureFixture[str]) -> None:
    kind = with_flags(Arguments, flags_of(Part(size=7, widths=(5,))))
    with pytest.raises(SystemExit):
        parse(kind, prog="test", description="", args=["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "--json Print JSON. (default: False)",
        "--size INT Number of things. (default: 7)",
        "--rate FLOAT Share of them. (default: 0.5)",
        "--on, --no-on Whether to look. (default: True)",
        "--mode {near,far} How to look. (default: near)",
        "--side {1,3} One of two sides. (default: 3)",
        "--widths [INT [INT ...]] One number for each layer. (default: 5)",
    ):
        assert words in text, text


def test_flags_give_their_values() -> None:
    arguments = ["--size", "2", "--no-on", "--mode", "far", "--side", "1", "--widths", "3", "4", "--json"]
    given = parse(with_flags(Arguments, flags_of(Part(rate=0.25))), prog="test", description="", args=arguments)
    assert isinstance(given, Arguments)
    expected = {"json": True, "size": 2, "rate": 0.25, "on": False, "mode": "far", "side": 1, "widths": (3, 4)}
    assert vars(given) == expected


def test_a_class_gives_its_defaults_and_a_beginning_for_the_help() -> None:
    flags = {name: (hint.__metadata__[0].help, value.default) for name, hint, value in flags_of(Part, "Of part: ")}
    assert flags["size"] == ("Of part: number of things.", 4)
    assert flags["widths"] == ("Of part: one number for each layer.", (8, 16))


def test_two_flags_of_one_name_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other(Settings):
        size: int = option(1, help="another size", low=1)

    @dataclass(frozen=True, kw_only=True)
    class Json(Settings):
        json: bool = option(False, help="the command has this one")

    for flags, name in (([*flags_of(Part), *flags_of(Other)], "size"), (flags_of(Json), "json")):
        with pytest.raises(UserError, match=f"the option '{name}' has the name of another flag"):
            with_flags(Arguments, flags)


def test_lists_show_name_default_and_help_of_every_option() -> None:
    assert described(Part)[0] == {"name": "size", "default": 4, "help": "number of things"}
    assert [row["name"] for row in described(Part)] == ["size", "rate", "on", "mode", "side", "widths"]
    assert described(len) == []
