"""Fully connected network with ReLU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replastic.networks._layers import head
from replastic.networks._network import Network, register
from replastic.options import option


@register("mlp")
@dataclass(frozen=True, kw_only=True)
class Mlp(Network):
    """Linear layers with ReLU between them; inputs of any shape are flattened."""

    hidden: tuple[int, ...] = option((256, 256, 256), help="widths of the hidden layers", low=1, nonempty=True)

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``flatten``, ``hidden1``, ``hidden2``, ... (each ``linear`` and ``relu``), ``head``."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        layers.update(head(math.prod(sample_shape), self.hidden, classes))
        return nn.Sequential(layers)
