"""The DeepMind Control Suite: tasks of MuJoCo such as ``humanoid-walk``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from replastic.envs._environment import ActionSpace, Environment, ObservationSpace
from replastic.envs._family import Family, register
from replastic.envs._mujoco import Drawing, Memory, without_display
from replastic.envs._python_state import as_tensor, from_tensor
from replastic.envs._separate import Array, Outcome, SeparateCopies
from replastic.errors import UserError
from replastic.extras import require
from replastic.options import option


@register("dm_control", reference="https://arxiv.org/abs/1801.00690")
@dataclass(frozen=True, kw_only=True)
class DmControl(Family):
    """Tasks of the DeepMind Control Suite: observations in one float32 vector, actions scaled to -1..1.

    Reference: Tassa et al. (2018): an episode is cut off after 1,000 steps of control, rewards lie in [0, 1]. The
    rewards of the steps for which an action is repeated are summed.
    """

    extra: ClassVar[str] = "mujoco"
    packages: ClassVar[tuple[str, ...]] = ("dm_control", "mujoco")

    repeat: int = option(1, help="steps of control for which an action is repeated", low=1)

    @classmethod
    def games(cls) -> Sequence[str]:
        """Every task of the suite, as ``domain-task``."""
        return sorted(f"{domain}-{task}" for domain, task in _suite().ALL_TASKS)

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """The same for training, evaluation and drawing.

        Raises:
            UserError: The versions of dm_control, MuJoCo and NumPy do not go together.
        """
        try:
            return DmControlEnvironment(self, copies)
        except (AttributeError, ValueError) as error:
            there = ", ".join(f"{name} {version(name)}" for name in (*self.packages, "numpy"))
            raise UserError(
                f"{self.spec} cannot be made: {there} do not go together ({str(error).splitlines()[0]}); pip install "
                "'replastic[mujoco]' in an environment of its own"
            ) from error


class DmControlEnvironment(SeparateCopies):
    """Environments of dm_control in a list; physics, generators and counters are saved and restored."""

    def __init__(self, family: DmControl, copies: int) -> None:
        domain, _, task = family.game.partition("-")
        load, flat = _suite().load, {"flat_observation": True}
        self._made = [load(domain, task, {"random": 0}, dict(flat)) for _ in range(copies)]
        self._repeat = family.repeat
        first = self._made[0]
        bounds = first.action_spec()
        self._low, self._range = bounds.minimum, bounds.maximum - bounds.minimum
        super().__init__(
            family.spec,
            copies,
            ObservationSpace((_vector(first.reset()).size,), torch.float32),
            ActionSpace(shape=tuple(bounds.shape)),
            frames=family.repeat,
            episodic=False,
            horizon=-(-int(first._step_limit) // family.repeat),
        )
        self._memory = Memory(first.physics.model.ptr, first.physics.data.ptr)
        self._drawing: Drawing | None = None

    def _begin(self, copy: int, seed: int | None = None) -> Array:
        if seed is not None:
            self._made[copy].task.random.seed(seed % 2**32)
        return _vector(self._made[copy].reset())

    def _act(self, copy: int, action: Any) -> Outcome:
        taken, reward = self._low + self._range * (action.astype(np.float64) + 1) / 2, 0.0
        for _ in range(self._repeat):
            step = self._made[copy].step(taken)
            reward += float(step.reward)
            if step.last():
                break
        over = step.last()
        return Outcome(_vector(step), reward, over and step.discount == 0, over and step.discount != 0)

    def _state(self) -> dict[str, Tensor]:
        state = {"seen": self.observations.clone()}
        for copy, made in enumerate(self._made):
            facts = [made._step_count, made._reset_next_step, _attributes(made.task)]
            state[f"{copy}/attributes"] = as_tensor(facts)
            found = self._memory.state(made.physics.model.ptr, made.physics.data.ptr)
            state |= {f"{copy}/{name}": value for name, value in found.items()}
        return state

    def _load(self, state: Mapping[str, Tensor]) -> Tensor:
        for copy, made in enumerate(self._made):
            own = {n.removeprefix(f"{copy}/"): v for n, v in state.items() if n.startswith(f"{copy}/")}
            made._step_count, made._reset_next_step, attributes = from_tensor(own["attributes"])
            vars(made.task).update(attributes)
            self._memory.restore(made.physics.model.ptr, made.physics.data.ptr, own)
        return state["seen"].clone()

    def render(self, copy: int = 0) -> Tensor:
        """The scene by the first camera of the model, (240, 320, 3)."""
        physics = self._made[copy].physics
        self._drawing = self._drawing or Drawing(physics.model.ptr, self.name)
        return self._drawing(physics.model.ptr, physics.data.ptr)

    def close(self) -> None:
        """Free the context in which it was drawn."""
        if self._drawing is not None:
            self._drawing.close()


def _suite() -> Any:
    with without_display():
        return require("dm_control.suite", "mujoco", "dm_control")


def _vector(step: Any) -> Array:
    """The observations of a step, flattened by dm_control."""
    found: Array = step.observation["observations"]
    return found


def _attributes(task: Any) -> dict[str, Any]:
    """Numbers, arrays and generators of a task; parts of the suite, such as rewards and models, never change."""
    kinds = (bool, int, float, str, list, tuple, np.ndarray, np.generic, np.random.RandomState)
    return {name: value for name, value in vars(task).items() if isinstance(value, kinds)}
