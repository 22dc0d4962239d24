"""Convolutional networks without padding, as agents use them: stages of convolution and ReLU; hidden layers; head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from replastic.networks._layers import NORMS, image_shape

Kernel = tuple[int, int]
"""Side of a square kernel, and its stride."""


def least_side(kernels: Sequence[Kernel]) -> int:
    """Pixels a side that images need at least, so that one is left in the end."""
    side = 1
    for size, stride in reversed(kernels):
        side = (side - 1) * stride + size
    return side


def conv_stages(
    network: str,
    sample_shape: Sequence[int],
    outputs: int,
    *,
    kernels: Sequence[Kernel],
    channels: Sequence[int],
    hidden: Sequence[int],
    norm: str,
) -> nn.Sequential:
    """Blocks ``stage1``, ... (``conv``, ``norm`` if any, ``relu``), ``flatten``, ``hidden1``, ... , ``head``.

    Args:
        network: What to call the network in an error.
        sample_shape: Channels, height and width of an input.
        outputs: Of the last Linear.
        kernels: Of the stages.
        channels: That the stages give, as many as kernels.
        hidden: Widths of the hidden layers (each ``linear``, ``norm`` if any, ``relu``).
        norm: ``none``, or ``layer``: before each ReLU, over channels and pixels or over units.

    Raises:
        UserError: The inputs are no images, or too small.
    """
    least = least_side(kernels)
    c_in, height, width = image_shape(sample_shape, network, least, f"{network} shrinks images step by step")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, ((size, stride), c_out) in enumerate(zip(kernels, channels, strict=True), start=1):
        stage = OrderedDict[str, nn.Module](conv=nn.Conv2d(c_in, c_out, size, stride))
        if norm == "layer":
            stage["norm"] = NORMS["layer"](c_out)
        layers[f"stage{index}"] = nn.Sequential(OrderedDict(stage, relu=nn.ReLU()))
        c_in, height, width = c_out, (height - size) // stride + 1, (width - size) // stride + 1
    layers["flatten"] = nn.Flatten()
    features = c_in * height * width
    for index, units in enumerate(hidden, start=1):
        block = OrderedDict[str, nn.Module](linear=nn.Linear(features, units))
        if norm == "layer":
            block["norm"] = nn.LayerNorm(units)
        layers[f"hidden{index}"] = nn.Sequential(OrderedDict(block, relu=nn.ReLU()))
        features = units
    layers["head"] = nn.Linear(features, outputs)
    return nn.Sequential(layers)
