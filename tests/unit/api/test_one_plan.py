"""A public call chooses the weights once: one plan, and one list of what the model holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import replastic
from replastic.interventions.plan import Plan, plan
from replastic.weights.module_store import ModuleStore


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every plan that is made from now on, wherever in the package."""
    found: list[Plan] = []

    def counted(*arguments: Any, **named: Any) -> Plan:
        found.append(plan(*arguments, **named))
        return found[-1]

    homes = [m for n, m in sys.modules.items() if n.startswith("replastic.") and getattr(m, "plan", None) is plan]
    assert homes
    for module in homes:
        monkeypatch.setattr(module, "plan", counted)
    return found


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def fire(folder: Path) -> object:
    model = network()
    return replastic.fire_(model, optimizer=torch.optim.Adam(model.parameters()))


def interpolation(folder: Path) -> object:
    return replastic.apply_("interpolation", network(), init=network().state_dict())


def rewrite(folder: Path) -> object:
    save_file(network().state_dict(), folder / "a.safetensors")
    return replastic.rewrite(folder / "a.safetensors", folder / "b.safetensors")


@pytest.mark.parametrize("call", [fire, interpolation, rewrite])
def test_one_call_makes_one_plan(call: Callable[[Path], object], made: list[Plan], tmp_path: Path) -> None:
    call(tmp_path)
    assert len(made) == 1
    assert made[0].jobs


@pytest.mark.parametrize("call", [fire, interpolation])
def test_one_call_lists_the_tensors_of_a_model_once(
    call: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`entries` may be asked for often: the list is made anew only where the model has changed."""
    lists = []
    make = ModuleStore._make_entries
    monkeypatch.setattr(ModuleStore, "_make_entries", lambda store: lists.append(store) or make(store))
    call(tmp_path)
    assert len(lists) == 1
