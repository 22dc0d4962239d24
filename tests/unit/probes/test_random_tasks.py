"""Copies that learn random tasks: the share of the loss they remove, against closed forms in float64."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from replastic.errors import UserError
from replastic.probes.random_labels import with_random_labels
from replastic.probes.random_tasks import loss_without_inputs, parts, shares_removed
from replastic.probes.trainee import share_removed
from replastic.seeds import derive


def squared(model: nn.Module, batch: Any) -> Tensor:
    return functional.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def entropy(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=15)
@given(
    samples=st.integers(2, 12),
    size=st.integers(1, 5),
    steps=st.integers(1, 20),
    rate=st.floats(0.01, 0.2),
    seed=st.integers(0, 10**6),
)
def test_linear_regression_in_closed_form(samples: int, size: int, steps: int, rate: float, seed: int) -> None:
    """k gradient steps shrink the error along each eigenvector of X^T X by (1 - 2 rate lambda / n)^k."""
    x, y, w = draw(seed, samples, size), draw(seed + 1, samples), draw(seed + 2, 1, size)
    x = x / torch.linalg.matrix_norm(x, ord=2)  # steps of less than 2 / curvature, so that the loss falls
    model = nn.Linear(size, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(w)
    found = shares_removed(model, (x, y), squared, partial(torch.optim.SGD, lr=rate), steps=steps, tasks=2, seed=seed)
    for number, share in enumerate(found):
        target = with_random_labels((x, y), derive(seed, "task", number))[0][1]
        best = torch.linalg.lstsq(x, target[:, None], driver="gelsd").solution[:, 0]
        values, vectors = torch.linalg.eigh(x.T @ x)
        shrink = vectors @ torch.diag((1 - 2 * rate * values / samples) ** steps) @ vectors.T
        weights = best + shrink @ (w[0] - best)
        before, after = ((x @ v - target).square().mean() for v in (w[0], weights))
        start = min(float(before), float(target.var(correction=0)))
        assert share == pytest.approx(max(0.0, (start - float(after)) / start), abs=1e-7)


def test_several_batches_a_step_each() -> None:
    """The first samples make the first step, the next ones the second, and so on from the start again."""
    x, y = draw(0, 5, 3), draw(1, 5)
    model = nn.Linear(3, 1, dtype=torch.float64)
    make = partial(torch.optim.SGD, lr=0.05)
    (share,) = shares_removed(model, (x, y), squared, make, steps=4, tasks=1, batch_size=2, seed=3)
    task = with_random_labels((x, y), derive(3, "task", 0))[0]
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    before = float(squared(twin, task).detach())
    for first, last in ((0, 2), (2, 4), (4, 5), (0, 2)):
        optimizer.zero_grad()
        squared(twin, (task[0][first:last], task[1][first:last])).backward()
        optimizer.step()
    start = min(before, float(y.var(correction=0)))
    assert share == pytest.approx(share_removed(start, float(squared(twin, task).detach())), abs=1e-9)
    table = {"x": x, "labels": y}
    assert [len(part["labels"]) for part in parts(table, 2)] == [2, 2, 1]
    assert next(parts(table, 0)) is table


def test_a_dead_network_has_none_however_wrong_it_begins() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
        model[2].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))  # sure of one class, which it can unlearn
    batch = draw(0, 30, 6), torch.arange(30) % 3
    make = partial(torch.optim.Adam, lr=0.1)
    assert shares_removed(model, batch, entropy, make, steps=60, tasks=2) == pytest.approx([0, 0], abs=1e-9)
    with torch.no_grad():
        model[0].bias.zero_()
    assert min(shares_removed(model, batch, entropy, make, steps=60, tasks=2)) > 0.5


def test_the_loss_without_inputs_is_the_entropy_or_the_variance() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    share = torch.tensor([3, 2, 1], dtype=torch.float64) / 6
    classifier = nn.Linear(4, 3, dtype=torch.float64)
    found = loss_without_inputs(classifier, (draw(0, 6, 4), labels), entropy)
    assert found == pytest.approx(float(-(share * share.log()).sum()), abs=1e-9)
    y = draw(2, 6)
    found = loss_without_inputs(nn.Linear(4, 1, dtype=torch.float64), (draw(0, 6, 4), y), squared)
    assert found == pytest.approx(float(y.var(correction=0)), abs=1e-12)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda model, batch: squared(model, batch) + squared(model, batch),
        lambda model, batch: squared(model.inner, batch),
        lambda model, batch: model(batch[0], pair=True)[0].square().mean(),
    ],
)
def test_where_outputs_cannot_be_put_in_place_the_loss_is_unknown(loss_fn: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 1)

        def forward(self, x: Tensor, pair: bool = False) -> Any:
            return (self.inner(x), x) if pair else self.inner(x)

    assert loss_without_inputs(Net(), (torch.ones(3, 4), torch.ones(3)), loss_fn) == math.inf


@pytest.mark.parametrize(
    ("before", "after", "least", "share"),
    [(2, 0.5, 0, 0.75), (2, 3, 0, 0), (2, 1.5, 1, 0.5), (2, 0, 1, 1), (1, 0.5, 1, 0), (2, math.nan, 0, 0)],
)
def test_share_removed(before: float, after: float, least: float, share: float) -> None:
    assert share_removed(before, after, least) == share


def test_what_cannot_be_learnt_is_said() -> None:
    make = partial(torch.optim.SGD, lr=0.1)
    model = nn.Linear(3, 1)
    with pytest.raises(UserError, match="got a Tensor"):
        shares_removed(model, torch.ones(4, 3), squared, make, steps=1, tasks=1)
    with pytest.raises(UserError, match="leave batch_size at 0"):
        shares_removed(model, ([1, 2], torch.ones(2)), squared, make, steps=1, tasks=1, batch_size=1)
    with pytest.raises(UserError, match="no parameter of this model has requires_grad=True"):
        shares_removed(model.requires_grad_(False), (torch.ones(4, 3), torch.ones(4)), squared, make, steps=1, tasks=1)
