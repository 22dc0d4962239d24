"""Environments of every family for tests, with what each needs to be installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from replastic.envs import Environment
from replastic.seeds import generator

EXAMPLES = {
    "atari": {"atari/Breakout:life_loss=true,idle=0": "ale_py"},
    "minatar": {
        "minatar/asterix": "minatar",
        "minatar/breakout:limit=9": "minatar",
        "minatar/freeway": "minatar",
        "minatar/seaquest": "minatar",
        "minatar/space_invaders:channels=10": "minatar",
    },
    "gym": {
        "gym/CartPole-v1": "gymnasium",
        "gym/Acrobot-v1": "gymnasium",
        "gym/Pendulum-v1:repeat=3": "gymnasium",
        "gym/FrozenLake-v1": "gymnasium",
        "gym/HalfCheetah-v5": "mujoco",
        "gym/Ant-v5": "mujoco",
    },
    "humanoidbench": {"humanoidbench/h1-walk:repeat=2": "humanoid_bench"},
    "dm_control": {"dm_control/humanoid-walk:repeat=2": "dm_control", "dm_control/reacher-easy": "dm_control"},
}
"""Specs of each family, with the module that it needs."""
HEAVY = ("mujoco", "dm_control", "humanoid_bench")
"""Modules that only ./run test-all installs, or only who has a checkout of HumanoidBench."""


def params(specs: Iterable[str] | None = None) -> list[object]:
    """Parameters of a test for these specs, else for all; those whose simulator is missing are skipped."""
    needs = {spec: module for family in EXAMPLES.values() for spec, module in family.items()}
    found = []
    for spec in needs if specs is None else specs:
        module = needs[spec]
        marks = [pytest.mark.integration] if module in HEAVY else []
        marks.append(pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed"))
        found.append(pytest.param(spec, marks=marks))
    return found


def some_actions(environment: Environment, steps: int, seed: int = 0) -> list[Tensor]:
    """Actions drawn evenly, one tensor a step."""
    draw, space = generator(seed, "actions"), environment.action
    if space.discrete:
        return list(torch.randint(space.count, (steps, environment.copies), generator=draw))
    return list(2 * torch.rand(steps, environment.copies, *space.shape, generator=draw) - 1)
