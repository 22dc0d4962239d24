"""An environment whose every frame says where it comes from, with episodes that end as they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.envs import ActionSpace, Environment, ObservationSpace, Step


@dataclass(frozen=True)
class Script:
    """One episode: how many steps it takes, whether it is cut off, and after which step a life is lost (0: none)."""

    steps: int
    cut_off: bool = False
    life: int = 0


class ScriptedEnvironment(Environment):
    """A frame is (copy, episode, time) and zeros; the frames of a stack before the first are -1."""

    def __init__(self, copies: int, scripts: Sequence[Script], stack: int = 1) -> None:
        shape = (stack, 4) if stack > 1 else (4,)
        super().__init__(
            "scripted/game", copies, ObservationSpace(shape, torch.float32, stack), ActionSpace(3), frames=4
        )
        self.scripts = scripts
        self.reset(0)

    def _reset(self, seed: int) -> Tensor:
        self.episode, self.time = [seed] * self.copies, [0] * self.copies
        return self.seen()

    def _step(self, actions: Tensor) -> Step:
        self.time = [time + 1 for time in self.time]
        scripts = [self.script(copy) for copy in range(self.copies)]
        over = [time == script.steps for time, script in zip(self.time, scripts, strict=True)]
        lost = [time == script.life for time, script in zip(self.time, scripts, strict=True)]
        ended = torch.tensor(over)
        ends = [(o and not s.cut_off) or life for o, s, life in zip(over, scripts, lost, strict=True)]
        final = self.seen()[ended]
        for copy in ended.nonzero()[:, 0].tolist():
            self.episode[copy], self.time[copy] = self.episode[copy] + 1, 0
        raw = 2.0 * actions.float()
        return Step(self.seen(), raw.clamp(max=1.0), raw, torch.tensor(ends), ended, final)

    def script(self, copy: int) -> Script:
        """The episode that a copy is in."""
        return self.scripts[(copy + self.episode[copy]) % len(self.scripts)]

    def seen(self) -> Tensor:
        """Observations of all copies."""
        stacks = [
            [[-1.0] * 4 if t < 0 else [copy, self.episode[copy], t, 0.0] for t in range(now - self.past, now + 1)]
            for copy, now in enumerate(self.time)
        ]
        seen = torch.tensor(stacks)
        return seen if self.past else seen[:, 0]

    @property
    def past(self) -> int:
        """Frames of a stack before the newest."""
        return self.observation.stack - 1

    def _state(self) -> dict[str, Tensor]:
        return {"where": torch.tensor([self.episode, self.time])}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self.episode, self.time = state["where"].tolist()
        return self.seen()
