"""CIFAR-100: 50 000 training and 10 000 test photographs of 32x32 pixels, a hundred (fine) classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.image_provider import Layout, NamedImages
from replastic.data.provider import register


@register("cifar100", reference="https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf")
@dataclass(kw_only=True, frozen=True)
class Cifar100(NamedImages):
    """Photographs of 32x32 pixels in a hundred fine classes, 500 of each for training and 100 for the test."""

    hub: ClassVar[str] = "uoft-cs/cifar100"
    classes: ClassVar[int] = 100
    side: ClassVar[int] = 32
    published: ClassVar[tuple[int, int]] = (50_000, 10_000)

    def layout(self) -> Layout:
        """The fine classes: the Hub calls them `fine_label`, other copies `label`."""
        return Layout(label=("fine_label", "label"))
