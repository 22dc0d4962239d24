"""Kinds of optimizers whose state must follow; the policies themselves are proved with the writer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from replastic.errors import UserError
from replastic.weights.optimizer_state import POLICIES, OptimizerState, check_policy

KINDS: dict[str, Any] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.5),
    "Adafactor": torch.optim.Adafactor,
}


def trained(kind: str) -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    optimizer = KINDS[kind](layer.parameters())
    for _ in range(2):
        step(layer, optimizer)
    return layer, optimizer


def step(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    layer(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("all_of_it", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_on_as_if_new(kind: str, all_of_it: bool) -> None:
    layer, optimizer = trained(kind)
    old, kept = dict(optimizer.state[layer.weight]), optimizer.state[layer.bias]
    twin = copy.deepcopy(layer)
    new = KINDS[kind](twin.parameters())
    state = OptimizerState(optimizer)
    undo = state.drop_all() if all_of_it else state.drop([layer.weight])
    assert (optimizer.state.get(layer.bias) is kept) is not all_of_it
    step(layer, optimizer)
    step(twin, new)
    assert torch.equal(layer.weight, twin.weight)
    undo()
    restored = optimizer.state[layer.weight]
    assert restored.keys() == old.keys()
    assert all(restored[k] is old[k] for k in old)


def test_the_history_of_lbfgs_goes_with_any_of_its_parameters() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.LBFGS([layer.bias, layer.weight], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = layer(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    history = optimizer.state[layer.bias]  # all of it is kept with the first parameter
    assert history["old_dirs"]
    for forget in (
        lambda state: state.drop([layer.weight]),
        lambda state: state.clear_rows(layer.weight, 0, torch.tensor([1])),
    ):
        undo = forget(OptimizerState(optimizer))
        assert not optimizer.state.get(layer.bias)
        undo()
        assert optimizer.state[layer.bias] is history
    OptimizerState(optimizer).drop([layer.weight])
    optimizer.step(closure)
    assert torch.isfinite(layer.weight).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_cleared_in_what_is_shaped_like_the_parameter(kind: str) -> None:
    layer, optimizer = trained(kind)
    state = optimizer.state[layer.weight]
    before = {k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}
    undo = OptimizerState(optimizer).clear_rows(layer.weight, 0, torch.tensor([1]))
    for key, old in before.items():
        expected = old.clone()
        if old.shape == layer.weight.shape:
            expected[1] = 0
        assert torch.equal(state[key], expected), key
    undo()
    assert all(torch.equal(state[k], v) for k, v in before.items())


def test_a_parameter_without_state_yet_is_fine() -> None:
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    state = OptimizerState(optimizer)
    state.drop([layer.weight])()
    state.clear_rows(layer.weight, 0, torch.tensor([1]))()
    state.drop_all()()
    assert not optimizer.state, "asking must not make a state that training would take for one"


@pytest.mark.parametrize("all_of_it", [False, True])
def test_undo_forgets_what_was_learned_since(all_of_it: bool) -> None:
    """A parameter that had no state before the write has none after its undo."""
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    state = OptimizerState(optimizer)
    undo = state.drop_all() if all_of_it else state.drop([layer.weight])
    step(layer, optimizer)
    undo()
    assert layer.weight not in optimizer.state
    assert (layer.bias in optimizer.state) is not all_of_it


def test_no_optimizer_holds_nothing_and_asks_for_nothing() -> None:
    state = OptimizerState(None)
    assert not state
    assert state.held("w", [nn.Parameter(torch.ones(2))]) == []


def test_policies() -> None:
    for policy in POLICIES:
        check_policy(policy)
    with pytest.raises(UserError, match="policy must be one of"):
        check_policy("drop")
