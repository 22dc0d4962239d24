"""Small convolutional network with batch normalisation, for images of about 8x8 to 32x32 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from replastic.errors import UserError
from replastic.networks._network import Network
from replastic.networks._registry import register


@register("convnet")
@dataclass(frozen=True, kw_only=True)
class ConvNet(Network):
    """Stages of 3x3 convolution, batch normalisation and ReLU, each but the first halving the image; mean; head."""

    channels: tuple[int, ...] = (32, 64, 64)
    """Channels of the stages."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise UserError(f"channels must name at least one number of 1 or more, got {self.channels}")

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stage1``, ``stage2``, ... (each ``conv``, ``norm``, ``relu``), ``pool``, ``flatten``, ``head``."""
        if len(sample_shape) != 3:
            raise UserError(f"a convnet needs images (channels, height, width), got samples of shape {sample_shape}")
        shortest, halvings = min(sample_shape[1:]), len(self.channels) - 1
        if shortest < 2**halvings:
            raise UserError(
                f"{len(self.channels)} stages halve the image {halvings} times, "
                f"which needs at least {2**halvings} pixels a side; the images have {shortest}"
            )
        sizes = (sample_shape[0], *self.channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (c_in, c_out) in enumerate(pairwise(sizes), start=1):
            conv = nn.Conv2d(c_in, c_out, 3, stride=1 if index == 1 else 2, padding=1, bias=False)
            layers[f"stage{index}"] = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out), relu=nn.ReLU()))
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["head"] = nn.Linear(sizes[-1], classes)
        return nn.Sequential(layers)
