"""Copies of one environment that are stepped together: the only things an agent asks of what it acts in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.seeds import derive


@dataclass(frozen=True)
class ObservationSpace:
    """The shape and kind of one copy's observations."""

    shape: tuple[int, ...]
    """Without the axis of the copies."""
    dtype: torch.dtype
    """``uint8`` for pixels, ``bool`` for maps of objects, ``float32`` for vectors."""
    stack: int = 1
    """Frames on the first axis, oldest first; each step adds one and drops one. 1 means that there is no such axis."""

    @property
    def frame(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return self.shape[1:] if self.stack > 1 else self.shape


@dataclass(frozen=True)
class ActionSpace:
    """The actions of one copy: a number from 0 to `count` - 1, or values from -1 to 1."""

    count: int = 0
    """Number of actions; 0 where actions are values."""
    shape: tuple[int, ...] = ()
    """Shape of the values; empty where actions are numbers."""

    @property
    def discrete(self) -> bool:
        """Whether an action is a number."""
        return self.count > 0

    @property
    def dtype(self) -> torch.dtype:
        """``int64`` for numbers, ``float32`` for values."""
        return torch.int64 if self.discrete else torch.float32


@dataclass(frozen=True)
class Episode:
    """One episode that has ended."""

    copy: int
    """Which copy played it."""
    score: float
    """Sum of the game's own rewards, unclipped; over all lives."""
    steps: int
    """Actions that it took."""


@dataclass(frozen=True)
class Step:
    """The outcome of one step of all copies; N is the number of copies."""

    observations: Tensor
    """Observations to act on next, (N, *shape): of a copy whose episode ended, the first of the next episode."""
    rewards: Tensor
    """Rewards to train on, (N,) float32; clipped where the family clips."""
    raw_rewards: Tensor
    """The game's own rewards, (N,) float32."""
    terminated: Tensor
    """Whether nothing follows this step, so that its value is the reward alone, (N,) bool. A lost life may count."""
    ended: Tensor
    """Whether the episode is over and the next one begun, (N,) bool."""
    final: Tensor
    """Last observations of the episodes that ended, (number of True in `ended`, *shape), in the order of the copies."""
    episodes: tuple[Episode, ...] = ()
    """The episodes that ended, in the order of the copies."""

    @property
    def truncated(self) -> Tensor:
        """Whether an episode was cut off, (N,) bool: a value follows, that of its `final` observation."""
        return self.ended & ~self.terminated

    def next_observations(self) -> Tensor:
        """Observations that followed the actions, (N, *shape): where an episode ended, the last of the old one."""
        if not len(self.final):
            return self.observations
        followed = self.observations.clone()
        followed[self.ended] = self.final
        return followed


class Environment(ABC):
    """N copies of one environment in one process. Tensors are on the CPU, and those it gave are never changed later.

    A copy whose episode ended begins the next one within the same step. With one seed and the same actions it goes the
    same way.
    """

    exact: bool = True
    """Whether `load_state_dict` restores every copy as it was. Otherwise all copies begin a new episode."""

    def __init__(
        self,
        name: str,
        copies: int,
        observation: ObservationSpace,
        action: ActionSpace,
        *,
        frames: int = 1,
        episodic: bool = True,
        horizon: int = 0,
    ) -> None:
        self.name = name
        """Spec of the environment."""
        self.copies = copies
        self.observation = observation
        self.action = action
        self.frames = frames
        """Frames of the simulator that one step of one copy takes: frame skip, or action repeat."""
        self.episodic = episodic
        """Whether an episode can end by itself, not only at `horizon`."""
        self.horizon = horizon
        """Most steps of an episode; 0 where there is no limit."""
        self.observations = torch.empty(0)
        """Observations to act on now, (N, *shape)."""
        self._scores = torch.zeros(copies, dtype=torch.float64)
        self._steps = torch.zeros(copies, dtype=torch.int64)
        self._seed, self._taken = 0, 0

    @property
    def resumes(self) -> str:
        """How a resumed run goes on in it, in words, for run.json."""
        return "exactly" if self.exact else "every copy begins a new episode, drawn from the seed and the steps taken"

    def reset(self, seed: int) -> Tensor:
        """Begin anew in every copy, as if just made with this seed; the first observations, (N, *shape)."""
        self._scores.zero_()
        self._steps.zero_()
        self._seed, self._taken = seed, 0
        self.observations = self._reset(seed)
        return self.observations

    def step(self, actions: Tensor) -> Step:
        """Take one action in every copy.

        Args:
            actions: (N,) int64, or (N, *shape) float32; values beyond -1 and 1 are cut off there.

        Raises:
            UserError: They have another shape or dtype, are not finite, or there is no such action.
        """
        step = self._step(self._checked(actions))
        self._scores += step.raw_rewards
        self._steps += 1
        self._taken += 1
        copies = step.ended.nonzero()[:, 0].tolist()
        if copies:
            ended = tuple(Episode(copy, float(self._scores[copy]), int(self._steps[copy])) for copy in copies)
            self._scores[copies], self._steps[copies] = 0.0, 0
            step = replace(step, episodes=ended)
        self.observations = step.observations
        return step

    def state_dict(self) -> dict[str, Tensor]:
        """All that `load_state_dict` needs, as tensors."""
        begun = {"seed": torch.tensor(self._seed), "taken": torch.tensor(self._taken)}
        state = {"scores": self._scores.clone(), "steps": self._steps.clone(), **begun}
        return {**state, **self._state()} if self.exact else state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, `observations` included.

        Where `exact` is False every copy begins a new episode, drawn from the seed and from the steps taken.

        Raises:
            UserError: The state is of another environment or another number of copies.
        """
        try:
            if len(state["steps"]) != self.copies:
                saved = len(state["steps"])
                raise UserError(f"{self.name}: the saved state has {saved} copies, this environment {self.copies}")
            self._seed, self._taken = int(state["seed"]), int(state["taken"])
            if self.exact:
                self.observations = self._load(state)
                self._scores, self._steps = state["scores"].clone(), state["steps"].clone()
            else:
                self.observations = self._reset(derive(self._seed, "resumed", self._taken))
                self._scores.zero_()
                self._steps.zero_()
        except KeyError as error:
            raise UserError(f"{self.name}: the saved state is of another environment, it has no {error}") from error

    def render(self, copy: int = 0) -> Tensor:
        """A picture of one copy as it stands, (height, width, 3) uint8.

        Raises:
            UserError: It cannot be drawn here; the message says what is missing.
        """
        raise UserError(f"{self.name} cannot be drawn")

    def close(self) -> None:
        """Give back what the simulator holds."""
        return

    @abstractmethod
    def _reset(self, seed: int) -> Tensor:
        """Begin anew; the first observations."""

    @abstractmethod
    def _step(self, actions: Tensor) -> Step:
        """Take checked actions; `Step.episodes` is left empty."""

    def _state(self) -> dict[str, Tensor]:
        """State of simulators and generators; asked for where `exact` is True."""
        raise NotImplementedError

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        """Restore what `_state` gave; the observations to act on."""
        raise NotImplementedError

    def _checked(self, actions: Tensor) -> Tensor:
        """The actions, if they are some of this environment."""
        space, shape = self.action, (self.copies, *self.action.shape)
        if actions.shape != shape or actions.is_floating_point() == space.discrete:
            wanted = f"{list(shape)} of {space.dtype}"
            raise UserError(f"{self.name}: actions must be {wanted}, got {list(actions.shape)} of {actions.dtype}")
        if space.discrete:
            if bool(((actions < 0) | (actions >= space.count)).any()):
                raise UserError(f"{self.name}: actions must lie in 0 to {space.count - 1}, got {actions.tolist()}")
            return actions.to(torch.int64)
        if not bool(actions.isfinite().all()):
            raise UserError(f"{self.name}: actions must be finite, got {actions.tolist()}")
        return actions.to(torch.float32).clamp(-1.0, 1.0)
