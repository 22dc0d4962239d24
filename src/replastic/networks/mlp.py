"""Fully connected network: ReLU, or another activation function, a norm, and orthonormal weights if asked for."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replastic.networks._activations import ACTIVATIONS
from replastic.networks._network import Network, register
from replastic.networks._orthonormal import keep_orthonormal, start_orthonormal
from replastic.options import option


@register("mlp")
@dataclass(frozen=True, kw_only=True)
class Mlp(Network):
    """Linear layers with an activation function between them; inputs of any shape are flattened.

    With ``weights=orthonormal`` and ``activation=maxmin`` or ``groupsort`` all hidden layers together are an isometry
    almost everywhere, if none is narrower than the input (Rosseau et al. 2026; Anil et al. 2019).
    """

    hidden: tuple[int, ...] = option((256, 256, 256), help="widths of the hidden layers", low=1, nonempty=True)
    activation: str = option(
        "relu", help="activation function; crelu and fourier give two outputs for each unit", choices=tuple(ACTIVATIONS)
    )
    norm: str = option("none", help="norm before each activation function", choices=("none", "layer"))
    weights: str = option(
        "free",
        help="orthonormal: hidden matrices stay so by a parametrization, biases and the head are free; "
        "orthonormal_start: all matrices begin so (rows or columns, the fewer), biases at 0, and are free from there",
        choices=("free", "orthonormal", "orthonormal_start"),
    )

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``flatten``, ``hidden1``, ... (each ``linear``, ``norm`` if any, the activation's name), ``head``."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = math.prod(sample_shape)
        make, outputs = ACTIVATIONS[self.activation]
        for index, units in enumerate(self.hidden, start=1):
            layers[f"hidden{index}"] = self._block(width, units, make())
            width = outputs * units
        layers["head"] = head = nn.Linear(width, classes)
        if self.weights == "orthonormal_start":
            start_orthonormal(head)
        return nn.Sequential(layers)

    def _block(self, d_in: int, units: int, activation: nn.Module) -> nn.Sequential:
        linear = nn.Linear(d_in, units)
        if self.weights == "orthonormal":
            keep_orthonormal(linear)
        elif self.weights == "orthonormal_start":
            start_orthonormal(linear)
        block: OrderedDict[str, nn.Module] = OrderedDict(linear=linear)
        if self.norm == "layer":
            block["norm"] = nn.LayerNorm(units)
        block[self.activation] = activation
        return nn.Sequential(block)
