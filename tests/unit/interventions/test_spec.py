"""Methods from text: what is read, what is refused and in which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from replastic import methods
from replastic.errors import UserError
from replastic.interventions.method import REGISTRY
from replastic.methods import Method, option
from replastic.options import name_of, pieces


@dataclass(kw_only=True)
class Picky(Method):
    """Has a field of every type a field may have."""

    count: int = option(3, help="a number of things")
    share: float = option(0.5, help="a share")
    on: bool = option(False, help="a switch")
    limit: float | None = option(None, help="a limit, or none")
    word: str = option("a", help="a word", choices=("a", "b"))


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    methods.register("picky")(Picky)
    yield
    del REGISTRY._entries["picky"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("picky", Picky()),
        ("picky:count=5", Picky(count=5)),
        ("picky:share=1e-3,on=true", Picky(share=1e-3, on=True)),
        ("picky: share = 1 , on = no", Picky(share=1.0, on=False)),
        ("picky:limit=none", Picky(limit=None)),
        ("picky:limit=2.5,word=b", Picky(limit=2.5, word="b")),
    ],
)
def test_what_is_read(spec: str, expected: Method) -> None:
    assert methods.from_spec(spec) == expected


def test_dashes_are_underscores() -> None:
    assert methods.from_spec("fire:num-iters=3,solver=newton_schulz") == methods.from_spec(
        "fire", num_iters=3, solver="newton_schulz"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pickyy", "unknown method 'pickyy'; did you mean 'picky'?"),
        ("picky:coumt=1", "picky has no option 'coumt'; did you mean 'count'?"),
        ("picky:zzz=1", "picky has no option 'zzz'; it has: count, limit, on, share, word"),
        ("picky:count=1.5", "picky: count must be of type int, got '1.5'"),
        ("picky:on=maybe", "picky: on must be of type bool, got 'maybe'"),
        ("picky:share=lots", "picky: share must be of type float, got 'lots'"),
        ("picky:limit=inf", "picky: limit must be finite, got inf"),
        ("picky:word=c", "picky: word must be one of a, b, got 'c'"),
        ("picky:count", "cannot read 'count' in 'picky:count': write name:field=value,field=value"),
        ("picky:", "cannot read '' in 'picky:': write name:field=value,field=value"),
        ("base:x=1", "base has no option 'x'; it has: none"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        methods.from_spec(spec)
    assert str(caught.value).startswith(message)


def test_spec_of_is_short_and_keeps_what_was_given() -> None:
    assert methods.spec_of(methods.from_spec("picky", share=0.25)) == "picky:share=0.25"
    given = methods.from_spec("picky:count=3")
    assert given.explicit == {"count"}
    assert methods.spec_of(given) == "picky:count=3", "a default given by hand is kept: recipes must not override it"
    assert methods.from_spec("picky:count=3", word="b").explicit == {"count", "word"}


@pytest.mark.parametrize(
    ("spec", "parts", "name"),
    [
        ("fire", ["fire"], "fire"),
        ("fire:scale=unit+ewc", ["fire:scale=unit", "ewc"], "fire+ewc"),
        ("l2_init:strength=1e+3+fire:targets=a|b", ["l2_init:strength=1e+3", "fire:targets=a|b"], "l2_init+fire"),
        (" ewc + fire : scale = unit", [" ewc ", " fire : scale = unit"], "ewc+fire"),
    ],
)
def test_a_text_that_joins_several_methods(spec: str, parts: list[str], name: str) -> None:
    assert pieces(spec) == parts
    assert name_of(spec) == name
