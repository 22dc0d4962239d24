"""`replastic.during` in the end: after an error, in copies and when it is over, the model is the user's again."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.interventions.unit_method import UnitMethod
from support.training_bench import IN_LOOPS, build, checkpoints, data, differing, lively, loss_fn, tensors_in

every_method = pytest.mark.parametrize("name", IN_LOOPS)
every_unit_method = pytest.mark.parametrize(
    "name", [name for name in methods.names() if issubclass(methods.get(name), UnitMethod)]
)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2)


@every_method
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_error_the_model_is_the_users_again(name: str, error: type[BaseException]) -> None:
    model, init = build()
    optimizer = adam(model)
    arguments: dict[str, Any] = {"init": init, "batches": data(0), "loss_fn": loss_fn, "checkpoints": checkpoints()}
    method = replastic.during(lively(name), model, optimizer, **arguments)

    def interrupted() -> None:
        with method:
            loss_fn(model, data(0)[0]).backward()
            raise error

    with pytest.raises(error):
        interrupted()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert method.penalty() is None
    assert method.after_update() == []
    assert method.cross() == []


@every_unit_method
def test_a_failing_start_leaves_no_hook(name: str) -> None:
    model, _ = build()

    def failing(model: nn.Module, batch: Any) -> Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(UserError, match="no loss"):
        replastic.during(lively(name), model, adam(model), batches=data(0), loss_fn=failing)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@every_unit_method
def test_copies_of_a_watched_model_are_plain(name: str) -> None:
    model, _ = build()
    with replastic.during(lively(name), model, adam(model), batches=data(0), loss_fn=loss_fn) as method:
        copied = copy.deepcopy(model)
        before = tensors_in(method.state_dict())
        loss_fn(copied.train(), data(0)[0]).backward()
        assert differing(tensors_in(method.state_dict()), before) == []
        held = {id(x) for hooks in hooks_of(copied) for x in gc.get_referents(*hooks)}
        assert id(method.method) not in held


def hooks_of(model: nn.Module) -> list[list[Any]]:
    return [list(m._forward_hooks.values()) + list(m._forward_pre_hooks.values()) for m in model.modules()]


def test_the_method_lets_go_of_the_model() -> None:
    model, _ = build()
    alive = weakref.ref(model)
    with replastic.during(lively("redo"), model, adam(model), batches=data(0), loss_fn=loss_fn):
        pass
    del model
    gc.collect()
    assert alive() is None
