"""PPO: an agent that plays for a while, and then improves its policy on what it saw, within a bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import networks
from replastic.envs import Environment, Step
from replastic.errors import UserError
from replastic.learners._advantages import advantages
from replastic.learners._agent import Agent, AgentTask
from replastic.learners._games import Draws, Games, values_of
from replastic.learners._learner import Descend, Extent
from replastic.learners._policies import Policy, policy_of
from replastic.learners._task import register
from replastic.learners._trainer import Trainer
from replastic.networks import Network
from replastic.networks._policy_value import PolicyAndValue
from replastic.networks.mlp import Mlp
from replastic.options import option
from replastic.probes import undisturbed
from replastic.seeds import derive, generator

_TINY = 1e-8
"""Added to the standard deviation of advantages."""


class Played(NamedTuple):
    """Steps that were played, B of them: what a batch of an update holds."""

    observations: Tensor
    """(B, *shape)."""
    actions: Tensor
    """(B,) int64, or (B, *shape of an action) float32."""
    log_probabilities: Tensor
    """(B,), of the actions when they were taken."""
    advantages: Tensor
    """(B,), not normalised."""
    returns: Tensor
    """(B,): what the value function is drawn to."""

    def take(self, places: Tensor) -> Played:
        """Some of the steps."""
        return Played(*(part[places] for part in self))

    def to(self, device: str) -> Played:
        """The same on a device."""
        return Played(*(part.to(device) for part in self))


@register("ppo", reference="https://arxiv.org/abs/1707.06347")
@dataclass(frozen=True, kw_only=True)
class Ppo(AgentTask):
    """Proximal policy optimisation: plays `horizon` steps in every copy, then makes `epochs` passes over them.

    The loss of a batch is minus the mean of min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), plus `value_weight` times
    the mean squared error of the value, minus `entropy` times the mean entropy of the policy. A is the advantage, of
    mean 0 and standard deviation 1 in the batch. Policy and value are networks of their own under one optimizer.
    Evaluation takes the most probable action.

    Reference: Schulman et al. (2017), equations 7 and 9, with generalised advantage estimation. The value is not
    clipped. An episode that is cut off is continued by its value.
    """

    environment: str = option("gym/CartPole-v1", help="family/game; several, joined by +, follow each other")
    copies: int = option(8, help="copies of the environment that are stepped together", low=1)
    horizon: int = option(128, help="steps of each copy between two rounds of updates", low=2)
    epochs: int = option(4, help="passes over these steps in a round", low=1)
    trace: float = option(0.95, help="lambda of generalised advantage estimation", low=0, high=1)
    clip: float = option(0.2, help="how far the ratio of probabilities may leave 1", above=0)
    entropy: float = option(0.01, help="weight of the policy's entropy in the loss", low=0)
    value_weight: float = option(0.5, help="weight of the value's squared error in the loss", above=0)
    reward_scale: float = option(1.0, help="rewards are divided by it before they are learned from", above=0)
    network: Network = field(default_factory=lambda: Mlp(hidden=(64, 64), activation="tanh"))
    """Policy and value have one each."""

    def validate(self) -> None:
        """Every phase has a round."""
        super().validate()
        for phase in range(self.phases):
            if not self.rounds_of(phase):
                stretch = self.stretch(phase)
                raise UserError(
                    f"{self.name}: no update would be made from interaction {stretch.first} to {stretch.last}, as a "
                    f"round takes copies x horizon = {self.round} interactions: raise steps or lower horizon"
                )

    @property
    def round(self) -> int:
        """Interactions of a round."""
        return self.copies * self.horizon

    def rounds_of(self, phase: int) -> int:
        """Rounds of a phase."""
        _, first, last = self.stretch(phase)
        return last // self.round - first // self.round

    def learner(self, source: Games, seed: int, trainer: Trainer, device: str = "cpu") -> PpoAgent:
        """New networks."""
        return PpoAgent(self, source, seed, trainer, device)

    def _with(self, **changes: Any) -> Ppo:
        return replace(self, **changes)


class PpoAgent(Agent):
    """A policy and a value function under one optimizer."""

    task: Ppo
    model: PolicyAndValue

    def __init__(self, task: Ppo, games: Games, seed: int, trainer: Trainer, device: str) -> None:
        super().__init__(task, games, seed, trainer, device)
        self.policy: Policy = policy_of(games.action)
        self.model = self._build(derive(seed, "network"))
        self._drawn = Draws(task.copies * values_of(games.action), seed, "actions")
        self._played_steps: Played | None = None
        self._phase, self._done = 0, 0
        self._order: list[Tensor] = []
        """Places of the batches of this round that have yet to be taken."""

    @property
    def updates_of_round(self) -> int:
        """Updates between two times of playing."""
        return self.task.epochs * math.ceil(self.task.round / self.trainer.batch_size)

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """State dict of networks made from another seed."""
        return self._build(seed).state_dict()

    def extent(self, phase: int) -> Extent:
        """The updates of its rounds; evaluated at even distances, at the ends of rounds."""
        task, per = self.task, self.updates_of_round
        stretch, updates = task.stretch(phase), task.rounds_of(phase) * per
        every, before = task.steps / task.evaluations, stretch.first // task.round
        at = (round(every * number) for number in range(1, task.evaluations + 1))
        marks = {(n // task.round - before) * per for n in at if stretch.first < n < stretch.last}
        return Extent(
            updates=updates,
            marks=(*sorted(mark for mark in marks if 0 < mark < updates), updates),
            pass_updates=per // task.epochs,
            batch=self.trainer.batch_size,
            scores=self.scores,
            scored=task.episodes * task.longest,
        )

    def begin(self, phase: int, done: int) -> None:
        """Go to the phase's environment; in one that was left before, everything is as it was."""
        self._phase, self._done, self._order = phase, done, []
        self.enter(phase)

    def update(self, descend: Descend) -> Tensor:
        """Play, if the steps played before are used up; then one step of the optimizer on a batch of them."""
        if not self._order:
            self._played_steps = self._play(self.environment, self.task.horizon)
            self._order = self._orders(self.interactions)
        assert self._played_steps is not None
        batch = self._played_steps.take(self._order.pop(0)).to(self.device)
        self._done += 1
        return descend(lambda: [self.loss(self.model, batch)])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a batch of `Played`, see `Ppo`."""
        task = self.task
        outputs = model(self.inputs(batch.observations))
        found, values = outputs[:, :-1], outputs[:, -1]
        log_probabilities, entropy = self.policy.judged(found, batch.actions)
        better = batch.advantages
        if len(better) > 1:
            better = (better - better.mean()) / (better.std() + _TINY)
        ratio = torch.exp(log_probabilities - batch.log_probabilities)
        gain = torch.minimum(ratio * better, ratio.clamp(1 - task.clip, 1 + task.clip) * better).mean()
        return task.value_weight * functional.mse_loss(values, batch.returns) - gain - task.entropy * entropy.mean()

    def judged_actions(self, observations: Tensor, draw: torch.Generator) -> Tensor:
        """The most probable ones."""
        return self.policy.mode(self.model.distribution(observations)).cpu()

    def batches(self, phase: int) -> Batches:
        """One pass over the steps that were played last."""
        return Batches(self, derive(self.seed, "pass", phase))

    def probe(self, phase: int, samples: int) -> Played:
        """Some of the steps that were played last, drawn for this phase; all of them if they are fewer."""
        known = self.known(samples)
        draw = generator(self.seed, "probe", phase)
        return known.take(torch.randperm(len(known.actions), generator=draw)[:samples]).to(self.device)

    def known(self, samples: int) -> Played:
        """The steps that were played last; before any were, some that are played beforehand and forgotten."""
        if self._played_steps is not None:
            return self._played_steps
        environment = self._made(self.stage)
        with undisturbed(self.model):
            found = self._play(environment, max(2, math.ceil(samples / self.task.copies)), counted=False)
        environment.close()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Also the steps that were played last."""
        found = super().state_dict()
        if self._played_steps is not None:
            found |= {f"played/{name}": value for name, value in self._played_steps._asdict().items()}
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        held = {name.removeprefix("played/"): value for name, value in state.items() if name.startswith("played/")}
        self._played_steps = Played(**held) if held else None

    @torch.no_grad()
    def _play(self, environment: Environment, horizon: int, *, counted: bool = True) -> Played:
        """Play `horizon` steps in every copy; flat, copy by copy within each step."""
        seen, actions, likely, steps = [], [], [], list[Step]()
        first = self.interactions // self.task.copies
        for number in range(first, first + horizon):
            seen.append(environment.observations)
            outputs = self.model.distribution(self.inputs(seen[-1]))
            chosen, log_probabilities = self.policy.drawn(outputs, self._drawn(number).to(self.device))
            actions.append(chosen.cpu())
            likely.append(log_probabilities.cpu())
            steps.append(self.step(actions[-1]) if counted else environment.step(actions[-1]))
        values, follows = (self._values(of) for of in (seen, [step.next_observations() for step in steps]))
        better = advantages(
            torch.stack([step.rewards for step in steps]) / self.task.reward_scale,
            *(values, follows),
            torch.stack([step.terminated for step in steps]),
            torch.stack([step.ended for step in steps]),
            gamma=self.task.gamma,
            trace=self.task.trace,
        )
        parts = torch.stack(seen), torch.stack(actions), torch.stack(likely), better, better + values
        return Played(*(part.flatten(0, 1) for part in parts))

    def _values(self, observations: list[Tensor]) -> Tensor:
        """Values (T, N) of T times N observations."""
        every = torch.cat(observations)
        found: Tensor = self.model.value(self.inputs(every))
        return found[:, 0].cpu().view(len(observations), -1)

    def _orders(self, purpose: int) -> list[Tensor]:
        """Places of the batches of a round, epoch by epoch."""
        draw = generator(self.seed, "order", purpose)
        count = math.ceil(self.task.round / self.trainer.batch_size)
        return [
            places
            for _ in range(self.task.epochs)
            for places in torch.randperm(self.task.round, generator=draw).tensor_split(count)
        ]

    def _build(self, seed: int) -> PolicyAndValue:
        shape, size = self.games.observation.shape, self.games.action.count or values_of(self.games.action)
        policy, value = (
            networks.build(self.task.network, shape, outputs, derive(seed, part))
            for part, outputs in (("policy", size), ("value", 1))
        )
        return PolicyAndValue(policy, value, 0 if self.games.action.discrete else size).to(self.device)


class Batches:
    """One pass over the steps that an agent played last."""

    def __init__(self, agent: PpoAgent, seed: int) -> None:
        self._agent, self._seed = agent, seed

    def __len__(self) -> int:
        return math.ceil(self._agent.task.round / self._agent.trainer.batch_size)

    def __iter__(self) -> Iterator[Played]:
        return self.shuffled(generator(self._seed, "pass"))

    def shuffled(self, draw: torch.Generator) -> Iterator[Played]:
        """The same batches of steps in another order."""
        agent = self._agent
        known = agent.known(agent.task.round)
        for places in torch.randperm(len(known.actions), generator=draw).tensor_split(len(self)):
            yield known.take(places).to(agent.device)
