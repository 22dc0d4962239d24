"""Adapters (LoRA): a product of two thin matrices beside the weight of a Linear, which is trained instead of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replastic.seeds import generator


class LowRank(nn.Linear):
    """Computes W x + b + scale B A x. W and b are those of the Linear it takes the place of, under their old names.

    Reference: Hu et al. (2022), section 4.1. A is uniform in +-1 / sqrt(d_in), as in their code and in peft.

    Shapes: ``lora_A.weight`` (rank, d_in), ``lora_B.weight`` (d_out, rank); (B, ..., d_in) -> (B, ..., d_out).

    Args:
        base: The Linear.
        rank: Of the product.
        scale: Factor on it.
        draw: For A, uniform in +-1 / sqrt(d_in); B is zero, so that nothing changes at first.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, draw: torch.Generator) -> None:
        nn.Module.__init__(self)  # that of Linear would draw new weights
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        drawn = torch.empty(rank, base.in_features).uniform_(-1.0, 1.0, generator=draw) / base.in_features**0.5
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


def adapt(model: nn.Module, rank: int, scale: float, seed: int) -> None:
    """Put adapters beside every Linear in the blocks of a network, in place: those in its lists of modules."""
    for path, blocks in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]:
        for name, module in list(blocks.named_modules()):
            if isinstance(module, nn.Linear):
                draw = generator(seed, "adapter", f"{path}.{name}")
                blocks.set_submodule(name, LowRank(module, rank, scale, draw))


def train_adapters(model: nn.Module, alone: bool) -> None:
    """Let the adapters learn and freeze all else, or the other way round."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(("lora_A.weight", "lora_B.weight")) == alone)


def _linear(weight: Tensor) -> nn.Linear:
    """A Linear without bias that has this weight."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight)
    return made
