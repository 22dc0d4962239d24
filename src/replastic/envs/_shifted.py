"""An environment whose observations are moved by a constant: another task for a network, and the same game."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from replastic.envs._environment import Environment, Step
from replastic.errors import UserError


class Shifted(Environment):
    """The copies of another environment; `offset` is added to every observation.

    Args:
        inside: The environment.
        offset: Of the shape of one observation.

    Raises:
        UserError: Observations are no vectors of numbers.
    """

    def __init__(self, inside: Environment, offset: Tensor) -> None:
        if inside.observation.dtype is not torch.float32:
            raise UserError(
                f"{inside.name} shows {inside.observation.dtype} and no vectors of numbers: its observations cannot be "
                "shifted"
            )
        super().__init__(
            inside.name,
            inside.copies,
            inside.observation,
            inside.action,
            frames=inside.frames,
            episodic=inside.episodic,
            horizon=inside.horizon,
        )
        self._inside, self._offset = inside, offset
        self.exact, self._seed = inside.exact, inside._seed
        self.observations = inside.observations + offset

    def _reset(self, seed: int) -> Tensor:
        return self._inside.reset(seed) + self._offset

    def _step(self, actions: Tensor) -> Step:
        step = self._inside.step(actions)
        final = step.final + self._offset if len(step.final) else step.final
        return replace(step, observations=step.observations + self._offset, final=final)

    def _state(self) -> dict[str, Tensor]:
        return self._inside.state_dict()

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self._inside.load_state_dict(state)
        return self._inside.observations + self._offset

    def render(self, copy: int = 0) -> Tensor:
        """The picture of the environment inside."""
        return self._inside.render(copy)

    def close(self) -> None:
        """Close the environment inside."""
        self._inside.close()
