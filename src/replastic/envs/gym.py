"""Environments of Gymnasium by their registered names: classic control, MuJoCo tasks, and any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from replastic.envs._environment import ActionSpace, Environment, ObservationSpace
from replastic.envs._family import Family, register
from replastic.envs._mujoco import Drawing, Memory, without_display
from replastic.envs._python_state import as_tensor, from_tensor
from replastic.envs._separate import Array, Outcome, SeparateCopies
from replastic.errors import MissingExtraError, UserError
from replastic.extras import require
from replastic.options import option


@register("gym", reference="https://gymnasium.farama.org")
@dataclass(frozen=True, kw_only=True)
class Gym(Family):
    """Any registered Gymnasium environment. Actions with bounds are scaled to -1..1, vectors are float32.

    Observations that are neither pixels nor a vector are flattened as Gymnasium does it. The time limit is the
    registered one, and cuts an episode off.
    """

    extra: ClassVar[str] = "rl"
    packages: ClassVar[tuple[str, ...]] = ("gymnasium",)

    repeat: int = option(1, help="steps for which an action is repeated; their rewards are summed", low=1)

    @classmethod
    def games(cls) -> Sequence[str]:
        """Every registered name."""
        return sorted(require("gymnasium", "rl", "Gymnasium").registry)

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """The same for training and evaluation.

        Raises:
            UserError: The environment needs a package that is not installed, or its spaces are not supported.
        """
        made = [self._one(drawn) for _ in range(copies)]
        spec = made[0].spec
        limit = spec.max_episode_steps if spec is not None else None
        return GymEnvironment(self.spec, made, limit or 0, self.repeat)

    def _one(self, drawn: bool) -> Any:
        gymnasium = require("gymnasium", "rl", "Gymnasium")
        is_mujoco = "mujoco" in str(gymnasium.spec(self.game).entry_point)
        if is_mujoco:
            with without_display():
                require("mujoco", "mujoco", self.spec)
                require("imageio", "mujoco", self.spec)
        try:
            # MuJoCo's scenes are drawn by `Drawing`, which needs no display.
            mode = "rgb_array" if drawn and not is_mujoco else None
            return gymnasium.make(self.game, render_mode=mode, disable_env_checker=True)
        except gymnasium.error.DependencyNotInstalled as error:
            raise MissingExtraError(f"{self.spec} cannot be used here: {error}") from error
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise UserError(f"{self.spec} cannot be made: {error}") from error


class GymEnvironment(SeparateCopies):
    """Gymnasium environments in a list.

    Their state is saved where it is MuJoCo's, or plain Python as in classic control. Of others a resumed run begins new
    episodes.
    """

    kept: ClassVar[tuple[str, ...]] = ()
    """Attributes of an environment that hold objects with a state of their own."""
    fixed: ClassVar[tuple[str, ...]] = ("gymnasium.", "mujoco", "pygame")
    """Packages whose objects never change while an episode is played, or are kept by `Memory`: spaces, renderers."""

    def __init__(self, name: str, made: Sequence[Any], limit: int, repeat: int) -> None:
        self._made, self._repeat = made, repeat
        first = made[0]
        self._action_space = first.action_space
        self._flat = require("gymnasium", "rl", "Gymnasium").spaces
        space, actions = self._shown(), self._actions_of(name)
        super().__init__(name, len(made), space, actions, frames=repeat, horizon=-(-limit // repeat))
        core = first.unwrapped
        self._memory = Memory(core.model, core.data) if _is_mujoco(core) else None
        self._drawing: Drawing | None = None
        try:
            first.reset(seed=0)
            self._encoded(0)
        except TypeError:
            self.exact = False

    def _shown(self) -> ObservationSpace:
        space = self._made[0].observation_space
        self._is_box = isinstance(space, self._flat.Box)
        if self._is_box and space.dtype == np.uint8:
            return ObservationSpace(space.shape, torch.uint8)
        shape = space.shape if self._is_box else (self._flat.flatdim(space),)
        return ObservationSpace(tuple(shape), torch.float32)

    def _actions_of(self, name: str) -> ActionSpace:
        space = self._action_space
        if isinstance(space, self._flat.Discrete):
            return ActionSpace(count=int(space.n))
        if not isinstance(space, self._flat.Box):
            raise UserError(f"{name}: actions must be numbered or values with bounds, those of {space} are neither")
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(f"{name}: actions must have bounds, {space} has none")
        return ActionSpace(shape=tuple(space.shape))

    def _begin(self, copy: int, seed: int | None = None) -> Array:
        observation, _ = self._made[copy].reset(seed=None if seed is None else seed % 2**31)
        return self._as_array(observation)

    def _act(self, copy: int, action: Any) -> Outcome:
        space = self._action_space
        if self.action.discrete:
            taken = action + int(space.start)
        else:
            taken = (space.low + (space.high - space.low) * (action + 1) / 2).astype(space.dtype)
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, _ = self._made[copy].step(taken)
            total += float(reward)
            if terminated or truncated:
                break
        return Outcome(self._as_array(observation), total, bool(terminated), bool(truncated))

    def _as_array(self, observation: Any) -> Array:
        if not self._is_box:
            observation = self._flat.flatten(self._made[0].observation_space, observation)
        found: Array = np.asarray(observation)
        return found

    def _state(self) -> dict[str, Tensor]:
        state = {"seen": self.observations.clone()}
        for copy, made in enumerate(self._made):
            state[f"{copy}/attributes"] = self._encoded(copy)
            if self._memory is not None:
                found = self._memory.state(made.unwrapped.model, made.unwrapped.data)
                state |= {f"{copy}/{name}": value for name, value in found.items()}
        return state

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        for copy, made in enumerate(self._made):
            made.reset()  # so that Gymnasium's wrappers count it as begun
            for layer, attributes in zip(self._layers(copy), from_tensor(state[f"{copy}/attributes"]), strict=True):
                vars(layer).update(attributes)
            if self._memory is not None:
                own = {n.removeprefix(f"{copy}/"): v for n, v in state.items() if n.startswith(f"{copy}/")}
                self._memory.restore(made.unwrapped.model, made.unwrapped.data, own)
        return state["seen"].clone()

    def _encoded(self, copy: int) -> Tensor:
        """All that may change while it is played, of every layer.

        Raises:
            TypeError: Something in it cannot be kept.
        """
        changing = [
            {name: value for name, value in vars(layer).items() if not type(value).__module__.startswith(self.fixed)}
            for layer in self._layers(copy)
        ]
        return as_tensor(changing)

    def _layers(self, copy: int) -> Iterator[Any]:
        """The wrappers from outside to inside, the environment itself, and objects in it with a state of their own."""
        made = self._made[copy]
        yield made
        while made is not made.unwrapped:
            made = made.env
            yield made
        yield from (getattr(made, name) for name in self.kept)

    def render(self, copy: int = 0) -> Tensor:
        """The environment's own picture; of MuJoCo's scenes one of `Drawing`."""
        core = self._made[copy].unwrapped
        if self._memory is not None:
            self._drawing = self._drawing or Drawing(core.model, self.name)
            return self._drawing(core.model, core.data)
        if core.render_mode != "rgb_array":
            raise UserError(f"{self.name} was made without pictures: make it with drawn=True")
        try:
            picture = self._made[copy].render()
        except require("gymnasium", "rl", "Gymnasium").error.DependencyNotInstalled as error:
            raise MissingExtraError(f"{self.name} cannot be drawn here: {error}") from error
        return torch.from_numpy(np.array(picture, np.uint8))

    def close(self) -> None:
        """Close every copy."""
        for made in self._made:
            made.close()
        if self._drawing is not None:
            self._drawing.close()


def _is_mujoco(core: Any) -> bool:
    return all(type(getattr(core, name, None)).__module__.startswith("mujoco") for name in ("model", "data"))
