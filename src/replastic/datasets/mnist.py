"""MNIST: 60 000 training and 10 000 test images of handwritten digits, 28x28 grey pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.image_provider import Layout, NamedImages
from replastic.data.provider import register


@register("mnist", reference="http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf")
@dataclass(kw_only=True, frozen=True)
class Mnist(NamedImages):
    """Handwritten digits of 28x28 grey pixels in ten classes, about 6000 of each for training and 1000 for the test."""

    hub: ClassVar[str] = "ylecun/mnist"
    classes: ClassVar[int] = 10
    side: ClassVar[int] = 28
    published: ClassVar[tuple[int, int]] = (60_000, 10_000)

    def layout(self) -> Layout:
        """One channel."""
        return Layout(channels=1)
