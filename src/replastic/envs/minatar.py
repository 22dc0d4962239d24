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

from replastic.envs._environment import ActionSpace, Environment, ObservationSpace
from replastic.envs._family import Family, register
from replastic.envs._python_state import as_tensor, from_tensor
from replastic.envs._separate import Array, Outcome, SeparateCopies
from replastic.errors import UserError
from replastic.extras import require
from replastic.options import option

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
    packages: ClassVar[tuple[str, ...]] = ("MinAtar",)

    sticky: float = option(0.1, help="probability that the last action is repeated", low=0, high=1)
    ramping: bool = option(True, help="whether a game grows harder while it is played")
    minimal: bool = option(False, help="only the actions that have an effect in the game")
    limit: int = option(
        0, help="steps after which an episode is cut off; 0: never, as some policies never end one", low=0
    )
    channels: int = option(0, help="channels of an observation, filled up with empty ones; 0: those of the game", low=0)

    @classmethod
    def games(cls) -> Sequence[str]:
        """The five games."""
        return GAMES

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """The same for training, evaluation and drawing."""
        return MinAtarEnvironment(self, copies)


class MinAtarEnvironment(SeparateCopies):
    """Games in Python; state and generators of all of them are saved and restored."""

    def __init__(self, family: MinAtar, copies: int) -> None:
        kind = game_class(family.game)
        self._sticky = family.sticky
        self._games = [kind(ramping=family.ramping) for _ in range(copies)]
        self._own = own = self._games[0].state_shape()[2]
        if family.channels and family.channels < own:
            raise UserError(f"{family.spec}: channels must be at least {own}, those of the game, or 0")
        self._actions = self._games[0].minimal_action_set() if family.minimal else list(range(ACTIONS))
        self._last = [0] * copies
        space = ObservationSpace((family.channels or own, 10, 10), torch.bool)
        super().__init__(family.spec, copies, space, ActionSpace(len(self._actions)), horizon=family.limit)

    def _begin(self, copy: int, seed: int | None = None) -> Array:
        game = self._games[copy]
        if seed is not None:
            game.random = np.random.RandomState(seed % 2**32)
            self._last[copy] = 0
        game.reset()
        return self._seen(copy)

    def _act(self, copy: int, action: Any) -> Outcome:
        game = self._games[copy]
        if game.random.rand() >= self._sticky:
            self._last[copy] = self._actions[action]
        reward, over = game.act(self._last[copy])
        late = self.horizon > 0 and int(self._steps[copy]) + 1 >= self.horizon
        return Outcome(self._seen(copy), float(reward), bool(over), late and not over)

    def _seen(self, copy: int) -> Array:
        objects: Array = self._games[copy].state().transpose(2, 0, 1)
        missing = self.observation.shape[0] - self._own
        return np.pad(objects, ((0, missing), (0, 0), (0, 0))) if missing else objects

    def _state(self) -> dict[str, Tensor]:
        return {"games": as_tensor([self._last, [_attributes(game) for game in self._games]])}

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        self._last, games = from_tensor(state["games"])
        for game, attributes in zip(self._games, games, strict=True):
            vars(game).update(attributes)
        return self._stacked([self._seen(copy) for copy in range(self.copies)])

    def render(self, copy: int = 0) -> Tensor:
        """Each kind of object in a colour of its own, the later channel on top; a cell takes 16 x 16 pixels."""
        return draw(torch.from_numpy(self._games[copy].state().transpose(2, 0, 1)))


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
