"""Fully connected network with ReLU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replastic.errors import UserError
from replastic.networks._layers import head
from replastic.networks._network import Network, register


@register("mlp")
@dataclass(frozen=True, kw_only=True)
class Mlp(Network):
    """Linear layers with ReLU between them; inputs of any shape are flattened."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"hidden must name at least one width of 1 or more, got {self.hidden}")

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``flatten``, ``hidden1``, ``hidden2``, ... (each ``linear`` and ``relu``), ``head``."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        layers.update(head(math.prod(sample_shape), self.hidden, classes))
        return nn.Sequential(layers)
