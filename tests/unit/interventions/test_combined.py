"""Several methods at once: what is read, what is refused, and that each part does its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.interventions.method import REGISTRY
from replastic.methods import Method

RunOn = Callable[..., methods.Run]


@dataclass(kw_only=True)
class Noting(Method):
    """Remembers what it was asked, in a list that several share."""

    def setup(self, run: methods.Run) -> None:
        self.calls.append((self.name, "setup"))
        self.count = torch.zeros(2)

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]

    def close(self) -> None:
        self.calls.append((self.name, "close"))


@dataclass(kw_only=True)
class Other(Noting):
    """Another one."""

    def close(self) -> None:
        super().close()
        raise RuntimeError("on purpose")


@dataclass(kw_only=True)
class Maker(Method):
    """Makes the optimizer."""

    def make_optimizer(self, groups: Any, build: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.25)


@dataclass(kw_only=True)
class Builder(Maker):
    """Makes it, too."""


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    kinds: dict[str, type[Method]] = {"noting": Noting, "other": Other, "maker": Maker, "builder": Builder}
    for name, kind in kinds.items():
        methods.register(name)(kind)
    noted: list[tuple[str, str]] = []
    monkeypatch.setattr(Noting, "calls", noted, raising=False)
    yield noted
    for name in kinds:
        del REGISTRY._entries[name]


@pytest.mark.parametrize(
    "spec",
    [
        "l2_init+fire",
        "fire+l2_init",
        "l2_init:strength=0.5+fire:solver=fast,scale=unit",
        "l2_init:strength=1e+16+parseval+fire",
    ],
)
def test_spec_round_trip(spec: str) -> None:
    method = methods.from_spec(spec)
    assert methods.spec_of(method) == spec
    assert methods.from_spec(methods.spec_of(method)) == method
    assert "+".join(map(methods.spec_of, method.parts)) == spec
    assert methods.from_spec(spec).parts[-1].name == spec.rpartition("+")[2].partition(":")[0]


def test_order_matters_and_spaces_do_not() -> None:
    assert methods.from_spec("fire+l2_init") != methods.from_spec("l2_init+fire")
    assert methods.from_spec(" fire + l2_init : strength = 1e+2 ") == methods.from_spec("fire+l2_init:strength=100")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fire+fyre", "unknown method 'fyre'; did you mean 'fire'"),
        ("fire+l2_init:strenth=1", "l2_init has no option 'strenth'"),
        ("fire+l2_init+fire:scale=unit", "fire is given twice in fire+l2_init+fire"),
        ("maker+fire+builder", "maker and builder cannot be combined: each makes the optimizer"),
        ("redo+plasticity_injection", "plasticity_injection and redo cannot be combined: the one replaces modules"),
        ("redo+nap", "nap and redo cannot be combined: what the one adds to the network makes units depend on each"),
        ("nap+cbp", "nap and cbp cannot be combined: what the one adds to the network"),
        ("fire+", "unknown method 'fire+'"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        methods.from_spec(spec)
    assert str(caught.value).startswith(message)
    with pytest.raises(UserError, match="options strength could be meant for any part"):
        methods.from_spec("fire+l2_init", strength=1.0)


def test_settings_name_every_part() -> None:
    alone = methods.settings(methods.from_spec("l2_init:strength=0.5"))
    assert alone == {"name": "l2_init", "strength": 0.5}
    both = methods.settings(methods.from_spec("l2_init:strength=0.5+optimizer_reset"))
    assert both == {"name": "l2_init+optimizer_reset", "parts": [alone, {"name": "optimizer_reset"}]}


def test_needs_are_united_and_named_by_part(run_on: RunOn) -> None:
    method = methods.from_spec("dash+l2_init")
    assert method.required() == {"model", "batches", "loss", "init"}
    with pytest.raises(UserError, match="dash needs data of the coming phase"):
        methods.check_needs(method, run_on(nn.Linear(3, 3)))
    assert methods.from_spec("fire:scale=init+dash").required() == {"init", "model", "batches", "loss"}


def test_penalties_are_added(run_on: RunOn) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    init = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    run = run_on(model, init=init)
    whole, pull, parseval = map(methods.from_spec, ("l2_init+fire+parseval", "l2_init", "parseval"))
    for method in (whole, pull, parseval):
        method.setup(run)
    penalties = [method.penalty(run) for method in (whole, pull, parseval)]
    assert all(p is not None for p in penalties)
    total, first, second = (float(p.detach()) for p in penalties if p is not None)
    assert total == pytest.approx(first + second, rel=1e-6)
    assert methods.from_spec("fire+head_reset").penalty(run) is None


def test_states_lie_side_by_side(run_on: RunOn) -> None:
    method, again = (methods.from_spec("noting+other") for _ in range(2))
    run = run_on(nn.Linear(2, 2))
    for one in (method, again):
        one.setup(run)
    method.parts[0].count, method.parts[1].count = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    state = method.state_dict()
    assert {name: value.tolist() for name, value in state.items()} == {
        "noting/count": [1.0, 2.0],
        "other/count": [3.0, 4.0],
    }
    again.load_state_dict(state)
    assert again.parts[1].count.tolist() == [3.0, 4.0]


def test_parts_that_change_the_forward_pass_are_set_up_first(
    calls: list[tuple[str, str]], run_on: RunOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Other, "changes_forward", True)
    method = methods.from_spec("noting+other")
    method.setup(run_on(nn.Linear(2, 2)))
    assert calls == [("other", "setup"), ("noting", "setup")]
    assert [part.name for part in method.parts] == ["noting", "other"], "they act in the order of the spec"


def test_a_combination_draws_if_a_part_does() -> None:
    for spec, draws in {
        "fire": False,
        "interpolation": False,
        "interpolation:toward=fresh": True,
        "fire+interpolation": False,
        "fire+interpolation:toward=fresh": True,
        "redo+fire": True,
        "shrink_perturb": True,
    }.items():
        assert methods.from_spec(spec).draws is draws, spec


def test_every_part_is_closed_even_if_one_fails(calls: list[tuple[str, str]]) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        methods.from_spec("noting+other").close()
    assert set(calls) == {("noting", "close"), ("other", "close")}


def test_the_part_that_makes_the_optimizer_does() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(2))]}]
    method = methods.from_spec("fire+maker")
    assert method.makes_optimizer
    assert isinstance(method.make_optimizer(groups, torch.optim.Adam), torch.optim.SGD)
    without = methods.from_spec("fire+l2_init")
    assert not without.makes_optimizer
    assert isinstance(without.make_optimizer(groups, torch.optim.Adam), torch.optim.Adam)


def test_the_library_call_refuses_a_combination() -> None:
    with pytest.raises(
        UserError, match=r"fire[+]l2_init is for training runs; here apply its parts one after the other"
    ):
        replastic.apply_("fire+l2_init", nn.Sequential(nn.Linear(3, 3)))
