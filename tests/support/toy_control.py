"""A task of control without a simulator: a point on a line that is to be brought to 0 and held there."""

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


class Point(Environment):
    """Two actions push the point, the second one half as hard; beyond 3 it is lost (-5), twenty steps cut it off."""

    def __init__(self, family: ToyControl, copies: int) -> None:
        space = ObservationSpace((3,), torch.float32)
        super().__init__(family.spec, copies, space, ActionSpace(shape=(2,)), frames=2, horizon=20)
        self._family = family

    def _reset(self, seed: int) -> Tensor:
        self._seed, self._begun = seed, torch.zeros(self.copies, dtype=torch.int64)
        self._at = torch.zeros(self.copies, 2)
        for copy in range(self.copies):
            self._begin(copy)
        return self._seen()

    def _begin(self, copy: int) -> None:
        draw = generator(self._seed, copy, int(self._begun[copy]))
        self._at[copy] = 3 * torch.rand(2, generator=draw) - 1.5
        self._begun[copy] += 1

    def _seen(self) -> Tensor:
        return torch.cat((10 * self._at + 4, torch.ones(self.copies, 1)), 1)

    def _step(self, actions: Tensor) -> Step:
        speed = 0.8 * self._at[:, 1] + 0.5 * actions[:, 0] + 0.25 * actions[:, 1]
        self._at = torch.stack((self._at[:, 0] + 0.5 * speed, speed), 1)
        terminated = self._at[:, 0].abs() > 3
        rewards = 1 - self._at[:, 0].abs() - 5 * terminated
        ended = terminated | (self._steps + 1 == self.horizon)
        if self._family.breaks_after and int(self._begun.sum()) > self._family.breaks_after:
            self._at = self._at / 0
        last = self._seen()[ended]
        for copy in ended.nonzero()[:, 0].tolist():
            self._begin(copy)
        return Step(self._seen(), rewards, rewards, terminated, ended, last)

    def _state(self) -> dict[str, Tensor]:
        return {"at": self._at.clone(), "begun": self._begun.clone(), "seed": torch.tensor(self._seed)}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self._at, self._begun, self._seed = state["at"].clone(), state["begun"].clone(), int(state["seed"])
        return self._seen()


@dataclass(frozen=True, kw_only=True)
class ToyControl(Family):
    """The point; registered nowhere."""

    name: ClassVar[str] = "toy_control"
    breaks_after: int = option(0, help="episodes after which positions are no numbers; 0: never")

    @classmethod
    def games(cls) -> tuple[str, ...]:
        return ("point", "other")

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        return Point(self, copies)


def control(*names: str, **settings: object) -> Games:
    """The source of an agent's task: the point once for each name."""
    return Games.of([ToyControl(game=name, **settings) for name in names or ("point",)])  # type: ignore[arg-type]
