"""A part of the classes: the same images as in the whole, labels and all, and nothing of the others."""

from pathlib import Path

import pytest
import torch

from replastic import data
from replastic.errors import UserError


@pytest.fixture
def source(shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path))
    return str(shared_data / "tiny_imagenet")


def test_the_images_of_the_first_classes_alone(source: str) -> None:
    part = data.load(f"tiny_imagenet:source={source},train=30,test=6,first_classes=3")
    whole = data.load(f"tiny_imagenet:source={source},train=2000,test=400")
    for some, every in ((part.train, whole.train), (part.held_out, whole.held_out), (part.test, whole.test)):
        wanted = every.targets < 3
        assert torch.equal(some.inputs, every.inputs[wanted])
        assert torch.equal(some.targets, every.targets[wanted])
        assert some.classes == 3


@pytest.mark.parametrize("count", [1, 201, -1])
def test_numbers_of_classes_that_cannot_be(source: str, count: int) -> None:
    with pytest.raises(UserError, match="first_classes"):
        data.load(f"tiny_imagenet:source={source},first_classes={count}")
