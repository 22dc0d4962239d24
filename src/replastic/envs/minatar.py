"""MinAtar: five Atari games on 10 x 10 cells, fast enough to show plasticity loss on a CPU."""

from __future__ import annotations

import colorsys
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from replastic.envs._environment import ActionSpace, Environment, ObservationSpace, Step
from replastic.envs._family import Family, register
from replastic.envs._python_state import as_tensor, from_tensor
from replastic.errors import UserError
from replastic.extras import require
from replastic.options import option
from replastic.seeds import derive

GAMES: Final = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
ACTIONS: Final = 6
"""Every game takes the same actions: none, left, up, right, down, fire."""


@register("minatar", reference="https://arxiv.org/abs/1903.03176")
@dataclass(frozen=True, kw_only=True)
class MinAtar(Family):
    """MinAtar games: (channels, 10, 10) maps of objects, one channel for each kind of object.

    Reference: Young and Tian (2019): sticky actions with probability 0.1, difficulty that ramps up. Their rewards are
    not clipped.
    """

    extra: ClassVar[str] = "rl"

    sticky: float = option(0.1, help="probability that the last action is repeated", low=0, high=1)
    ramping: bool = option(True, help="whether a game grows harder while it is played")
    minimal: bool = option(False, help="only the actions that have an effect in the game")
    channels: int = option(0, help="channels of an observation, filled up with empty ones; 0: those of the game", low=0)

    @classmethod
    def games(cls) -> Sequence[str]:
        """The five games."""
        return GAMES

    def build(self, copies: int, *, training: bool = True) -> Environment:
        """The same for training and evaluation."""
        return MinAtarEnvironment(self, copies)


class MinAtarEnvironment(Environment):
    """Games in Python, one object a copy; state and generators of all of them are saved and restored."""

    def __init__(self, family: MinAtar, copies: int) -> None:
        kind = game_class(family.game)
        self._sticky = family.sticky
        self._games = [kind(ramping=family.ramping) for _ in range(copies)]
        own = self._games[0].state_shape()[2]
        if family.channels and family.channels < own:
            raise UserError(f"{family.spec}: channels must be at least {own}, those of the game, or 0")
        self._own, channels = own, family.channels or own
        self._actions = self._games[0].minimal_action_set() if family.minimal else list(range(ACTIONS))
        self._last = [0] * copies
        space = ObservationSpace((channels, 10, 10), torch.bool)
        super().__init__(family.spec, copies, space, ActionSpace(len(self._actions)))

    def _reset(self, seed: int) -> Tensor:
        for copy, game in enumerate(self._games):
            game.random = np.random.RandomState(derive(seed, "minatar", copy) % 2**32)
            game.reset()
        self._last = [0] * self.copies
        return self._seen()

    def _step(self, actions: Tensor) -> Step:
        rewards, over = np.zeros(self.copies, np.float32), np.zeros(self.copies, bool)
        for copy, (game, number) in enumerate(zip(self._games, actions.tolist(), strict=True)):
            action = self._last[copy] if game.random.rand() < self._sticky else self._actions[number]
            self._last[copy] = action
            rewards[copy], over[copy] = game.act(action)
        ended = torch.from_numpy(over)
        final = self._seen(np.flatnonzero(over).tolist())
        for copy in np.flatnonzero(over).tolist():
            self._games[copy].reset()
        reward = torch.from_numpy(rewards)
        return Step(self._seen(), reward, reward, ended, ended, final)

    def _state(self) -> dict[str, Tensor]:
        return {"games": as_tensor([self._last, [_attributes(game) for game in self._games]])}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self._last, games = from_tensor(state["games"])
        for game, attributes in zip(self._games, games, strict=True):
            vars(game).update(attributes)
        return self._seen()

    def _seen(self, copies: Sequence[int] | None = None) -> Tensor:
        """Observations of some copies, else of all."""
        games = self._games if copies is None else [self._games[copy] for copy in copies]
        seen = np.zeros((len(games), *self.observation.shape), bool)
        for place, game in zip(seen, games, strict=True):
            place[: self._own] = game.state().transpose(2, 0, 1)
        return torch.from_numpy(seen)

    def render(self, copy: int = 0) -> Tensor:
        """Each kind of object in a colour of its own, the later channel on top; a cell takes 16 x 16 pixels."""
        return draw(self._seen([copy])[0, : self._own])


def game_class(game: str) -> Any:
    """MinAtar's class of a game.

    Its file is loaded by itself: the package would import matplotlib and seaborn, for a window that nobody opens here.

    Raises:
        MissingExtraError: MinAtar is not installed.
    """
    name = f"replastic_minatar_{game}"
    if name not in sys.modules:
        package = importlib.util.find_spec("minatar")
        places = package.submodule_search_locations if package is not None else None
        if not places:
            require("minatar", "rl", "MinAtar")
            raise UserError("MinAtar is installed, but not as a folder of files: install it with pip")
        file = Path(places[0]) / "environments" / f"{game}.py"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None, file
        assert spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name].Env


def draw(objects: Tensor, cell: int = 16) -> Tensor:
    """A picture of maps of objects, (channels, height, width) bool, as (height x cell, width x cell, 3) uint8."""
    picture = torch.zeros(*objects.shape[1:], 3, dtype=torch.uint8)
    for channel, present in enumerate(objects):
        hue = channel / len(objects)
        colour = [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)]
        picture[present] = torch.tensor(colour, dtype=torch.uint8)
    return picture.repeat_interleave(cell, 0).repeat_interleave(cell, 1)


def _attributes(game: Any) -> dict[str, Any]:
    """All that changes in a game while it is played."""
    return {name: value for name, value in vars(game).items() if name not in ("channels", "action_map", "ramping")}
