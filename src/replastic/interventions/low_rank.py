"""A Linear whose weight is frozen, with a product of two thin matrices beside it that is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRank(nn.Linear):
    """Computes W x + b + scale B A x. W and b are those of the Linear it takes the place of, under their old names.

    Shapes: ``lora_A.weight`` (rank, d_in), ``lora_B.weight`` (d_out, rank); (B, ..., d_in) -> (B, ..., d_out).

    Args:
        base: The Linear.
        rank: Of the product.
        scale: Factor on it.
        generator: Draws A, uniform in +-1 / sqrt(d_in); B is zero, so that nothing changes at first.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # that of Linear would draw new weights
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        drawn = torch.empty(rank, base.in_features).uniform_(-1.0, 1.0, generator=generator) / base.in_features**0.5
        self.lora_A = _linear(drawn.to(base.weight))
        self.lora_B = _linear(base.weight.new_zeros(base.out_features, rank))
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        """The sum."""
        through: Tensor = self.lora_B(self.lora_A(input))
        return super().forward(input) + self.scale * through

    def merged(self) -> Tensor:
        """W + scale B A, (d_out, d_in), detached: the weight of the one Linear that computes the same."""
        return (self.weight + self.scale * self.lora_B.weight @ self.lora_A.weight).detach()


def _linear(weight: Tensor) -> nn.Linear:
    """A Linear without bias that has this weight."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight)
    return made
