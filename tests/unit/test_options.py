"""Fields from text: one routine for methods, data sets and presets, so that all refuse the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replastic import benchmarks, data, methods
from replastic.errors import UserError
from replastic.options import split


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
    return spec.on(given).presets[spec.preset_name(None)].protocol.data


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
