"""Small convolutional network with batch normalisation, for images of about 8x8 to 32x32 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from replastic.networks._layers import convolution, image_shape
from replastic.networks._network import Network, register
from replastic.options import option


@register("convnet")
@dataclass(frozen=True, kw_only=True)
class ConvNet(Network):
    """Stages of 3x3 convolution, batch normalisation and ReLU, each but the first halving the image; mean; head."""

    channels: tuple[int, ...] = option((32, 64, 64), help="channels of the stages", low=1, nonempty=True)

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stage1``, ``stage2``, ... (each ``conv``, ``norm``, ``relu``), ``pool``, ``flatten``, ``head``."""
        shrinks = 2 ** (len(self.channels) - 1)
        why = f"a convnet of {len(self.channels)} stages divides the image's sides by {shrinks}"
        sizes = (image_shape(sample_shape, "convnet", shrinks, why)[0], *self.channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (c_in, c_out) in enumerate(pairwise(sizes), start=1):
            layers[f"stage{index}"] = convolution(c_in, c_out, stride=1 if index == 1 else 2)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["head"] = nn.Linear(sizes[-1], classes)
        return nn.Sequential(layers)
