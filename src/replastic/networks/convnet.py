"""Small convolutional network for images of about 8x8 to 32x32 pixels, with the options of the MLP."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replastic.errors import UserError
from replastic.networks._activations import ACTIVATIONS
from replastic.networks._layers import NORMS, ChannelsAt, image_shape
from replastic.networks._network import Network, register
from replastic.networks._orthonormal import keep_orthonormal
from replastic.options import option


@register("convnet")
@dataclass(frozen=True, kw_only=True)
class ConvNet(Network):
    """Stages of 3x3 convolution, norm and activation function, each but the first halving the image; mean; head.

    With ``weights=orthonormal`` a stage mixes the channels of each pixel by an orthonormal matrix, and halves the image
    by moving every 2x2 pixels into four times the channels. The head then reads all pixels instead of their mean. With
    ``activation=maxmin`` or ``groupsort`` and ``norm=none`` all stages together are an isometry almost everywhere, if
    the first has no fewer channels than the image, and each other one four times those of the stage before.

    Orthonormal rows of a 3x3 kernel, seen as a (c_out, 9 c_in) matrix, would not do: neighbouring outputs share inputs,
    so that the singular values of the whole convolution are those of its Fourier transform, frequency by frequency.
    They lie between 0 and 3, and are 1 only if the rows are orthogonal to their shifted copies, too.

    Reference: almost everywhere isometric networks, Rosseau et al. (2026) and Anil et al. (2019). The stages are ours.
    """

    channels: tuple[int, ...] = option((32, 64, 64), help="channels of the stages", low=1, nonempty=True)
    activation: str = option(
        "relu",
        help="activation function; crelu and fourier give two outputs for each channel",
        choices=tuple(ACTIVATIONS),
    )
    norm: str = option(
        "batch",
        help="norm before each activation function; layer is over channels and pixels, group over up to 8 groups",
        choices=tuple(NORMS),
    )
    weights: str = option(
        "free",
        help="orthonormal: no kernels, but matrices over channels that stay so by a parametrization; biases "
        "and the head are free",
        choices=("free", "orthonormal"),
    )

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stage1``, ``stage2``, ... (``conv`` or ``linear``, ``norm``, the activation's name), ``head``."""
        stages = len(self.channels)
        shrinks = 2 ** (stages - 1)
        why = f"a convnet of {stages} stages divides the image's sides by {shrinks}"
        c_in, height, width = image_shape(sample_shape, "convnet", shrinks, why)
        orthonormal = self.weights == "orthonormal"
        if orthonormal and (height % shrinks or width % shrinks):
            raise UserError(
                f"{why}; with weights=orthonormal both must be multiples of that, and the images have {height}x{width}"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, c_out in enumerate(self.channels, start=1):
            make = self._orthonormal if orthonormal else self._convolution
            layers[f"stage{index}"], c_in = make(c_in, c_out, halve=index > 1)
        if not orthonormal:
            layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        pixels = (height // shrinks) * (width // shrinks) if orthonormal else 1
        layers["head"] = nn.Linear(c_in * pixels, classes)
        return nn.Sequential(layers)

    def _convolution(self, c_in: int, c_out: int, *, halve: bool) -> tuple[nn.Module, int]:
        """A stage of 3x3 convolution, and the channels that it gives."""
        conv = nn.Conv2d(c_in, c_out, 3, stride=2 if halve else 1, padding=1, bias=self.norm == "none")
        return self._stage(OrderedDict(conv=conv), c_out)

    def _orthonormal(self, c_in: int, c_out: int, *, halve: bool) -> tuple[nn.Module, int]:
        """A stage of one orthonormal matrix at every pixel, and the channels that it gives."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if halve:
            layers["unshuffle"], c_in = nn.PixelUnshuffle(2), 4 * c_in
        linear = nn.Linear(c_in, c_out)
        keep_orthonormal(linear)
        layers |= {"last": ChannelsAt(-1), "linear": linear, "first": ChannelsAt(1)}
        return self._stage(layers, c_out)

    def _stage(self, layers: OrderedDict[str, nn.Module], channels: int) -> tuple[nn.Module, int]:
        if self.norm != "none":
            layers["norm"] = NORMS[self.norm](channels)
        make, outputs = ACTIVATIONS[self.activation]
        layers[self.activation] = make()
        return nn.Sequential(layers), outputs * channels
