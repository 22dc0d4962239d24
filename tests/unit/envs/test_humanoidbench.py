"""HumanoidBench is found where the user has it; what is missing is said in one sentence."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from replastic import envs
from replastic.envs import humanoidbench
from replastic.errors import MissingExtraError, UserError


@pytest.fixture
def mujoco(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stand-ins for the packages that it needs, and no HumanoidBench."""
    for name in ("mujoco", "dm_control", "imageio"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mujoco"].__version__ = "3.1.6"  # type: ignore[attr-defined]
    monkeypatch.setattr(humanoidbench, "find_spec", lambda name: None)
    monkeypatch.delenv(humanoidbench.FOLDER, raising=False)
    return sys.modules["mujoco"]


def test_without_a_checkout_the_way_to_get_one_is_told(mujoco: ModuleType) -> None:
    with pytest.raises(MissingExtraError, match=r"not on PyPI: git clone https://github.com/carlosferrazza/humanoid-b"):
        envs.from_spec("humanoidbench/h1-walk")


def test_a_wrong_folder_is_refused(mujoco: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(humanoidbench.FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=r"is no checkout of HumanoidBench .* it has no humanoid_bench/env.py"):
        envs.from_spec("humanoidbench/h1-walk")


def test_another_mujoco_is_refused(mujoco: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco, "__version__", "3.17.0")
    with pytest.raises(UserError, match=r"needs mujoco 3.1.6, and 3.17.0 is installed: give it a Python environment"):
        envs.from_spec("humanoidbench/h1-walk")


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec("humanoid_bench") is None, reason="humanoid_bench is not importable")
def test_the_tasks_of_the_paper_are_there() -> None:
    for task in ("h1-balance_simple", "h1-walk", "h1-run"):
        environment = envs.from_spec(f"humanoidbench/{task}").make(1, 0)
        assert environment.action.shape == (19,)
        assert environment.observation.shape == ((64,) if "balance" in task else (51,))
        assert environment.episodic
        assert environment.horizon == 1000
        assert "jax" not in sys.modules
        environment.close()
