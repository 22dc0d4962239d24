"""SimBa: residual blocks of a norm and a wide hidden layer, for the actors and critics of continuous control."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from replastic.networks._network import Network, register
from replastic.networks._orthonormal import start_orthonormal
from replastic.options import option

_EPSILON = 1e-6
"""Of the norms, as in flax; torch's own default is ten times as large."""
_WITHIN_TWO = 0.87962566103423978
"""Standard deviation of a standard normal that is cut off at two standard deviations."""


@register("simba", reference="https://arxiv.org/abs/2410.09754")
@dataclass(frozen=True, kw_only=True)
class Simba(Network):
    """A linear stem, residual blocks x + fc2(relu(fc1(norm(x)))), a norm and a head; inputs of any shape are flattened.

    The defaults are the critic of the paper; its actor has one block of width 128. Stem and head begin orthogonal, the
    two matrices of a block as He's normal draw (cut off at two standard deviations), biases at 0, as in the authors'
    public code. SimBa normalises observations by their running mean and variance: that is the learner's business.

    Reference: Lee et al. (2025), section 4 and table of hyperparameters; github.com/SonyResearch/simba.
    """

    recipe: ClassVar[str] = "paper-sac"

    width: int = option(512, help="features of the residual stream", low=1)
    blocks: int = option(2, help="residual blocks", low=1)
    expansion: int = option(4, help="hidden units of a block are this times the width", low=1)

    @classmethod
    def reduced(cls) -> Simba:
        """One block of width 128: the paper's actor, and a critic that a CPU can train."""
        return cls(width=128, blocks=1)

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Layers ``flatten``, ``stem``, ``block1``... (``norm``, ``fc1``, ``relu``, ``fc2``), ``norm``, ``head``."""
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        layers["stem"] = _orthogonal(math.prod(sample_shape), self.width)
        for number in range(1, self.blocks + 1):
            layers[f"block{number}"] = Block(self.width, self.expansion * self.width)
        layers["norm"] = nn.LayerNorm(self.width, eps=_EPSILON)
        layers["head"] = _orthogonal(self.width, classes)
        return nn.Sequential(layers)


class Block(nn.Module):
    """A norm, and a hidden layer with ReLU, added to the input.

    Args:
        width: Features of inputs and outputs.
        hidden: Units of the hidden layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.fc1 = _he_normal(width, hidden)
        self.relu = nn.ReLU()
        self.fc2 = _he_normal(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) to the same shape."""
        outputs: Tensor = x + self.fc2(self.relu(self.fc1(self.norm(x))))
        return outputs


def _orthogonal(d_in: int, d_out: int) -> nn.Linear:
    """A Linear whose rows or columns, the fewer, are orthonormal; bias 0."""
    linear = nn.Linear(d_in, d_out)
    start_orthonormal(linear)
    return linear


def _he_normal(d_in: int, d_out: int) -> nn.Linear:
    """A Linear with weights of variance 2 / d_in, drawn from a normal cut off at two standard deviations; bias 0."""
    linear = nn.Linear(d_in, d_out)
    std = math.sqrt(2 / d_in) / _WITHIN_TWO
    nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(linear.bias)
    return linear
