"""Policies over bounded continuous actions: any network, with a normal distribution squashed by tanh as its output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.errors import UserError
from replastic.networks._network import Network, build
from replastic.seeds import derive

LOG_STD = (-10.0, 2.0)
"""Least and largest logarithm of a standard deviation, those of SimBa's public code."""
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_unwatched = torch._C.DisableTorchFunction
"""A block whose torch calls no `TorchFunctionMode` sees."""


class GaussianHead(nn.Module):
    """Two layers beside each other, ``mean`` and ``log_std``: (B, features) to (B, 2 A), means first.

    The second half is not yet within `LOG_STD`: `TanhGaussian` brings it there.
    """

    def __init__(self, mean: nn.Linear, log_std: nn.Linear) -> None:
        super().__init__()
        self.mean = mean
        self.log_std = log_std

    def forward(self, features: Tensor) -> Tensor:
        """Means and raw log standard deviations."""
        return torch.cat((self.mean(features), self.log_std(features)), dim=-1)


def policy(network: Network, observation_shape: Sequence[int], actions: int, seed: int) -> nn.Module:
    """A network of that architecture whose ``head`` is a `GaussianHead`; on the CPU, drawn from `seed`.

    Args:
        network: The architecture; its last layer is an `nn.Linear` called ``head``.
        observation_shape: Shape of one observation.
        actions: Dimensions of an action (A).
        seed: Seed of the draw.

    Raises:
        UserError: The observations do not fit the network, or it has no such head.
    """
    module = build(network, observation_shape, actions, seed)
    second = build(network, observation_shape, actions, derive(seed, "log_std"))
    heads = [getattr(part, "head", None) for part in (module, second)]
    mean, log_std = heads
    if not isinstance(mean, nn.Linear) or not isinstance(log_std, nn.Linear):
        raise UserError(f"a policy needs a network that ends with a Linear called head; {network.name} has none")
    module.head = GaussianHead(mean, log_std)
    return module


class TanhGaussian:
    """tanh(u), u normal with independent components: a distribution over (-1, 1)^A for each row.

    Who watches the activation functions of a network does not see these: outputs are no hidden units.

    The log standard deviation is lo + (hi - lo) (1 + tanh(raw)) / 2 with `LOG_STD`.

    Reference: Haarnoja et al. (2018), appendix C; the bounds as in the public code of SimBa (Lee et al. 2025).

    Args:
        outputs: Means and raw log standard deviations, (B, 2 A).
    """

    def __init__(self, outputs: Tensor) -> None:
        self.mean, raw = outputs.chunk(2, dim=-1)
        least, most = LOG_STD
        with _unwatched():
            self.log_std = torch.tanh(raw) * (0.5 * (most - least)) + 0.5 * (most + least)

    def mode(self) -> Tensor:
        """Tanh of the means, (B, A): the action without noise."""
        with _unwatched():
            return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log densities; differentiable.

        Args:
            noise: Standard normal draws, (B, A).

        Returns:
            Actions (B, A), and the log density of each (B,), in nats. It is accurate where tanh saturates, too:
            log(1 - tanh(u)^2) is taken as 2 (log 2 - u - softplus(-2 u)).
        """
        with _unwatched():
            u = torch.addcmul(self.mean, noise, self.log_std.exp())
            half = torch.sub(u + functional.softplus(-2 * u), self.log_std, alpha=0.5)
            half = torch.addcmul(half, noise, noise, value=-0.25)
            constant = u.shape[-1] * (_HALF_LOG_TAU + 2 * math.log(2))
            return torch.tanh(u), 2 * torch.sum(half, dim=-1) - constant
