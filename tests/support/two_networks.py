"""A tiny agent: an actor and a critic with an optimizer each, a target that follows the critic, and a world."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from replastic.learners import Descend, Extent, Learner, Score, Task, Trainer
from replastic.options import option
from replastic.seeds import derive, generator
from replastic.weights.followers import PartCopy

OBSERVED, ACTED = 3, 2
DISCOUNT, FOLLOW = 0.9, 0.1


@dataclass(frozen=True, kw_only=True)
class TwoNetworks(Task):
    """Moves a point, whose drift changes from phase to phase, to the origin."""

    score: ClassVar[Score] = Score("metric/distance", "distance", higher_is_better=False)
    axis: ClassVar[tuple[str, str]] = ("frames", "frames seen")

    count: int = option(3, help="number of phases", low=1)
    updates: int = option(12, help="updates of a phase", low=1)

    @property
    def phases(self) -> int:
        return self.count

    def open(self, device: str = "cpu") -> None:
        return None

    def learner(self, source: None, seed: int, trainer: Trainer, device: str = "cpu") -> ActorCritic:
        return ActorCritic(self, seed, trainer)


class Pair(nn.Module):
    """Actor (B, 3) to (B, 2) and critic (B, 5) to (B, 1), in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(OBSERVED, 8), nn.ReLU(), nn.Linear(8, ACTED)).double()
        self.critic = nn.Sequential(nn.Linear(OBSERVED + ACTED, 8), nn.ReLU(), nn.Linear(8, 1)).double()

    def forward(self, seen: Tensor) -> Tensor:
        """Value (B,) of what the actor does."""
        return self.value(self.critic, seen, self.actor(seen))

    def value(self, critic: nn.Module, seen: Tensor, action: Tensor) -> Tensor:
        return critic(torch.cat([seen, action], 1)).squeeze(1)


def made_from(seed: int) -> Pair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pair()


class ActorCritic(Learner):
    """Deterministic policy gradient on transitions that come one batch after the other from a world with a state."""

    model: Pair

    def __init__(self, task: TwoNetworks, seed: int, trainer: Trainer) -> None:
        self.task, self.seed, self.trainer = task, seed, trainer
        self.model = made_from(derive(seed, "network"))
        self.target = copy.deepcopy(self.model.critic).requires_grad_(False)
        self.where = torch.ones(OBSERVED, dtype=torch.float64)
        self.frames = 0

    def groups(self) -> Mapping[str, list[dict[str, Any]]]:
        return {
            "actor": [{"params": list(self.model.actor.parameters()), "lr": self.trainer.learning_rate / 10}],
            "critic": [{"params": list(self.model.critic.parameters())}],
        }

    def followers(self) -> Mapping[str, PartCopy]:
        return {"target": PartCopy(self.target, of="critic")}

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        return made_from(seed).state_dict()

    def extent(self, phase: int) -> Extent:
        updates, half = self.task.updates, self.task.updates // 2
        return Extent(updates=updates, marks=(half, updates), batch=self.trainer.batch_size)

    def begin(self, phase: int, done: int) -> None:
        self.phase = phase

    def update(self, descend: Descend) -> Tensor:
        seen, action, reward, then = self.step_of_the_world()
        with torch.no_grad():
            goal = reward + DISCOUNT * self.model.value(self.target, then, self.model.actor(then))

        def error() -> Iterable[Tensor]:
            yield (self.model.value(self.model.critic, seen, action) - goal).square().mean()

        loss = descend(error, "critic")
        descend(lambda: [-self.model(seen).mean()], "actor")
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.model.critic.parameters(), strict=True):
                slow.lerp_(fast, FOLLOW)
        return loss

    def step_of_the_world(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Seen (B, 3), action (B, 2), reward (B,), seen next (B, 3)."""
        draw, size = generator(self.seed, "world", self.frames), self.trainer.batch_size
        seen = self.where + torch.randn(size, OBSERVED, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            action = self.model.actor(seen) + 0.1 * torch.randn(size, ACTED, generator=draw, dtype=torch.float64)
        then = 0.9 * seen + 0.1 * self.phase
        then[:, :ACTED] += action
        self.where = 0.5 * self.where + 0.5 * then.mean(0)
        self.frames += size
        return seen, action, -then.norm(dim=1), then

    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        return {"metric/distance": float(self.where.norm())}

    def batches(self, phase: int) -> Iterable[tuple[Tensor, Tensor]]:
        return [self.probe(phase, 8), self.probe(phase, 5)]

    def probe(self, phase: int, samples: int) -> tuple[Tensor, Tensor]:
        draw = generator(self.seed, "probe", phase)
        seen = torch.randn(samples, OBSERVED, generator=draw, dtype=torch.float64)
        return seen, seen.norm(dim=1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        seen, goal = batch
        return (model(seen) - goal).square().mean()

    def position(self) -> dict[str, int]:
        return {"frames": self.frames}

    def state_dict(self) -> dict[str, Tensor]:
        target = {f"target/{name}": value for name, value in self.target.state_dict().items()}
        return {"where": self.where, "frames": torch.tensor(self.frames), **target}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.where, self.frames = state["where"].clone(), int(state["frames"])
        kept = {name.removeprefix("target/"): value for name, value in state.items() if name.startswith("target/")}
        self.target.load_state_dict(kept)


def networks_of(learner: ActorCritic) -> dict[str, Tensor]:
    """Copies of all weights, the target's too."""
    named = chain(learner.model.state_dict().items(), learner.state_dict().items())
    return {name: value.clone() for name, value in named}
