"""Distributions over actions, from the outputs of a network: categorical, and normal with a spread of its own."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from replastic.envs import ActionSpace

_LEAST = 1e-12
"""Least probability of which a quantile is taken."""


class Policy(Protocol):
    """A distribution over actions for each row of outputs, (B, K)."""

    def drawn(self, outputs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and the logarithms of their probabilities, (B,), from numbers in [0, 1): one for each value."""

    def judged(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities (or log densities) of actions and the entropies, (B,) each, in nats."""

    def mode(self, outputs: Tensor) -> Tensor:
        """The most probable actions."""


class Categorical:
    """Actions to choose from; outputs are their logits."""

    def drawn(self, outputs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """By the inverse of the distribution function."""
        log_probabilities = outputs.log_softmax(1)
        below = log_probabilities.double().exp().cumsum(1)[:, :-1] <= numbers[:, None]
        actions = below.sum(1)
        return actions, log_probabilities.gather(1, actions[:, None])[:, 0]

    def judged(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy`."""
        log_probabilities = outputs.log_softmax(1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
        return log_probabilities.gather(1, actions[:, None])[:, 0], entropy

    def mode(self, outputs: Tensor) -> Tensor:
        """The ones with the largest logits."""
        return outputs.argmax(1)


class Normal:
    """Actions that are values, independent; outputs are means and then logarithms of standard deviations.

    Values beyond -1 and 1 are cut off by the environment; their densities are those of the values before that.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def drawn(self, outputs: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """By the inverse of the distribution function."""
        mean, log_std = outputs.chunk(2, 1)
        normal = torch.special.ndtri(numbers.view_as(mean).clamp(_LEAST, 1 - _LEAST)).to(mean.dtype)
        actions = (mean + log_std.exp() * normal).view(-1, *self._shape)
        return actions, self.judged(outputs, actions)[0]

    def judged(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Policy`."""
        mean, log_std = outputs.chunk(2, 1)
        apart = (actions.flatten(1) - mean) / log_std.exp()
        constant = 0.5 * math.log(2 * math.pi)
        return (-0.5 * apart.square() - log_std - constant).sum(1), (log_std + 0.5 + constant).sum(1)

    def mode(self, outputs: Tensor) -> Tensor:
        """The means."""
        return outputs.chunk(2, 1)[0].reshape(-1, *self._shape)


def policy_of(space: ActionSpace) -> Policy:
    """The distribution that suits the actions of an environment."""
    return Categorical() if space.discrete else Normal(space.shape)
