"""L2-ER: its step against finite differences in float64, its decay, its samples, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import replastic
from replastic import methods
from replastic.errors import UserError

Batch = tuple[Tensor, Tensor]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()


def batches(count: int, size: int = 4) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 4, generator=draw, dtype=torch.float64), torch.randint(3, (size,), generator=draw))
        for _ in range(count)
    ]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def ranks(model: nn.Sequential, inputs: Tensor) -> float:
    """Mean effective rank of the last two hidden layers, by numpy."""
    found = []
    with torch.no_grad():
        for depth in (4, 6):
            s = np.linalg.svd(model[:depth](inputs).numpy(), compute_uv=False)
            p = s / s.sum()
            found.append(np.exp(-(p * np.log(p + 1e-8)).sum()))
    return float(np.mean(found))


def attached(model: nn.Module, data: Any, **options: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return replastic.during("l2_er", model, optimizer, batches=data, loss_fn=loss_fn, **options)


def update(method: Any) -> Any:
    """The calls of one update."""
    method.penalty()
    return method.after_update()


def test_its_step_goes_up_the_effective_rank_of_all_samples_together() -> None:
    model, data = small(), batches(3)
    inputs = torch.cat([x for x, _ in data])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    start = ranks(model, inputs)
    wanted: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        slope = torch.zeros_like(p)
        for index in np.ndindex(*p.shape):
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    p[index] += step
                sides.append(ranks(model, inputs))
                with torch.no_grad():
                    p[index] -= step
            slope[index] = (sides[0] - sides[1]) / 2e-5
        wanted[name] = slope
    assert not wanted["6.weight"].any()
    with attached(model, data, er_lr=0.01, er_batch=3, decay=0.0) as method:
        assert method.penalty() is None
        assert [update(method) for _ in range(2)] == [[], []]
        assert len(update(method)) == 1
    for name, p in model.named_parameters():
        torch.testing.assert_close((p.detach() - before[name]) / 0.01, wanted[name], rtol=1e-4, atol=1e-6)
    assert ranks(model, inputs) > start


def test_the_decay_is_added_to_the_gradient() -> None:
    model = small()
    with attached(model, batches(1), decay=0.25, er_lr=0.0) as method:
        found = torch.autograd.grad(method.penalty(), list(model.parameters()))
        assert update(method) == []
    for gradient, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, 0.25 * p.detach(), rtol=1e-12, atol=0)


def test_every_sample_of_a_pass_is_taken_before_one_comes_again() -> None:
    model, data = small(), batches(6, size=2)
    seen: list[Tensor] = []

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch[0])
        return loss_fn(model, batch)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with replastic.during("l2_er:er_batch=3", model, optimizer, batches=data, loss_fn=watched) as method:
        seen.clear()
        for _ in range(12):
            update(method)
    rows = torch.cat([x for x, _ in data])
    for first in (0, 6):
        taken = torch.cat(seen[first : first + 6])
        assert sorted(taken.tolist()) == sorted(rows.tolist())
    assert not torch.equal(torch.cat(seen[:6]), torch.cat(seen[6:])), "each pass has an order of its own"


def test_dropout_and_statistics_leave_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)).double().eval()
    statistics = {name: b.clone() for name, b in model.named_buffers()}
    state = torch.get_rng_state()
    with attached(model, batches(2), er_batch=2) as method:
        assert not update(method)
        assert update(method)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(b, statistics[name]) for name, b in model.named_buffers())
    assert not any(module.training for module in model.modules())


def test_too_few_samples_and_no_features_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs at least 2 samples .* er_batch=1 batches have 1: raise er_batch"):
        attached(small(), batches(3, size=1), er_batch=1)
    with attached(small(), batches(3, size=1), er_batch=2) as method:
        update(method)
        assert update(method)
    with pytest.raises(UserError, match="no Linear or convolution of this model reads any"):
        attached(nn.Sequential(nn.Linear(4, 3)).double(), batches(2))
    with pytest.raises(UserError, match="frozen"):
        attached(small().requires_grad_(False), batches(2))
    with pytest.raises(UserError, match="batches gave none"):
        attached(small(), [])
    with pytest.raises(UserError, match="er_batch"):
        methods.from_spec("l2_er:er_batch=0")
    with pytest.raises(UserError, match="er_batch"):
        attached(small(), batches(2), er_lr=0.0, er_batch=3)
