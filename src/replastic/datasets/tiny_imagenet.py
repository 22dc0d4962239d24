"""Tiny ImageNet: 100 000 training and 10 000 labelled validation photographs of 64x64 pixels, 200 classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.image_provider import NamedImages
from replastic.data.provider import register


@register("tiny_imagenet", reference="http://cs231n.stanford.edu/reports/2015/pdfs/yle_project.pdf")
@dataclass(kw_only=True, frozen=True)
class TinyImagenet(NamedImages):
    """Photographs of 64x64 pixels in 200 classes, 500 of each for training; the labelled validation split is the test.

    The few grey images become RGB. The official test split has no labels.
    """

    hub: ClassVar[str] = "zh-plus/tiny-imagenet"
    classes: ClassVar[int] = 200
    side: ClassVar[int] = 64
    published: ClassVar[tuple[int, int]] = (100_000, 10_000)
