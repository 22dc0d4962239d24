"""Pieces that several networks are made of, with the same names of blocks everywhere."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from replastic.errors import UserError


def convolution(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution without bias that keeps the size (divided by `stride`), then ``norm`` and ``relu``."""
    conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out), relu=nn.ReLU()))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "group": lambda channels: nn.GroupNorm(math.gcd(8, channels), channels),
}
"""Norms of images (B, C, H, W) by name, each made for a number of channels."""


class ChannelsAt(nn.Module):
    """Moves the channels of images: from axis 1 to the last (``axis=-1``), or from the last to axis 1.

    Args:
        axis: Where they go, -1 or 1; they come from the other.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W, C), or back."""
        return x.movedim(-self.axis, self.axis)

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


def head(d_in: int, hidden: Sequence[int], classes: int) -> OrderedDict[str, nn.Module]:
    """Blocks ``hidden1``, ``hidden2``, ... (each ``linear`` and ``relu``), and the last Linear ``head``.

    Args:
        d_in: Features that come in.
        hidden: Widths of the hidden layers; none gives the last Linear alone.
        classes: Outputs.
    """
    widths = (d_in, *hidden)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        layers[f"hidden{index}"] = nn.Sequential(OrderedDict(linear=nn.Linear(before, after), relu=nn.ReLU()))
    layers["head"] = nn.Linear(widths[-1], classes)
    return layers


def image_shape(sample_shape: Sequence[int], network: str, least: int, why: str) -> tuple[int, int, int]:
    """Channels, height and width of an image.

    Args:
        sample_shape: Shape of one input.
        network: What to call the network in an error.
        least: Pixels that a side needs.
        why: The reason, as the beginning of a sentence.

    Raises:
        UserError: It is no image, or a side is shorter than `least`.
    """
    if len(sample_shape) != 3:
        raise UserError(f"{network} needs images (channels, height, width), got samples of shape {tuple(sample_shape)}")
    channels, height, width = sample_shape
    if min(height, width) < least:
        raise UserError(
            f"{why}, which needs at least {least} pixels a side; the images have {min(height, width)}: "
            "take larger images or a smaller network"
        )
    return channels, height, width
