"""DQN and double DQN: an agent that learns the value of each action from a replay, by a target network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import networks
from replastic.envs import Transitions
from replastic.errors import UserError
from replastic.learners._agent import RETURN
from replastic.learners._games import Draws, Games
from replastic.learners._learner import Descend
from replastic.learners._off_policy import Q_MAGNITUDE, OffPolicyAgent, OffPolicyTask
from replastic.learners._task import register
from replastic.learners._trainer import Trainer
from replastic.options import option
from replastic.probes import undisturbed
from replastic.probes.trainee import copied
from replastic.seeds import derive
from replastic.weights.followers import Followers

_SEEN = 256
"""Transitions of which the magnitude of Q is taken."""
Loss = Literal["huber", "squared"]


@register("dqn", reference="https://doi.org/10.1038/nature14236")
@dataclass(frozen=True, kw_only=True)
class Dqn(OffPolicyTask):
    """Deep Q-learning: Q(s, a) is drawn to r + gamma max_a' Q_target(s', a'), by batches of the replay.

    With `double` the network chooses a' and the target network gives its value. Actions are random with probability
    epsilon, which falls linearly after the warm-up. The target network is a copy of the network, made anew every
    `target_every` updates. Before each phase but the first `copy_target` makes it anew for every method alike; without
    it the target network follows what a method rewrites, and stays what it was where a method rewrites nothing.

    Reference: Mnih et al. (2015), algorithm 1; double: van Hasselt et al. (2016). Settings of FIRE (Han et al., ICLR
    2026), table 3, are in the benchmark ``atari_dqn``.
    """

    double: bool = option(False, help="let the network choose the next action, and the target network value it")
    td_loss: Loss = option("huber", help="of the temporal-difference error")
    adam_eps: float = option(1.5e-4, help="epsilon of Adam", above=0)
    target_every: int = option(1000, help="updates between two copies of the network to the target network", low=1)
    copy_target: bool = option(True, help="copy it at boundaries as well, for every method alike")
    first_epsilon: float = option(1.0, help="probability of a random action after the warm-up", low=0, high=1)
    epsilon: float = option(0.1, help="probability to which that falls", low=0, high=1)
    epsilon_steps: int = option(10_000, help="interactions over which it falls", low=1)
    restart_epsilon: bool = option(False, help="begin with the first epsilon in every environment")
    judged_epsilon: float = option(0.001, help="probability of a random action in evaluation", low=0, high=1)

    def learner(self, source: Games, seed: int, trainer: Trainer, device: str = "cpu") -> DqnAgent:
        """A new network and an empty replay."""
        if not source.action.discrete:
            raise UserError(
                f"{self.name} chooses among actions, and {self.stages[0]} takes values of shape {source.action.shape}: "
                "take another environment or another agent"
            )
        return DqnAgent(self, source, seed, trainer, device)

    def _with(self, **changes: Any) -> Dqn:
        return replace(self, **changes)


class DqnAgent(OffPolicyAgent):
    """A Q-network: observations (B, *shape) to values (B, actions)."""

    task: Dqn
    scores: ClassVar[tuple[str, ...]] = (RETURN, Q_MAGNITUDE)

    def __init__(self, task: Dqn, games: Games, seed: int, trainer: Trainer, device: str) -> None:
        super().__init__(task, games, seed, trainer, device)
        self.model = self._build(derive(seed, "network"))
        self.target: dict[str, Tensor] = {}
        """Weights of the target network, by their names in the model."""
        self.copy_target()
        self._explored = Draws(2 * task.copies, seed, "exploration")

    def groups(self) -> Mapping[str, list[dict[str, Any]]]:
        """One optimizer with its own epsilon."""
        own = {"eps": self.task.adam_eps} if self.trainer.optimizer == "adam" else {}
        return {"": [{"params": list(self.model.parameters()), **own}]}

    def followers(self) -> Followers:
        """The target network."""
        return {"target": self.target}

    def renew(self, written: Collection[str]) -> None:
        """The target network gets the new modules, and keeps the weights that were not rewritten."""
        self.copy_target({name: value for name, value in self.target.items() if name not in written})

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """State dict of a network made from another seed."""
        return self._build(seed).state_dict()

    def begin(self, phase: int, done: int) -> None:
        """Also copy the target network, where that is asked for; it gets what a method has added to the network."""
        super().begin(phase, done)
        self.copy_target(None if phase and not done and self.task.copy_target else self.target)

    def chance(self) -> float:
        """Probability of a random action now."""
        task, begun = self.task, self.here if self.task.restart_epsilon else self.interactions
        share = min(1.0, max(0, begun - task.learning_starts) / task.epsilon_steps)
        return task.first_epsilon + share * (task.epsilon - task.first_epsilon)

    def actions(self, observations: Tensor) -> Tensor:
        """The best ones, or with some probability others."""
        copies, count = self.task.copies, self.games.action.count
        drawn = self._explored(self.interactions // copies)
        others, explores = (drawn[copies:] * count).long(), drawn[:copies] < self.chance()
        if bool(explores.all()):
            return others
        with torch.no_grad():
            best = self.model(self.inputs(observations)).argmax(1).cpu()
        return torch.where(explores, others, best)

    def judged_actions(self, observations: Tensor, draw: torch.Generator) -> Tensor:
        """The best ones, or with a small probability others."""
        best: Tensor = self.model(observations).argmax(1).cpu()
        drawn = torch.rand(2, len(best), generator=draw)
        others = (drawn[1] * self.games.action.count).long()
        return torch.where(drawn[0] < self.task.judged_epsilon, others, best)

    def ready(self, batch: Transitions) -> Transitions:
        """Also with observations as the network reads them, for methods that call it with a batch."""
        found = super().ready(batch)
        seen, follows = self.inputs(found.observations), self.inputs(found.next_observations)
        return found._replace(observations=seen, next_observations=follows)

    def learn(self, batch: Transitions, descend: Descend) -> Tensor:
        """One step of the optimizer, and now and then a new target network."""
        found = descend(lambda: [self.loss(self.model, batch)])
        if (self.updates + 1) % self.task.target_every == 0:
            self.copy_target()
        return found

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss of the temporal-difference errors of a batch of `Transitions`."""
        values = model(self.inputs(batch.observations)).gather(1, batch.actions[:, None])[:, 0]
        with torch.no_grad():
            follows = self.inputs(batch.next_observations)
            next_values = self.target_network(follows)
            if self.task.double:
                best = next_values.gather(1, model(follows).argmax(1, keepdim=True))[:, 0]
            else:
                best = next_values.amax(1)
            goals = batch.rewards + self.task.gamma * best.masked_fill(batch.terminated, 0.0)
        found = functional.smooth_l1_loss if self.task.td_loss == "huber" else functional.mse_loss
        return found(values, goals)

    @torch.no_grad()
    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """Also the mean of |Q(s, a)| over transitions of the replay."""
        batch = self.probe(phase, _SEEN)
        with undisturbed(self.model):
            values = self.model(self.inputs(batch.observations)).gather(1, batch.actions[:, None])
        return {**super().evaluate(phase, last=last), Q_MAGNITUDE: float(values.abs().mean())}

    def copy_target(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Make the target network anew, a copy of the network as it is, modules that a method has added among them.

        Args:
            values: Weights that it keeps; None for those of the network.
        """
        self.target_network = copied(self.model).requires_grad_(False).eval()
        if values is not None:
            self.target_network.load_state_dict(values, strict=False)
        self.target.clear()
        self.target.update(self.target_network.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Also the target network."""
        return {**super().state_dict(), **{f"target/{name}": value for name, value in self.target.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        saved = {name.removeprefix("target/"): value for name, value in state.items() if name.startswith("target/")}
        self.copy_target(saved)

    def _build(self, seed: int) -> nn.Module:
        games = self.games
        made = networks.build(self.task.network, games.observation.shape, games.action.count, seed)
        return made.to(self.device)
