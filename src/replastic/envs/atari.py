"""Atari games by the vectorised environment of ale-py, whose ROMs come with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from replastic.envs._environment import ActionSpace, Environment, ObservationSpace, Step
from replastic.envs._family import Family, register
from replastic.errors import UserError
from replastic.extras import require
from replastic.options import option
from replastic.seeds import derive

SIDE: Final = 84
"""Height and width of a frame after shrinking."""


@register("atari", reference="https://arxiv.org/abs/1709.06009")
@dataclass(frozen=True, kw_only=True)
class Atari(Family):
    """Atari 2600 games: 84 x 84 grey pixels, 4 frames stacked, 4 frames an action, sticky actions.

    Reference: Machado et al. (2018), sections 4 and 5: sticky actions with probability 0.25, an episode ends with the
    game or after 108,000 frames. The maximum of the last two frames is seen, after up to 30 idle frames.
    """

    extra: ClassVar[str] = "rl"
    packages: ClassVar[tuple[str, ...]] = ("ale-py",)

    sticky: float = option(0.25, help="probability that a frame repeats the last action", low=0, high=1)
    full: bool = option(False, help="all 18 actions instead of those that the game uses")
    life_loss: bool = option(False, help="whether no value follows a lost life in training; the game goes on")
    clip: bool = option(True, help="clip rewards to train on to -1, 0, 1; scores are never clipped")
    skip: int = option(4, help="frames for which an action is held", low=1)
    stack: int = option(4, help="frames of an observation", low=1)
    idle: int = option(30, help="most frames without action at the beginning of an episode", low=0)
    frames: int = option(108_000, help="frames after which an episode is cut off", low=1)
    threads: int = option(0, help="threads that step the copies; 0: one for each processor", low=0)

    @classmethod
    def games(cls) -> Sequence[str]:
        """Every game whose ROM comes with ale-py, such as ``BeamRider``."""
        return sorted(_roms())

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """Lost lives count in training only. What is to be drawn is played a second time, in colour."""
        return AtariEnvironment(self, copies, training=training, drawn=drawn)


class AtariEnvironment(Environment):
    """All copies in one object of ale-py, which steps them in threads; their number changes no copy's course.

    It has no call that reads or sets the state of a game, so that a resumed run begins new episodes.
    """

    exact = False

    def __init__(self, family: Atari, copies: int, *, training: bool, drawn: bool) -> None:
        self._family, self._lives = family, family.life_loss and training
        self._games = self._vector(copies)
        count = int(self._games.single_action_space.n)
        shape = (family.stack, SIDE, SIDE) if family.stack > 1 else (SIDE, SIDE)
        super().__init__(
            family.spec,
            copies,
            ObservationSpace(shape, torch.uint8, family.stack),
            ActionSpace(count),
            frames=family.skip,
            horizon=-(-family.frames // family.skip),
        )
        look = {"grayscale": False, "stack_num": 1, "img_height": 210, "img_width": 160}
        self._in_colour = self._vector(copies, **look) if drawn else None
        self._number = np.zeros(copies, np.int32)
        """Frames of the episode of each copy, as ale-py counts them."""

    def _vector(self, copies: int, **look: Any) -> Any:
        vector = require("ale_py.vector_env", "rl", "Atari")
        family = self._family
        settings: dict[str, Any] = {"img_height": SIDE, "img_width": SIDE, "stack_num": family.stack, **look}
        return vector.AtariVectorEnv(
            _roms()[family.game],
            copies,
            num_threads=min(family.threads, copies),
            max_num_frames_per_episode=family.frames,
            repeat_action_probability=family.sticky,
            full_action_space=family.full,
            autoreset_mode="SameStep",
            frameskip=family.skip,
            noop_max=family.idle,
            life_loss_info=self._lives,
            reward_clipping=False,
            **settings,
        )

    def _reset(self, seed: int) -> Tensor:
        seeds = np.array([derive(seed, "copy", copy) % 2**31 for copy in range(self.copies)])
        observations, facts = self._games.reset(seed=seeds)
        self._number = facts["episode_frame_number"]
        if self._in_colour is not None:
            self._picture = self._in_colour.reset(seed=seeds)[0]
        return self._tensor(observations)

    def _step(self, actions: Tensor) -> Step:
        observations, rewards, terminated, truncated, facts = self._games.step(actions.numpy())
        if self._in_colour is not None:
            self._picture = self._in_colour.step(actions.numpy())[0]
        # A lost life is no end of the game: only a new game sets back the count of frames.
        goes_on = facts["episode_frame_number"] == self._number + self._family.skip
        ended = truncated | (terminated & ~goes_on)
        self._number = facts["episode_frame_number"]
        raw = torch.from_numpy(rewards.astype(np.float32))
        final = facts["final_obs"][ended] if ended.any() else observations[:0]
        return Step(
            self._tensor(observations),
            raw.clamp(-1.0, 1.0) if self._family.clip else raw,
            raw,
            torch.from_numpy(terminated),
            torch.from_numpy(ended),
            self._tensor(final),
        )

    def _tensor(self, observations: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(observations if self._family.stack > 1 else observations[:, 0])

    def render(self, copy: int = 0) -> Tensor:
        """The screen in colour, (210, 160, 3)."""
        if self._in_colour is None:
            raise UserError(f"{self.name} was made without pictures: make it with drawn=True")
        return torch.from_numpy(self._picture[copy, 0].copy())

    def close(self) -> None:
        """End the threads."""
        self._games.close()
        if self._in_colour is not None:
            self._in_colour.close()


def _roms() -> dict[str, str]:
    """Names of ale-py's ROMs by the names that people use: ``beam_rider`` by ``BeamRider``."""
    found = require("ale_py.roms", "rl", "Atari").get_all_rom_ids()
    return {"".join(part.capitalize() for part in name.split("_")): name for name in found}
