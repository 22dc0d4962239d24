"""The training loop of the README: every method works in it as it stands, and without one it is the plain loop."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import methods
from replastic.errors import UserError

README = Path(__file__).resolve().parents[2] / "README.md"
SHOWN = '"redo"'
MOST_LINES = 12
ACTING = [
    "fire",
    "ewc:strength=1e+4+fire",
    "parseval:strength=0.1",
    "muon",
    "redo",
    "cbp:replacement_rate=0.5,maturity_threshold=1",
    "bn_reestimate",
    "hare_tortoise:every=2",
]
"""Methods of every kind, with options that let them act within a few updates."""


def loops() -> tuple[str, str]:
    """The loop before and after, as printed."""
    section = README.read_text(encoding="utf-8").split("## In your training loop\n")[1].split("\n## ")[0]
    before, after = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return before, after


def network() -> nn.Module:
    """Kernels, norms, matrices and a head; one unit is dead, so that there is something to reset."""
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(1, 6, 3))
    model.add_module("norm", nn.BatchNorm2d(6))
    model.add_module("act", nn.ReLU())
    model.add_module("flat", nn.Flatten())
    model.add_module("hidden", nn.Linear(6 * 16, 12))
    model.add_module("relu", nn.ReLU())
    model.add_module("head", nn.Linear(12, 3))
    with torch.no_grad():
        model.hidden.bias[0] = -100.0
    return model


def trained(code: str) -> dict[str, Any]:
    """The names after the loop has run: three phases of three batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
        phases = [[(torch.randn(8, 1, 6, 6), torch.randint(3, (8,))) for _ in range(3)] for _ in range(3)]

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    names: dict[str, Any] = {"model": model, "optimizer": optimizer, "phases": phases, "loss_fn": loss_fn}
    exec(compile(code, str(README), "exec"), names)
    return names


def differing(a: nn.Module, b: nn.Module) -> list[str]:
    states = [model.state_dict() for model in (a, b)]
    return [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]


def hooks(model: nn.Module) -> Iterable[Any]:
    return (hook for m in model.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks))


def test_the_loop_is_short_and_names_one_method() -> None:
    _, after = loops()
    assert len([line for line in after.splitlines() if line.strip()]) <= MOST_LINES
    assert after.count(SHOWN) == 1


TWICE = [name for name in methods.names() if methods.from_spec(name).repeats_backward]
"""Methods that need the loss twice an update."""


def test_the_one_exception_is_named_and_says_what_to_do() -> None:
    section = README.read_text(encoding="utf-8").split("## In your training loop\n")[1].split("\n## ")[0]
    assert TWICE == ["sam"]
    assert "every method but [`sam`]" in section
    with pytest.raises(UserError, match=r"^sam computes the loss twice .* method.backward\(closure\), before"):
        trained(loops()[1].replace(SHOWN, '"sam"'))


SPECIAL = [name for name in methods.names() if methods.get(name).needs & {"checkpoints", "replay"}]
"""Methods that need more than such a loop has."""


def test_methods_that_need_more_are_named() -> None:
    section = README.read_text(encoding="utf-8").split("## In your training loop\n")[1].split("\n## ")[0]
    assert SPECIAL == ["average", "from_checkpoint", "replay"]
    assert all(f"`{name}`" in section for name in SPECIAL)


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in (*TWICE, *SPECIAL)])
def test_every_method_runs_in_the_loop(name: str) -> None:
    names = trained(loops()[1].replace(SHOWN, repr(name)))
    assert names["method"].run.phase == 2
    assert names["method"].run.step == 9
    assert torch.isfinite(names["loss"])
    assert not list(hooks(names["model"]))


@pytest.mark.parametrize("spec", ACTING)
def test_a_method_acts_in_the_loop(spec: str) -> None:
    before, after = loops()
    assert differing(trained(before)["model"], trained(after.replace(SHOWN, repr(spec)))["model"])


def test_without_a_method_it_is_the_loop_before() -> None:
    before, after = loops()
    plain, attached = trained(before), trained(after.replace(SHOWN, '"base"'))
    assert not differing(plain["model"], attached["model"])
    assert attached["method"].optimizer is attached["optimizer"]


def test_muon_brings_its_own_optimizer() -> None:
    names = trained(loops()[1].replace(SHOWN, '"muon"'))
    assert names["optimizer"].state_dict()["state"] == {}
