"""A loop that leaves a call out is told so, and does not train on as if nothing were missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import replastic
from replastic.errors import UserError

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
DATA = [(X, Y)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def loss_of(model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(X), Y)


def on(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("spec", ["isometry", "redo:every=3+isometry"])
def test_a_penalty_that_nobody_asked_for_is_an_error_at_every_update(spec: str) -> None:
    model = network()
    with replastic.during(spec, model, torch.optim.Adam(model.parameters()), batches=DATA, loss_fn=on) as method:
        for asked in (True, False):
            if asked:
                method.penalty()
            loss_of(model).backward()
            method.optimizer.step()
            if asked:
                method.after_update()
            else:
                with pytest.raises(UserError, match=r"isometry adds a term to the loss.*call method\.penalty\(\)"):
                    method.after_update()


@pytest.mark.parametrize("spec", ["base", "adamo", "redo:every=3"])
def test_a_method_without_a_term_asks_for_nothing(spec: str) -> None:
    model = network()
    with replastic.during(spec, model, torch.optim.Adam(model.parameters()), batches=DATA, loss_fn=on) as method:
        loss_of(model).backward()
        method.optimizer.step()
        method.after_update()


@pytest.mark.parametrize("spec", ["base", "sam"])
def test_backward_wants_a_function_that_leaves_gradients(spec: str) -> None:
    model = network()
    with replastic.during(spec, model, torch.optim.Adam(model.parameters()), batches=DATA, loss_fn=on) as method:
        with pytest.raises(UserError, match=r"needs a function .* and returns the loss, got a tensor"):
            method.backward(loss_of(model))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"no parameter has a gradient: call loss\.backward\(\) in it"):
            method.backward(lambda: loss_of(model))
