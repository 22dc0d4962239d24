"""Environments whose simulator is one Python object a copy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from replastic.envs._environment import Environment, Step
from replastic.seeds import derive

Array = np.ndarray[Any, Any]


class Outcome(NamedTuple):
    """The outcome of one action in one copy."""

    observation: Array
    reward: float
    terminated: bool
    truncated: bool = False


class SeparateCopies(Environment):
    """Steps one copy after the other. Each has a generator of its own, so their number changes no copy's course."""

    def _reset(self, seed: int) -> Tensor:
        return self._stacked([self._begin(copy, derive(seed, "copy", copy)) for copy in range(self.copies)])

    def _step(self, actions: Tensor) -> Step:
        taken = actions.tolist() if self.action.discrete else actions.numpy()
        outcomes = [self._act(copy, action) for copy, action in enumerate(taken)]
        over = [copy for copy, outcome in enumerate(outcomes) if outcome.terminated or outcome.truncated]
        final = self._stacked([outcomes[copy].observation for copy in over])
        observations = [outcome.observation for outcome in outcomes]
        for copy in over:
            observations[copy] = self._begin(copy)
        ended = torch.zeros(self.copies, dtype=torch.bool)
        ended[over] = True
        rewards = torch.tensor([outcome.reward for outcome in outcomes], dtype=torch.float32)
        terminated = torch.tensor([outcome.terminated for outcome in outcomes])
        return Step(self._stacked(observations), rewards, rewards, terminated, ended, final)

    @abstractmethod
    def _begin(self, copy: int, seed: int | None = None) -> Array:
        """Begin an episode in one copy, with a new generator if a seed is given; its first observation."""

    @abstractmethod
    def _act(self, copy: int, action: Any) -> Outcome:
        """Take an action in one copy: a number, or an array of values."""

    def _stacked(self, observations: Sequence[Array]) -> Tensor:
        """Observations of some copies as one tensor, in memory of its own."""
        stacked = torch.empty(len(observations), *self.observation.shape, dtype=self.observation.dtype)
        target = stacked.numpy()
        for place, observation in enumerate(observations):
            target[place] = observation
        return stacked
