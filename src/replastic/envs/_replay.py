"""The memory of an agent: frames stored once, stacks rebuilt when they are drawn, in a ring that never grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from replastic.envs._environment import ActionSpace, ObservationSpace, Step
from replastic.errors import UserError
from replastic.memory import check_memory


class Transitions(NamedTuple):
    """A batch of B transitions."""

    observations: Tensor
    """(B, *shape), in the environment's dtype."""
    actions: Tensor
    """(B,) int64, or (B, *shape of an action) float32."""
    rewards: Tensor
    """(B,) float32."""
    next_observations: Tensor
    """(B, *shape): of the last transition of an episode, the observation with which the episode ended."""
    terminated: Tensor
    """(B,) bool: nothing follows; False where an episode was cut off."""

    def to(self, device: str | torch.device) -> Transitions:
        """The same on a device."""
        return Transitions(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class ReplaySize:
    """The memory that a replay takes once it is full; nothing is allocated for knowing it."""

    capacity: int
    """Frames, over all copies."""
    observation: ObservationSpace
    action: ActionSpace

    @property
    def bytes(self) -> int:
        """Bytes of all its tensors."""
        frame = math.prod(self.observation.frame) * self.observation.dtype.itemsize
        action = math.prod(self.action.shape) * self.action.dtype.itemsize
        return self.capacity * (frame + action + _BESIDE)

    def __str__(self) -> str:
        """In one line, such as ``replay of 1,000,000 frames of 84 x 84 uint8: 7.08 GB``."""
        kind = str(self.observation.dtype).removeprefix("torch.")
        frame = " x ".join(map(str, self.observation.frame))
        return f"replay of {self.capacity:,} frames of {frame} {kind}: {self.bytes / 1e9:.3g} GB"


_BESIDE = 4 + 1 + 8
"""Bytes of a reward, of `terminated` and of a place."""


class Replay:
    """The newest frames of every copy, and the transitions between them.

    A frame is stored once: an observation is the stack of the frames that end at its place, and its successor the stack
    that ends one place later. Where an episode begins all frames of its first stack are stored, where one ends its last
    frame is: so no stack reaches over the border, and the last transition has the right successor. Each copy has
    `capacity` // copies places; when they are full the oldest frame is overwritten, and transitions that need it go.
    """

    def __init__(self, capacity: int, copies: int, observation: ObservationSpace, action: ActionSpace) -> None:
        """Make an empty replay. Memory is taken as it fills, up to `ReplaySize`.

        Raises:
            UserError: The capacity is too small to hold a transition of every copy, or memory for it is not free.
        """
        self.places = capacity // copies
        least = copies * (2 * observation.stack + 1)  # first frames, the last one, and first frames of the next episode
        if capacity < least:
            raise UserError(
                f"the replay's capacity must be at least {least} frames for {copies} copies, got {capacity}"
            )
        self.size = ReplaySize(self.places * copies, observation, action)
        check_memory(self.size.bytes, str(self.size), "lower its capacity")
        self.copies, self._stack = copies, observation.stack
        shape = (self.places, copies)
        self._frames = torch.zeros(*shape, *observation.frame, dtype=observation.dtype)
        self._actions = torch.zeros(*shape, *action.shape, dtype=action.dtype)
        self._rewards = torch.zeros(shape)
        self._terminated = torch.zeros(shape, dtype=torch.bool)
        self._at = torch.zeros(shape, dtype=torch.int64)
        """Places of the frames from which transitions start, in a ring of its own for each copy."""
        self._written = np.zeros(copies, np.int64)
        """Frames ever written, by copy; place p lies in slot p % places."""
        self._first = np.zeros(copies, np.int64)
        self._next = np.zeros(copies, np.int64)
        """Transitions ever dropped and ever added, by copy."""
        self._copy = np.arange(copies)

    def __len__(self) -> int:
        """Number of transitions."""
        return int((self._next - self._first).sum())

    def begin(self, observations: Tensor) -> None:
        """Begin an episode in every copy: at the start, and wherever the environment did not go on by `step`.

        Args:
            observations: Its first observations, (copies, *shape).
        """
        for copy in range(self.copies):
            self._write_first(copy, observations[copy])
        self._drop()

    def add(self, actions: Tensor, step: Step) -> None:
        """Add one transition of every copy.

        Args:
            actions: Those that were taken, as `Environment.step` got them.
            step: The outcome.
        """
        slots = (self._written - 1) % self.places, self._copy
        self._actions.numpy()[slots] = actions.numpy()
        self._rewards.numpy()[slots] = step.rewards.numpy()
        self._terminated.numpy()[slots] = step.terminated.numpy()
        self._at.numpy()[self._next % self.places, self._copy] = self._written - 1
        self._next += 1
        followed = step.next_observations()
        newest = followed[:, -1] if self._stack > 1 else followed
        self._frames.numpy()[self._written % self.places, self._copy] = newest.numpy()
        self._written += 1
        for copy in step.ended.nonzero()[:, 0].tolist():
            self._write_first(copy, step.observations[copy])
        self._drop()

    def sample(self, count: int, generator: torch.Generator) -> Transitions:
        """Draw transitions, each with the same probability, with replacement.

        Args:
            count: How many.
            generator: Generator on the CPU; its draws alone decide.

        Raises:
            UserError: There is none yet.
        """
        if not len(self):
            raise UserError("the replay is empty: act before drawing from it")
        return self.take(torch.randint(len(self), (count,), generator=generator))

    def newest(self, count: int) -> Transitions:
        """The transitions added last: about `count`, equally many of each copy, oldest first."""
        kept = self._next - self._first
        each, ends = -(-count // self.copies), np.cumsum(kept)
        last = [np.arange(end - min(each, k), end) for end, k in zip(ends, kept, strict=True)]
        return self.take(torch.from_numpy(np.concatenate(last)))

    def take(self, numbers: Tensor) -> Transitions:
        """The transitions with these numbers, (B,) int64.

        Numbers run from 0 to len - 1: all of the first copy from the oldest to the newest, then all of the second.
        """
        wanted = numbers.numpy()
        ends = np.cumsum(self._next - self._first)
        copy = np.searchsorted(ends, wanted, side="right")
        ring = (self._next[copy] - (ends[copy] - wanted)) % self.places
        place = self._at.numpy()[ring, copy]
        span = np.arange(1 - self._stack, 2)
        slots = (place[:, None] + span) % self.places * self.copies + copy[:, None]
        shape = self._frames.shape[2:]
        frames = self._frames.flatten(0, 1).index_select(0, torch.from_numpy(slots.ravel()))
        frames = frames.view(len(wanted), len(span), *shape)
        before, after = (frames[:, :-1], frames[:, 1:]) if self._stack > 1 else (frames[:, 0], frames[:, 1])
        own = torch.from_numpy(slots[:, -2].copy())
        actions, rewards, terminated = (
            values.flatten(0, 1).index_select(0, own) for values in (self._actions, self._rewards, self._terminated)
        )
        return Transitions(before, actions, rewards, after, terminated)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that was written, as views of the replay's own memory: save them before the next `add`."""
        used = min(int(self._written.max()), self.places)
        counters = torch.from_numpy(np.stack([self._written, self._first, self._next]))
        parts = {name: values[:used] for name, values in self._tensors().items()}
        return {**parts, "counters": counters}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            UserError: It is of a replay of another capacity, number of copies or kind of observations.
        """
        counters, own = state["counters"], self._tensors()
        used = min(int(counters[0].max()), self.places)
        for name, values in own.items():
            if state[name].dtype != values.dtype or state[name].shape != (used, *values.shape[1:]):
                raise UserError(
                    f"the saved replay has {name} {list(state[name].shape)} of {state[name].dtype}, this one "
                    f"{list(values.shape)} of {values.dtype}: capacity, copies and environment must be those of the run"
                )
        for name, values in own.items():
            values[:used].copy_(state[name])
        self._written, self._first, self._next = (row.copy() for row in counters.numpy())

    def _tensors(self) -> dict[str, Tensor]:
        """The memory by name, (places, copies, ...) each."""
        names = ("frames", "actions", "rewards", "terminated", "at")
        return {name: getattr(self, f"_{name}") for name in names}

    def _write_first(self, copy: int, observation: Tensor) -> None:
        """Write every frame of an episode's first observation."""
        frames = observation if self._stack > 1 else observation[None]
        slots = (self._written[copy] + np.arange(len(frames))) % self.places
        self._frames.numpy()[slots, copy] = frames.numpy()
        self._written[copy] += len(frames)

    def _drop(self) -> None:
        """Forget transitions of which a frame was overwritten."""
        oldest = self._written - self.places + self._stack - 1
        """The first place whose whole stack is still there."""
        while True:
            start = self._at.numpy()[self._first % self.places, self._copy]
            stale = (self._first < self._next) & (start < oldest)
            if not stale.any():
                return
            self._first += stale
