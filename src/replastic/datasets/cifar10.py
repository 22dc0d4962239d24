"""CIFAR-10: 50 000 training and 10 000 test photographs of 32x32 pixels, ten classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.image_provider import NamedImages
from replastic.data.provider import register


@register("cifar10", reference="https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf")
@dataclass(kw_only=True, frozen=True)
class Cifar10(NamedImages):
    """Photographs of 32x32 pixels in ten classes, 5000 of each for training and 1000 for the test."""

    hub: ClassVar[str] = "uoft-cs/cifar10"
    classes: ClassVar[int] = 10
    side: ClassVar[int] = 32
    published: ClassVar[tuple[int, int]] = (50_000, 10_000)
