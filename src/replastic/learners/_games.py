"""Where an agent acts: the environments of its stages one after the other, and the draws it makes there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from replastic.envs import ActionSpace, Family, ObservationSpace
from replastic.errors import UserError
from replastic.seeds import generator

_BLOCK = 256
"""Rows of numbers that are drawn together."""


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
                found[family.spec] = cls(tuple(families), one.observation, one.action, one.frames, one.episodic)
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
        return found[first]

    def facts(self) -> dict[str, Any]:
        """Facts of them for run.json."""
        known = {family.spec: family.facts() for family in self.families}
        return {"frames of a step": self.frames, **{f"{s}: {k}": v for s, f in known.items() for k, v in f.items()}}


class Draws:
    """Numbers uniform in [0, 1), row by row; a row depends on the seed, the purpose and its number alone."""

    def __init__(self, width: int, seed: int, *purpose: str | int) -> None:
        self._width, self._seed, self._purpose = width, seed, purpose
        self._block, self._rows = -1, torch.empty(0)

    def __call__(self, number: int) -> Tensor:
        """Row `number`, (width,) float64."""
        block, place = divmod(number, _BLOCK)
        if block != self._block:
            draw = generator(self._seed, *self._purpose, block)
            self._rows, self._block = torch.rand(_BLOCK, self._width, generator=draw, dtype=torch.float64), block
        return self._rows[place]


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
