"""The method adamo: whose settings its optimizer has, which weights it moves, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.optim import AdamO


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def backward(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(1)
    model.zero_grad()
    model(torch.randn(8, 5, generator=draw, dtype=torch.float64)).square().mean().backward()


def penalty_gradient(w: Tensor) -> Tensor:
    """4 (W W^T - I) W or 4 W (W^T W - I), whichever has the smaller Gram matrix."""
    if w.shape[0] <= w.shape[1]:
        return 4 * (w @ w.T - torch.eye(len(w), dtype=w.dtype)) @ w
    return 4 * w @ (w.T @ w - torch.eye(w.shape[1], dtype=w.dtype))


@pytest.mark.parametrize("isometry_lr", [0.0, 0.2])
def test_a_step_is_that_of_the_runs_adam_beside_the_isometry_step_and_both_follow_the_schedule(
    isometry_lr: float,
) -> None:
    model, twin = small(), small()
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}
    given, adamw = (torch.optim.AdamW(m.parameters(), **settings) for m in (model, twin))
    spec = {"strength": 0.05, "isometry_lr": isometry_lr, "targets": "2"}
    with replastic.during("adamo", model, given, **spec) as method:
        schedules = [LambdaLR(optimizer, lambda step: 1 / (1 + step)) for optimizer in (method.optimizer, adamw)]
        for step in range(3):
            backward(model)
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                q.grad = p.grad.clone()
            with torch.no_grad():
                twin[2].weight -= (isometry_lr or 0.1) / (1 + step) * 0.05 * penalty_gradient(twin[2].weight)
            adamw.step()
            method.optimizer.step()
            for schedule in schedules:
                schedule.step()
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


OTHERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.03, momentum=0.9),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.03, eps=1e-3),
    "LBFGS": lambda groups: torch.optim.LBFGS(groups, lr=0.03),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_of_another_optimizer_it_takes_the_learning_rate_alone(kind: str) -> None:
    model = small()
    with replastic.during("adamo", model, OTHERS[kind](list(model.parameters()))) as method:
        (group,) = method.optimizer.param_groups
        assert isinstance(method.optimizer, AdamO)
        assert (group["lr"], group["betas"], group["eps"]) == (0.03, (0.9, 0.999), 1e-8)
        assert not {"momentum", "alpha", "max_iter"} & group.keys()


def test_groups_keep_settings_of_their_own_and_names() -> None:
    model = small()
    groups = [
        {"params": [model[0].weight, model[0].bias], "lr": 0.5, "momentum": 0.3, "purpose": "first"},
        {"params": [p for m in model[2:] for p in m.parameters()]},
    ]
    with replastic.during("adamo", model, torch.optim.SGD(groups, lr=0.01, momentum=0.9)) as method:
        first, second = method.optimizer.param_groups
        assert (first["lr"], second["lr"]) == (0.5, 0.01)
        assert first["purpose"] == "first"
        assert "momentum" not in first


def test_an_optimizer_without_a_chosen_matrix_stays_what_it_is() -> None:
    model = small()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    given = {"matrices": torch.optim.Adam(matrices), "vectors": torch.optim.SGD(vectors, lr=0.1, weight_decay=0.1)}
    with replastic.during("adamo", model, given) as method:
        kinds = {name: type(optimizer) for name, optimizer in method.optimizers.items()}
    assert kinds == {"matrices": AdamO, "vectors": torch.optim.SGD}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_weight_decay_in_the_gradient_is_refused(kind: type[torch.optim.Optimizer]) -> None:
    model = small()
    with pytest.raises(UserError, match=rf"{kind.__name__} adds it \(weight_decay=0.1\): give AdamW, or 0"):
        replastic.during("adamo", model, kind(model.parameters(), lr=0.1, weight_decay=0.1))


@pytest.mark.skipif("decoupled_weight_decay" not in signature(torch.optim.Adam).parameters, reason="torch before 2.7")
def test_decay_of_adam_that_is_kept_apart_is_taken_over() -> None:
    model = small()
    given = torch.optim.Adam(model.parameters(), weight_decay=0.1, decoupled_weight_decay=True)
    with replastic.during("adamo", model, given) as method:
        assert method.optimizer.param_groups[0]["weight_decay"] == 0.1


def test_wrong_input_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="strength must be at least 0, got -1"):
        methods.from_spec("adamo:strength=-1")
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(UserError, match="chooses no weight of this model"):
        replastic.during("adamo", model, torch.optim.Adam(model.parameters()))
    frozen = small().requires_grad_(False)
    with pytest.raises(UserError, match="frozen"):
        replastic.during("adamo", frozen, torch.optim.Adam(frozen.parameters()))
