"""Where an agent acts: the environments of its stages one after the other, and the draws it makes there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from replastic.envs import ActionSpace, Family, ObservationSpace
from replastic.errors import UserError
from replastic.seeds import generator


@dataclass(frozen=True)
class Games:
    """The environments of an agent's stages, which all show and take the same."""

    families: tuple[Family, ...]
    """One for each stage."""
    observation: ObservationSpace
    action: ActionSpace
    frames: int
    """Frames of one step of one copy."""
    episodic: bool
    """Whether episodes can end by themselves."""
    horizon: int
    """Most steps of an episode; 0 where there is no limit, or where the stages differ."""

    @classmethod
    def of(cls, families: Sequence[Family]) -> Games:
        """Look at each of them.

        Raises:
            UserError: A simulator cannot be used here, or two of them differ in what they show or take.
            MissingExtraError: A simulator is not installed.
        """
        found: dict[str, Games] = {}
        for family in families:
            if family.spec not in found:
                one = family.make(1, 0)
                looks = one.observation, one.action, one.frames, one.episodic, one.horizon
                found[family.spec] = cls(tuple(families), *looks)
                one.close()
        first, *others = found
        for other in others:
            for name in ("observation", "action", "frames"):
                a, b = (getattr(found[spec], name) for spec in (first, other))
                if a != b:
                    raise UserError(
                        f"{first} and {other} cannot follow each other: {name} {_in_words(a)} and {_in_words(b)}"
                        + ("; MinAtar games take channels=10" if name == "observation" else "")
                    )
        horizons = {games.horizon for games in found.values()}
        return replace(found[first], horizon=horizons.pop() if len(horizons) == 1 else 0)

    def facts(self) -> dict[str, Any]:
        """Facts of them for run.json."""
        known = {family.spec: family.facts() for family in self.families}
        return {"frames of a step": self.frames, **{f"{s}: {k}": v for s, f in known.items() for k, v in f.items()}}


class Draws:
    """Numbers uniform in [0, 1), row by row; a row depends on the seed, the purpose and its number alone."""

    together: ClassVar[int] = 256
    """Rows that are drawn at once."""

    def __init__(self, width: int, seed: int, *purpose: str | int) -> None:
        self._width, self._seed, self._purpose = width, seed, purpose
        self._block, self._rows = -1, torch.empty(0)

    def __call__(self, number: int) -> Tensor:
        """Row `number`, (width,) float64."""
        block, place = divmod(number, self.together)
        if block != self._block:
            self._rows = self._drawn(self.together, self._width, generator(self._seed, *self._purpose, block))
            self._block = block
        return self._rows[place]

    def _drawn(self, rows: int, width: int, draw: torch.Generator) -> Tensor:
        return torch.rand(rows, width, generator=draw, dtype=torch.float64)


class NormalDraws(Draws):
    """The same with standard normal numbers in float32, of which an agent with noise needs many in a row."""

    together: ClassVar[int] = 16

    def _drawn(self, rows: int, width: int, draw: torch.Generator) -> Tensor:
        return torch.randn(rows, width, generator=draw)


def evenly(space: ActionSpace, drawn: Tensor) -> Tensor:
    """Actions drawn evenly, (N, ...), of numbers in [0, 1): as many for each copy as an action has values, or one."""
    if space.discrete:
        return (drawn * space.count).long()
    return (2.0 * drawn - 1.0).view(-1, *space.shape).float()


def values_of(space: ActionSpace) -> int:
    """Numbers that one action takes."""
    return math.prod(space.shape)


def _in_words(value: Any) -> str:
    if isinstance(value, ObservationSpace):
        return f"{value.shape} {value.dtype}"
    if isinstance(value, ActionSpace):
        return f"{value.count} of them" if value.discrete else f"of shape {value.shape}"
    return str(value)
