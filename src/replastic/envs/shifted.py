"""Shifted observations: a fixed offset on every observation of another environment, another one on each level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from replastic.envs._environment import Environment, Step
from replastic.envs._family import Family, from_spec, get, names, register
from replastic.errors import UserError
from replastic.options import option
from replastic.seeds import generator

OWN = "shifted"


@register(OWN, reference="https://arxiv.org/abs/2405.16642")
@dataclass(frozen=True, kw_only=True)
class Shifted(Family):
    """An environment of vectors whose observations are shifted by an offset drawn from N(0, sigma^2) for each level.

    ``shifted/gym/CartPole-v1:level=3`` is on level 3 for good; with `every` the level rises by one after so many steps
    of a copy. The offsets of a `draw` are the same in every run, for training and evaluation.

    Reference: Muppidi et al. (2024, TRAC), control experiments, whose code draws ten levels with sigma 2 and leaves
    the first level as it is; so does Tang et al. (2025, C-CHAIN), section 5. There each seed draws its own offsets.
    """

    level: int = option(0, help="level at the beginning; level 0 has no offset", low=0)
    sigma: float = option(2.0, help="standard deviation of an offset", low=0)
    every: int = option(0, help="steps of a copy after which the next level comes; 0: never", low=0)
    draw: int = option(0, help="which draw of offsets", low=0)

    @classmethod
    def games(cls) -> Sequence[str]:
        """Every game of the other families whose simulator is installed; those without a vector are refused later."""
        found: list[str] = []
        for family in names():
            try:
                found += [] if family == OWN else [f"{family}/{game}" for game in get(family).games()]
            except UserError:  # its simulator is not installed
                continue
        return found

    def facts(self) -> dict[str, Any]:
        """Also those of the environment that is shifted."""
        return {**from_spec(self.game).facts(), **super().facts()}

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """The environment that is shifted is made with its own defaults.

        Raises:
            UserError: It shows no vector.
        """
        inner = from_spec(self.game).build(copies, training=training, drawn=drawn)
        if len(inner.observation.shape) != 1 or not inner.observation.dtype.is_floating_point:
            shape = list(inner.observation.shape)
            raise UserError(f"{self.spec}: only vectors are shifted, and {self.game} shows {shape}")
        return ShiftedEnvironment(self, inner)


class ShiftedEnvironment(Environment):
    """Adds the offset of the level to every observation; the last one of an episode has that of its own level."""

    def __init__(self, family: Shifted, inner: Environment) -> None:
        self._family, self._inner = family, inner
        self.exact = inner.exact
        super().__init__(
            family.spec,
            inner.copies,
            inner.observation,
            inner.action,
            frames=inner.frames,
            episodic=inner.episodic,
            horizon=inner.horizon,
        )

    @property
    def level(self) -> int:
        """The level of the observations that are acted on now."""
        return self._level(self._taken)

    def offset(self, level: int) -> Tensor:
        """The offset of a level, of one observation's shape; zero on level 0."""
        family, shape = self._family, self.observation.shape
        drawn = torch.randn(shape, generator=generator(family.draw, "shift", level))
        return drawn * family.sigma if level else torch.zeros(shape)

    def _level(self, taken: int) -> int:
        every = self._family.every
        return self._family.level + (taken // every if every else 0)

    def _reset(self, seed: int) -> Tensor:
        return self._inner.reset(seed) + self.offset(self._level(0))

    def _step(self, actions: Tensor) -> Step:
        step = self._inner.step(actions)
        now, coming = self.offset(self.level), self.offset(self._level(self._taken + 1))
        return replace(step, observations=step.observations + coming, final=step.final + now, episodes=())

    def _state(self) -> dict[str, Tensor]:
        return {f"inner/{name}": value for name, value in self._inner.state_dict().items()}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        own = {n.removeprefix("inner/"): v for n, v in state.items() if n.startswith("inner/")}
        self._inner.load_state_dict(own)
        return self._inner.observations + self.offset(self.level)

    def render(self, copy: int = 0) -> Tensor:
        """The picture of the environment that is shifted."""
        return self._inner.render(copy)

    def close(self) -> None:
        """Close the environment that is shifted."""
        self._inner.close()
