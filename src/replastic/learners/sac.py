"""SAC: an actor that is drawn to valuable and to random actions, critics, and a temperature that weighs the two."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from replastic import networks
from replastic.envs import Step, Transitions
from replastic.errors import UserError
from replastic.learners._agent import RETURN
from replastic.learners._games import Games, NormalDraws, values_of
from replastic.learners._learner import Descend
from replastic.learners._normaliser import RunningNormaliser
from replastic.learners._off_policy import Q_MAGNITUDE, OffPolicyAgent, OffPolicyTask
from replastic.learners._task import register
from replastic.learners._trainer import Trainer
from replastic.networks import Network
from replastic.networks._actor_critic import Act, ActorCritic, actor_critic, mode
from replastic.networks._policies import TanhGaussian
from replastic.networks.simba import Simba
from replastic.options import option, read
from replastic.probes import undisturbed
from replastic.probes.trainee import copied
from replastic.records import key
from replastic.seeds import derive
from replastic.weights.followers import Followers, PartCopy

TEMPERATURE = key("temperature")
_SEEN = 256
"""Transitions of which the magnitude of Q is taken."""
_DISCOUNTS = (0.95, 0.995)
"""Least and largest discount that follows from a horizon."""


@register("sac", reference="https://arxiv.org/abs/1812.05905")
@dataclass(frozen=True, kw_only=True)
class Sac(OffPolicyTask):
    """Soft actor-critic for actions that are values: maximises reward plus temperature times entropy.

    An update is one step of the actor, then of the temperature, which keeps the entropy at its target, then of the
    critics toward r + gamma (min_k Q_target_k(s', a') - temperature log p(a' | s')) with a' of the new actor; then the
    target critics move by `tau`. Observations are brought to mean 0 and variance 1 over the stream, if asked for, by
    statistics that no method touches. At boundaries `copy_target` and `reset_temperature` act for every method alike;
    a target that is not copied follows what a method rewrites, and stays what it was where a method rewrites nothing.

    Reference: Haarnoja et al. (2018b); order of the steps, discount, initial values and settings are those of SimBa's
    public code (Lee et al. 2025), which the SAC runs of FIRE (Han et al., ICLR 2026, table 4) use. Differs: weight
    decay (`Trainer.weight_decay`) spares biases and norms.
    """

    environment: str = option("dm_control/humanoid-walk", help="family/game; several, joined by +, follow each other")
    steps: int = option(500_000, help="agent interactions in each environment, over all copies", low=1)
    gamma: float = option(
        0.0,
        help="discount of later rewards; 0 takes 1 - 5/h for episodes of h interactions, at least .95, at most .995",
        low=0,
        high=1,
    )
    learning_starts: int = option(5000, help="interactions at random before the first update", low=1)
    replay_ratio: float = option(2.0, help="updates per agent interaction", above=0)
    buffer_size: int = option(1_000_000, help="frames that the replay holds", low=1)
    network: Network = field(default_factory=Simba)
    """The critic; each has one of its own."""
    actor: str = option(
        "simba:width=128,blocks=1", help="network of the actor with its sizes, as name:field=value,field=value"
    )
    double: bool = option(True, help="two critics, of which the smaller value counts (clipped double Q), or one")
    tau: float = option(0.005, help="how far the target critics move to the critics at each update", above=0, high=1)
    temperature: float = option(0.01, help="first weight of the entropy", above=0)
    entropy: float = option(-0.5, help="entropy that is aimed at, for each number of an action, in nats")
    normalise: bool = option(True, help="bring observations to mean 0 and variance 1 over the stream")
    copy_target: bool = option(True, help="copy the critics to the targets at boundaries, for every method alike")
    reset_temperature: bool = option(True, help="put the temperature back at boundaries, for every method alike")

    def learner(self, source: Games, seed: int, trainer: Trainer, device: str = "cpu") -> SacAgent:
        """New networks and an empty replay."""
        if source.action.discrete:
            raise UserError(
                f"{self.name} takes actions that are values, and {self.stages[0]} has {source.action.count} actions to "
                "choose from: take another environment, or the learner dqn"
            )
        usual = Trainer()
        for name in ("precision", "compiled", "channels_last", "accumulate"):
            if getattr(trainer, name) != getattr(usual, name):
                raise UserError(
                    f"{self.name} makes its updates in float32, whole and uncompiled: leave out {name} "
                    f"{getattr(trainer, name)}"
                )
        return SacAgent(self, source, seed, trainer, device)

    def facts(self, source: Games) -> dict[str, Any]:
        """Also the discount."""
        return {**super().facts(source), "discount": self.discount(source)}

    def discount(self, games: Games) -> float:
        """Gamma, or what follows from the horizon: a fifth of an episode, as in the authors' code (after TD-MPC2)."""
        if self.gamma:
            return self.gamma
        if not games.horizon:
            raise UserError(f"{self.name}: episodes of {self.environment} have no limit: give gamma")
        least, most = _DISCOUNTS
        return max(least, min(most, 1.0 - 5.0 / games.horizon))

    def with_network(self, name: str) -> Sac:
        """Critics of that name at its reduced size; the actor stays what `actor` says."""
        return self._with(network=networks.get(name).reduced())

    def validate(self) -> None:
        """There is an actor of that name and these sizes."""
        super().validate()
        self.actor_network()

    def actor_network(self) -> Network:
        """The network of the actor.

        Raises:
            UserError: There is none of that name, or it has no such sizes.
        """
        kind, given = read(self.actor, networks.get)
        return kind(**given)

    def _with(self, **changes: Any) -> Sac:
        return replace(self, **changes)


