"""An actor and its critics as one model, with the names that recipes, reports and methods see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from replastic.networks._network import Network, build
from replastic.networks._policies import TanhGaussian, policy
from replastic.probes.units import UnitGroup, UnitSlice, unit_groups
from replastic.seeds import derive

Act = Callable[[Tensor], Tensor]
"""Takes actions (B, A) from the outputs of the actor, (B, 2 A)."""


def mode(outputs: Tensor) -> Tensor:
    """The action without noise."""
    return TanhGaussian(outputs).mode()


class Critics(nn.Module):
    """Networks ``q1``, ``q2``... that value the same: (B, observation and action) to (critics, B)."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        for number, network in enumerate(networks, start=1):
            self.add_module(f"q{number}", network)

    def forward(self, inputs: Tensor) -> Tensor:
        """The value that each critic gives."""
        return torch.stack([network(inputs).squeeze(-1) for network in self.children()])


class ActorCritic(nn.Module):
    """``actor`` and ``critic``: observations (B, *shape) to the values of what the actor does, (critics, B).

    Args:
        actor: Observations to means and raw log standard deviations of actions.
        critic: Flat observations beside actions to values.
        shape: Of one observation.
        actions: Numbers of an action.
    """

    def __init__(self, actor: nn.Module, critic: Critics, shape: Sequence[int], actions: int) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic
        self._shape, self._actions = tuple(shape), actions

    def forward(self, observations: Tensor, actions: Tensor | Act = mode) -> Tensor:
        """Values, (critics, B).

        Args:
            observations: (B, *shape).
            actions: Those taken, (B, A), or how to take them from what the actor gives.
        """
        taken = actions if isinstance(actions, Tensor) else actions(self.actor(observations))
        values: Tensor = self.critic(torch.cat((observations.flatten(1), taken), dim=1))
        return values

    def unit_groups(self) -> list[UnitGroup]:
        """Hidden units of each network: together they run more than once in an update, and cannot be traced as one."""
        like = next(self.parameters())
        width = math.prod(self._shape) + self._actions
        parts = {"actor": (self.actor, self._shape)}
        parts |= {f"critic.{name}": (module, (width,)) for name, module in self.critic.named_children()}
        found = []
        for name, (module, shape) in parts.items():
            groups = unit_groups(module, torch.zeros(2, *shape, dtype=like.dtype, device=like.device)).groups
            found += [_below(name, group) for group in groups]
        return found


def actor_critic(
    actor: Network, critic: Network, shape: Sequence[int], actions: int, seed: int, *, critics: int = 2
) -> ActorCritic:
    """Networks on the CPU, each drawn from a seed of its own.

    Args:
        actor: Architecture of the actor.
        critic: Architecture of each critic.
        shape: Of one observation.
        actions: Numbers of an action.
        seed: Seed of all draws.
        critics: How many there are.

    Raises:
        UserError: Observations or actions do not fit an architecture.
    """
    inputs = (math.prod(shape) + actions,)
    values = [build(critic, inputs, 1, derive(seed, "critic", number)) for number in range(critics)]
    return ActorCritic(policy(actor, shape, actions, derive(seed, "actor")), Critics(values), shape, actions)


def _below(name: str, group: UnitGroup) -> UnitGroup:
    """A group of a network by its names in the model."""

    def renamed(part: UnitSlice) -> UnitSlice:
        bias = None if part.bias is None else f"{name}.{part.bias}"
        return replace(part, tensor=f"{name}.{part.tensor}", bias=bias)

    incoming, outgoing = (tuple(map(renamed, parts)) for parts in (group.incoming, group.outgoing))
    return replace(group, name=f"{name}.{group.name}", incoming=incoming, outgoing=outgoing)
