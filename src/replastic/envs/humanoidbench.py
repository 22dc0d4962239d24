"""HumanoidBench: tasks of humanoid robots in MuJoCo, from the user's checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar, Final

from replastic.disk import user_path
from replastic.envs._environment import Environment
from replastic.envs._family import Family, register
from replastic.envs._mujoco import without_display
from replastic.envs.gym import GymEnvironment
from replastic.errors import MissingExtraError, UserError
from replastic.extras import require
from replastic.options import option

FOLDER: Final = "REPLASTIC_HUMANOIDBENCH"
"""Environment variable: the folder of a checkout, if the package is not installed."""
ADDRESS: Final = "https://github.com/carlosferrazza/humanoid-bench"
ENDING: Final = "-v0"
"""End of the names under which Gymnasium knows the tasks."""


@register("humanoidbench", reference="https://arxiv.org/abs/2403.10506")
@dataclass(frozen=True, kw_only=True)
class HumanoidBench(Family):
    """Tasks of HumanoidBench such as ``h1-walk``: observations in one float32 vector, actions from -1 to 1.

    Reference: Sferrazza et al. (2024): an episode is cut off after 1,000 steps (500 in some tasks), and ends when the
    robot falls. HumanoidBench is not on PyPI and runs with mujoco 3.1.6 alone.
    """

    extra: ClassVar[str] = "humanoidbench"
    packages: ClassVar[tuple[str, ...]] = ("mujoco", "dm_control", "gymnasium")

    repeat: int = option(1, help="steps for which an action is repeated; their rewards are summed", low=1)

    @classmethod
    def games(cls) -> Sequence[str]:
        """Every robot with every task, as ``robot-task``."""
        _import()
        known = require("gymnasium", cls.extra, "HumanoidBench").registry.values()
        mine = (spec.id for spec in known if str(spec.entry_point).startswith("humanoid_bench."))
        return sorted(name.removesuffix(ENDING) for name in mine)

    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """The same for training, evaluation and drawing."""
        kind = _import()
        gymnasium = require("gymnasium", self.extra, "HumanoidBench")
        spec = gymnasium.spec(self.game + ENDING)
        limit = spec.max_episode_steps or 0
        # Without a render mode HumanoidBench opens no GL context.
        made = [kind(**spec.kwargs, render_mode=None) for _ in range(copies)]
        wrapped = [gymnasium.wrappers.TimeLimit(one, limit) if limit else one for one in made]
        return HumanoidBenchEnvironment(self.spec, wrapped, limit, self.repeat)


class HumanoidBenchEnvironment(GymEnvironment):
    """Saves the task beside the physics: some remember goals or what was done."""

    kept: ClassVar[tuple[str, ...]] = ("task", "robot")
    fixed: ClassVar[tuple[str, ...]] = (*GymEnvironment.fixed, "humanoid_bench")


def _import() -> Any:
    """The class of HumanoidBench's environments.

    Raises:
        MissingExtraError: It is not installed, and no folder is given.
        UserError: The installed MuJoCo is not the one it needs, or the folder holds something else.
    """
    with without_display():
        mujoco = require("mujoco", "humanoidbench", "HumanoidBench")
        if not mujoco.__version__.startswith("3.1."):
            raise UserError(
                f"HumanoidBench needs mujoco 3.1.6, and {mujoco.__version__} is installed: give it a Python "
                "environment of its own, with pip install 'replastic[humanoidbench]' and without the extra mujoco"
            )
        require("dm_control", "humanoidbench", "HumanoidBench")
        require("imageio", "humanoidbench", "HumanoidBench")
        _find()
        if find_spec("jax") is None:
            _leave_jax_out()
        return require("humanoid_bench.env", "humanoidbench", "HumanoidBench").HumanoidEnv


def _find() -> None:
    """See that ``humanoid_bench`` can be imported."""
    if find_spec("humanoid_bench") is not None:
        return
    given = os.environ.get(FOLDER, "")
    if not given:
        raise MissingExtraError(
            f"HumanoidBench is not installed, and not on PyPI: git clone {ADDRESS}, then set {FOLDER} to that folder "
            "(or pip install --no-deps -e FOLDER)"
        )
    folder = user_path(given).resolve()
    if not (folder / "humanoid_bench" / "env.py").is_file():
        raise UserError(
            f"{FOLDER}={given} is no checkout of HumanoidBench ({ADDRESS}): it has no humanoid_bench/env.py"
        )
    sys.path.append(str(folder))


def _leave_jax_out() -> None:
    """Put an empty stand-in for the one module that imports jax; only its hierarchical policies are made with it."""
    name = "humanoid_bench.mjx.flax_to_torch"
    if name not in sys.modules:
        module = ModuleType(name)
        vars(module).update(TorchModel=_NeedsJax, TorchPolicy=_NeedsJax)
        sys.modules[name] = module


class _NeedsJax:
    """Refuses to be made."""

    def __init__(self, *given: object, **named: object) -> None:
        raise UserError("hierarchical policies of HumanoidBench need jax: pip install jax")
