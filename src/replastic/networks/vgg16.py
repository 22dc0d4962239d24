"""VGG-16 with batch normalisation, for images of 64x64 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from replastic.networks._layers import convolution, head, image_shape
from replastic.networks._network import Network, register
from replastic.options import option

_WIDEST = 8
"""Channels stop doubling at this multiple of the first stage's."""


@register("vgg16", reference="https://arxiv.org/abs/1409.1556")
@dataclass(frozen=True, kw_only=True)
class Vgg16(Network):
    """Stages of 3x3 convolutions with batch normalisation and ReLU, each ending in max-pooling; hidden layers; head.

    The defaults are the network of the FIRE paper for Tiny-ImageNet. Reference: Simonyan & Zisserman (2015), column D.
    Differs from it by the smaller hidden layers, no dropout, and no bias in convolutions, which the normalisation after
    them would take away again.
    """

    recipe: ClassVar[str] = "paper-cnn"

    width: int = option(
        64, help="channels of the first stage; they double from stage to stage up to eight times as many", low=1
    )
    blocks: tuple[int, ...] = option(
        (2, 2, 3, 3, 3),
        help="convolutions of each stage; every stage halves the image at its end",
        low=1,
        nonempty=True,
    )
    stem_stride: int = option(
        1, help="stride of the first convolution; 2 halves the image at once, for a quarter of the work", low=1
    )
    head: tuple[int, ...] = option(
        (1024, 1024), help="widths of the hidden layers between the flattened image and the outputs", low=1
    )

    @classmethod
    def reduced(cls) -> Vgg16:
        """All sixteen layers at a size that one core trains on some 1500 images of 64x64 pixels a second."""
        return cls(width=8, stem_stride=2, head=(128, 128))

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stage1``... (each ``block1``..., ``pool``), ``flatten``, ``hidden1``..., ``head``."""
        shrinks = self.stem_stride * 2 ** len(self.blocks)
        why = f"a vgg16 of {len(self.blocks)} stages divides the image's sides by {shrinks}"
        c_in, height, width = image_shape(sample_shape, "vgg16", shrinks, why)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, count in enumerate(self.blocks):
            c_out = self.width * min(2**index, _WIDEST)
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, count + 1):
                first = index == 0 and number == 1
                stage[f"block{number}"] = convolution(c_in, c_out, self.stem_stride if first else 1)
                c_in = c_out
            stage["pool"] = nn.MaxPool2d(2)
            layers[f"stage{index + 1}"] = nn.Sequential(stage)
        layers["flatten"] = nn.Flatten()
        pixels = _side(height, self.stem_stride, len(self.blocks)) * _side(width, self.stem_stride, len(self.blocks))
        layers.update(head(c_in * pixels, self.head, classes))
        return nn.Sequential(layers)


def _side(pixels: int, stride: int, pools: int) -> int:
    """Pixels of a side after the stem and all pools: the stem rounds up, a pool rounds down."""
    return -(-pixels // stride) >> pools
