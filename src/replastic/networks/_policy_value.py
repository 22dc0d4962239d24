"""A policy and a value function, two networks side by side as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PolicyAndValue(nn.Module):
    """Observations (B, *shape) to outputs (B, K + 1): what the policy's distribution is made of, and last the value.

    Of actions to choose from these are their logits; of actions that are values the means and then the logarithms of
    the standard deviations, which are parameters of their own and depend on no observation.

    Args:
        policy: Observations to logits or means.
        value: Observations to (B, 1).
        spread: Numbers of an action that is values; 0 for actions to choose from.
    """

    def __init__(self, policy: nn.Module, value: nn.Module, spread: int = 0) -> None:
        super().__init__()
        self.policy, self.value = policy, value
        self.log_std = nn.Parameter(torch.zeros(spread)) if spread else None

    def forward(self, observations: Tensor) -> Tensor:
        """See the class."""
        return torch.cat((self.distribution(observations), self.value(observations)), 1)

    def distribution(self, observations: Tensor) -> Tensor:
        """The outputs of the policy alone, (B, K)."""
        outputs: Tensor = self.policy(observations)
        if self.log_std is None:
            return outputs
        return torch.cat((outputs, self.log_std.expand_as(outputs)), 1)
