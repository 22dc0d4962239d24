"""A game without a simulator: a marker on a board of 5 x 5 cells that is to be pushed to the right edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.envs import ActionSpace, Environment, Family, ObservationSpace, Step
from replastic.learners._games import Games
from replastic.options import option
from replastic.seeds import generator


class Corridor(Environment):
    """Actions: stay, left, right. The right edge ends the episode with 1; ten steps cut it off."""

    def __init__(self, family: Toy, copies: int) -> None:
        self._side = family.side
        space = ObservationSpace((2, family.side, family.side), torch.bool)
        super().__init__(family.spec, copies, space, ActionSpace(3), frames=2, horizon=10)
        self._bad = family.bad_after

    def _reset(self, seed: int) -> Tensor:
        self._seed, self._begun = seed, torch.zeros(self.copies, dtype=torch.int64)
        self._at = torch.zeros(self.copies, 2, dtype=torch.int64)
        for copy in range(self.copies):
            self._begin(copy)
        return self._seen()

    def _begin(self, copy: int) -> None:
        draw = generator(self._seed, copy, int(self._begun[copy]))
        self._at[copy] = torch.randint(self._side - 1, (2,), generator=draw)
        self._begun[copy] += 1

    def _seen(self) -> Tensor:
        seen = torch.zeros(self.copies, 2, self._side, self._side, dtype=torch.bool)
        seen[torch.arange(self.copies), 0, self._at[:, 0], self._at[:, 1]] = True
        seen[:, 1, :, -1] = True
        return seen

    def _step(self, actions: Tensor) -> Step:
        self._at[:, 1] = (self._at[:, 1] + torch.tensor([0, -1, 1])[actions]).clamp(min=0)
        terminated = self._at[:, 1] == self._side - 1
        ended = terminated | (self._steps + 1 == self.horizon)
        rewards = terminated.float()
        if self._bad and int(self._begun.sum()) > self._bad:
            rewards = rewards + torch.inf
        last = self._seen()[ended]
        for copy in ended.nonzero()[:, 0].tolist():
            self._begin(copy)
        return Step(self._seen(), rewards, rewards, terminated, ended, last)

    def render(self, copy: int = 0) -> Tensor:
        """The marker, white on black."""
        return (
            (self._seen()[copy, 0].to(torch.uint8) * 255)
            .repeat_interleave(4, 0)
            .repeat_interleave(4, 1)[..., None]
            .expand(-1, -1, 3)
        )

    def _state(self) -> dict[str, Tensor]:
        return {"at": self._at.clone(), "begun": self._begun.clone(), "seed": torch.tensor(self._seed)}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self._at, self._begun, self._seed = state["at"].clone(), state["begun"].clone(), int(state["seed"])
        return self._seen()


class Forgetful(Corridor):
    """The same, with a simulator that cannot be put back into a state."""

    exact: ClassVar[bool] = False

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        return self._reset(int(state["seed"]) + 1)


@dataclass(frozen=True, kw_only=True)
class Toy(Family):
    """The corridor; registered nowhere."""

    name: ClassVar[str] = "toy"
    exact: bool = option(True, help="whether its state can be restored")
    side: int = option(5, help="cells of a side", low=2)
    bad_after: int = option(0, help="episodes after which rewards are infinite; 0: never")

    @classmethod
    def games(cls) -> tuple[str, ...]:
        return ("corridor", "other")

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        return (Corridor if self.exact else Forgetful)(self, copies)


def games(*names: str, **settings: object) -> Games:
    """The source of an agent's task: the corridor once for each name."""
    return Games.of([Toy(game=name, **settings) for name in names or ("corridor",)])  # type: ignore[arg-type]


class Aim(Environment):
    """Actions that are values: the reward is minus their distance from what is seen; five steps an episode."""

    def __init__(self, family: AimFamily, copies: int) -> None:
        space = ObservationSpace((2,), torch.float32)
        super().__init__(family.spec, copies, space, ActionSpace(shape=(2,)), horizon=5, episodic=False)

    def _reset(self, seed: int) -> Tensor:
        self._seed, self._count = seed, 0
        return self._next()

    def _next(self) -> Tensor:
        self._count += 1
        self._now = torch.rand(self.copies, 2, generator=generator(self._seed, self._count)) - 0.5
        return self._now

    def _step(self, actions: Tensor) -> Step:
        rewards = -(actions - self._now).abs().sum(1)
        ended = self._steps + 1 == self.horizon
        last = self._next()
        return Step(
            self._next() if ended.any() else last, rewards, rewards, torch.zeros_like(ended), ended, last[ended]
        )

    def _state(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self._count), "seed": torch.tensor(self._seed), "now": self._now.clone()}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self._seed, self._count, self._now = int(state["seed"]), int(state["count"]), state["now"].clone()
        return self._now


@dataclass(frozen=True, kw_only=True)
class AimFamily(Family):
    """Of `Aim`; registered nowhere."""

    name: ClassVar[str] = "aim"

    @classmethod
    def games(cls) -> tuple[str, ...]:
        return ("aim",)

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        return Aim(self, copies)


def aims(times: int = 1) -> Games:
    """The source of a task whose actions are values."""
    return Games.of([AimFamily(game="aim")] * times)