class SacAgent(OffPolicyAgent):
    """Actor and critics with one optimizer each; the temperature, a group of its own, goes with the actor."""

    task: Sac
    model: ActorCritic
    scores: ClassVar[tuple[str, ...]] = (RETURN, Q_MAGNITUDE, TEMPERATURE)

    def __init__(self, task: Sac, games: Games, seed: int, trainer: Trainer, device: str) -> None:
        super().__init__(task, games, seed, trainer, device)
        self.gamma = task.discount(games)
        self.model = self._build(derive(seed, "network"))
        self.target: dict[str, Tensor] = {}
        """Weights of the target critics, by their names in the critic."""
        self.copy_target()
        first = math.log(task.temperature)
        self.log_temperature = nn.Parameter(torch.full((), first, dtype=torch.float32, device=device))
        self.normaliser = RunningNormaliser(games.observation.shape, device)
        size = values_of(games.action)
        self._aim = task.entropy * size
        self._noise = NormalDraws(2 * trainer.batch_size * size, seed, "noise of updates")
        self._explored = NormalDraws(task.copies * size, seed, "noise of actions")
        self._loss_noise, self._kept = NormalDraws(2 * size, seed, "noise of losses"), torch.empty(2, 0, size)
        self._steady(trainer.batch_size)

    def groups(self) -> Mapping[str, list[dict[str, Any]]]:
        """Two optimizers with the trainer's settings: one step less an update than with one for the temperature."""
        return {
            "actor": [{"params": list(self.model.actor.parameters())}, {"params": [self.log_temperature]}],
            "critic": [{"params": list(self.model.critic.parameters())}],
        }

    def followers(self) -> Followers:
        """The target critics."""
        return {"target": PartCopy(self.target, "critic")}

    def renew(self, written: Collection[str]) -> None:
        """The target critics get the new modules, and keep the weights that were not rewritten."""
        self.copy_target({name: value for name, value in self.target.items() if f"critic.{name}" not in written})

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """State dict of networks made from another seed."""
        return self._build(seed).state_dict()

    def begin(self, phase: int, done: int) -> None:
        """Also copy the targets and put the temperature back, where that is asked for."""
        super().begin(phase, done)
        crossed = phase > 0 and not done
        self.copy_target(None if crossed and self.task.copy_target else self.target)
        if crossed and self.task.reset_temperature:
            with torch.no_grad():
                self.log_temperature.fill_(math.log(self.task.temperature))

    def step(self, actions: Tensor) -> Step:
        """Also count the observations that came of it.

        Raises:
            UserError: An observation or a reward is not finite.
        """
        taken = self._finite(super().step(actions))
        if self.task.normalise:
            self.normaliser.update(taken.observations)
        return taken

    def inputs(self, observations: Tensor) -> Tensor:
        """Observations as the networks read them: normalised, if asked for."""
        found = super().inputs(observations)
        return self.normaliser(found) if self.task.normalise else found

    def ready(self, batch: Transitions) -> Transitions:
        """Also with observations as the networks read them."""
        there = super().ready(batch)
        both = self.inputs(torch.cat((there.observations, there.next_observations)))
        now, then = both.chunk(2)
        return there._replace(observations=now, next_observations=then)

    def actions(self, observations: Tensor) -> Tensor:
        """Drawn from the actor's distribution."""
        noise = self._explored(self.interactions // self.task.copies).view(len(observations), -1)
        with torch.no_grad():
            outputs = self.model.actor(self.inputs(observations))
            return self._shaped(TanhGaussian(outputs).sample(noise.to(self.device))[0])

    def judged_actions(self, observations: Tensor, draw: torch.Generator) -> Tensor:
        """Those without noise."""
        return self._shaped(mode(self.model.actor(observations)))

    def learn(self, batch: Transitions, descend: Descend) -> Tensor:
        """One step of the actor, of the temperature and of the critics; the targets move a little."""
        actor_noise, critic_noise = self._noises(self._noise(self.updates), len(batch.rewards))

        def losses() -> list[Tensor]:
            loss, density = self._actor_loss(self.model, batch, actor_noise)
            surplus = -density.detach().mean() - self._aim
            return [loss + self.log_temperature.exp() * surplus]

        descend(losses, "actor")
        goals = self._goals(self.model, batch, critic_noise)
        loss = descend(lambda: [self._critic_loss(self.model, batch, goals)], "critic")
        with torch.no_grad():
            torch._foreach_lerp_(self._slow, self._fast, self.task.tau)
        return loss

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The critics' loss plus the actor's, in which critics are constants; the noise is the same at every call."""
        actor_noise, critic_noise = self._noises(self._steady(len(batch.rewards)), len(batch.rewards))
        fixed = {name: value.detach() for name, value in model.named_parameters() if name.startswith("critic.")}

        def values(observations: Tensor, act: Act) -> Tensor:
            found: Tensor = functional_call(model, fixed, (observations, act))
            return found

        critic = self._critic_loss(model, batch, self._goals(model, batch, critic_noise))
        return critic + self._actor_loss(values, batch, actor_noise)[0]

    @torch.no_grad()
    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """Also the mean of |Q(s, a)| over transitions of the replay, and the temperature."""
        batch = self.probe(phase, _SEEN)
        with undisturbed(self.model):
            values = self.model(batch.observations, batch.actions.flatten(1))
        found = {Q_MAGNITUDE: float(values.abs().mean()), TEMPERATURE: float(self.log_temperature.exp())}
        return {**super().evaluate(phase, last=last), **found}

    def copy_target(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Make the target critics anew, a copy of the critics as they are, modules that a method added among them.

        Args:
            values: Weights that they keep; None for those of the critics.
        """
        self.target_critic = copied(self.model.critic).requires_grad_(False).eval()
        if values is not None:
            self.target_critic.load_state_dict(values, strict=False)
        self.target.clear()
        self.target.update(self.target_critic.state_dict())
        self._slow: list[Tensor] = list(self.target_critic.parameters())
        self._fast: list[Tensor] = list(self.model.critic.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Also the target critics, the temperature and what is known of the observations."""
        held = {"target": self.target, "normaliser": self.normaliser.state_dict()}
        found = {f"{part}/{name}": value for part, state in held.items() for name, value in state.items()}
        return {**super().state_dict(), **found, "log_temperature": self.log_temperature.detach()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        super().load_state_dict(state)
        parts: dict[str, dict[str, Tensor]] = {"target": {}, "normaliser": {}}
        for name, value in state.items():
            part, slash, rest = name.partition("/")
            if slash and part in parts:
                parts[part][rest] = value.to(self.device)
        self.target.clear()
        self.target.update(parts["target"])
        self.normaliser.load_state_dict(parts["normaliser"])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])

    def _played(self, stage: int) -> Iterator[Step]:
        for step in super()._played(stage):
            yield self._finite(step)

    def _finite(self, step: Step) -> Step:
        """The step, if its observations and rewards are finite."""
        if bool(step.observations.isfinite().all()) and bool(step.rewards.isfinite().all()):
            return step
        raise UserError(
            f"{self.environment.name} gave observations or rewards that are not finite, near interaction "
            f"{self.interactions}: its simulation broke; earlier records are kept"
        )

    def _actor_loss(self, values: Any, batch: Transitions, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of temperature times log density minus value; and the log densities, (B,)."""

        def act(outputs: Tensor) -> Tensor:
            actions, density = TanhGaussian(outputs).sample(noise)
            drawn.append(density)
            return actions

        drawn: list[Tensor] = []
        found: Tensor = values(batch.observations, act)
        return torch.mean(self.log_temperature.detach().exp() * drawn[0] - found.amin(0)), drawn[0]

    @torch.no_grad()
    def _goals(self, model: nn.Module, batch: Transitions, noise: Tensor) -> Tensor:
        """The values that the critics are drawn to, (B,)."""
        assert isinstance(model, nn.Module)
        outputs = model.get_submodule("actor")(batch.next_observations)
        actions, density = TanhGaussian(outputs).sample(noise)
        ahead = self.target_critic(torch.cat((batch.next_observations.flatten(1), actions), 1)).amin(0)
        follows = (ahead - self.log_temperature.exp() * density).masked_fill(batch.terminated, 0.0)
        return batch.rewards.add(follows, alpha=self.gamma)

    @staticmethod
    def _critic_loss(model: nn.Module, batch: Transitions, goals: Tensor) -> Tensor:
        """Squared distance from the goals: a mean over transitions, a sum over critics."""
        errors: Tensor = model(batch.observations, batch.actions.flatten(1)) - goals
        return torch.sum(errors.square()) / len(goals)

    def _steady(self, count: int) -> Tensor:
        """The noise of `loss`, (2, B, A), drawn before it is differentiated sample by sample."""
        rows = range(self._kept.shape[1], count)
        if rows:
            new = torch.stack([self._loss_noise(row).view(2, -1) for row in rows], dim=1)
            self._kept = torch.cat((self._kept, new), dim=1)
        return self._kept

    def _noises(self, drawn: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Noise (B, A) of the actor's step and of the critics'."""
        parts = drawn.view(2, -1, values_of(self.games.action))[:, :count].to(self.device)
        return parts[0], parts[1]

    def _shaped(self, actions: Tensor) -> Tensor:
        """Actions as the environment takes them."""
        return actions.view(-1, *self.games.action.shape).cpu()

    def _build(self, seed: int) -> ActorCritic:
        task, games = self.task, self.games
        sizes = games.observation.shape, values_of(games.action)
        made = actor_critic(task.actor_network(), task.network, *sizes, seed, critics=2 if task.double else 1)
        return made.to(self.device)
