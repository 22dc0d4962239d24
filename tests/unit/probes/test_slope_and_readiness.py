"""Gradient norms and optimization readiness against hand computations, and the bound on the gain of one step."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import linalg, metrics, recipes
from replastic.errors import UserError
from replastic.probes import Readiness, gradient_norms, optimization_readiness
from replastic.weights.module_store import ModuleStore

Batch = tuple[Tensor, Tensor]


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean() / 2


def problem(seed: int, samples: int, features: int) -> tuple[nn.Linear, Batch]:
    torch.manual_seed(seed)
    model = nn.Linear(features, 1, bias=False).double()
    return model, (torch.randn(samples, features).double(), torch.randn(samples, 1).double())


def gradients_by_hand(model: nn.Linear, batch: Batch) -> Tensor:
    """Of each sample: (samples, features)."""
    return (model(batch[0]) - batch[1]).detach() * batch[0]


def test_gradient_norms_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    model.register_parameter("gain", nn.Parameter(torch.tensor(2.0).double()))
    batch = torch.randn(5, 3).double()

    def loss_fn(m: nn.Module, x: Tensor) -> Tensor:
        return (m.gain * m(x)).square().mean()

    found = gradient_norms(model, [batch], loss_fn)
    model.eval()
    loss_fn(model, batch).backward()
    assert set(found) == {"0", "2", "model"}
    for layer in ("0", "2"):
        both = torch.cat([p.grad.flatten() for p in model[int(layer)].parameters()])
        assert float(found[layer]) == pytest.approx(float(both.norm()), rel=1e-12)
    assert float(found["model"]) == pytest.approx(abs(float(model.gain.grad)))
    whole = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    recorded = metrics.measure(
        ["gradient_norm"],
        store=ModuleStore(model),
        recipe=recipes.load("default"),
        model=model,
        batch=batch,
        loss_fn=loss_fn,
    )
    assert recorded["metric/gradient_norm"] == pytest.approx(whole)
    assert recorded["metric/gradient_norm/0"] == pytest.approx(float(found["0"]))


def test_the_gradient_of_several_batches_is_their_mean() -> None:
    model, (x, y) = problem(0, 6, 3)
    found = gradient_norms(model, [(x[:3], y[:3]), (x[3:], y[3:])], squared_error)
    assert float(found["model"]) == pytest.approx(float(gradients_by_hand(model, (x, y)).mean(0).norm()))


def test_readiness_by_hand() -> None:
    model, batch = problem(1, 8, 3)
    each = gradients_by_hand(model, batch)
    parts = torch.stack([each[list(pick)].mean(0) for pick in combinations(range(8), 2)])
    expected = parts.square().sum(1).mean()
    found = optimization_readiness(
        model, batch, squared_error, generator=torch.Generator().manual_seed(0), draws=3000, size=2
    )
    gradient = float(each.mean(0).square().sum())
    assert found.loss == pytest.approx(float(squared_error(model, batch).detach()))
    assert found.gradient == pytest.approx(gradient)
    assert found.minibatch == pytest.approx(float(expected), rel=0.05)
    assert found.value == pytest.approx(gradient**2 / found.loss / found.minibatch)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), features=st.integers(1, 4), size=st.integers(1, 3), factor=st.floats(1.0, 20.0))
def test_one_step_gains_no_less_than_the_bound(seed: int, features: int, size: int, factor: float) -> None:
    """A quadratic loss and a logistic one, in expectation over every minibatch there is."""
    samples = 6
    model, (x, y) = problem(seed, samples, features)
    weight = model.weight.detach().clone()

    def logistic(m: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(m(batch[0]), (batch[1] > 0).double())

    top = float(torch.linalg.eigvalsh(x.mT @ x / samples)[-1])
    for loss_fn, smoothness in ((squared_error, top), (logistic, top / 4)):
        smoothness *= factor

        def gradient(batch: Batch, loss_fn=loss_fn) -> Tensor:  # type: ignore[no-untyped-def]
            return torch.autograd.grad(loss_fn(model, batch), model.weight)[0]

        picks = [list(pick) for pick in combinations(range(samples), size)]
        parts = [gradient((x[pick], y[pick])) for pick in picks]
        loss = float(loss_fn(model, (x, y)).detach())
        mean_square = float(torch.stack(parts).square().sum((1, 2)).mean())
        found = Readiness(loss, float(gradient((x, y)).square().sum()), mean_square)
        after = []
        for part in parts:
            with torch.no_grad():
                model.weight.copy_(weight - found.step(smoothness) * part)
                after.append(float(loss_fn(model, (x, y))))
                model.weight.copy_(weight)
        gained = 1 - sum(after) / len(after) / loss
        assert gained >= found.gain(smoothness) - 1e-10


def test_full_rank_features_and_kernel_without_readiness() -> None:
    """A counterexample of ours: equal features and kernel, but nothing to gain where the target is out of reach."""
    x = torch.eye(6, 3).double() * 2
    within, beyond = torch.zeros(6, 1).double(), torch.zeros(6, 1).double()
    within[:3], beyond[3:] = 1.0, 1.0
    model = nn.Linear(3, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    assert int(linalg.srank(x)) == 3  # the features are the Jacobian, so they are the kernel's rank, too
    ready, stuck = (
        optimization_readiness(model, (x, y), squared_error, generator=torch.Generator(), size=2)
        for y in (within, beyond)
    )
    assert ready.value > 0.1
    assert stuck.value == 0.0
    assert stuck.loss == ready.loss > 0


def test_nothing_left_to_gain() -> None:
    assert Readiness(0.0, 0.0, 0.0).value == 0.0
    assert Readiness(1.0, 0.0, 0.0).reliability == 0.0
    assert Readiness(2.0, 3.0, 3.0).gain(5.0) == pytest.approx(0.15)


def test_wrong_input() -> None:
    model, batch = problem(0, 7, 2)
    g = torch.Generator()
    with pytest.raises(UserError, match="must hold at least 8, got 7"):
        optimization_readiness(model, batch, squared_error, generator=g)
    with pytest.raises(UserError, match="at least 1, got 0 and 4"):
        optimization_readiness(model, batch, squared_error, generator=g, draws=0)
    with pytest.raises(UserError, match="cannot be negative"):
        optimization_readiness(model, batch, lambda m, b: m(b[0]).sum() * 0 - 1, generator=g, size=2)
    with pytest.raises(UserError, match="tensor of one number"):
        gradient_norms(model, [batch], lambda m, b: m(b[0]))
    with pytest.raises(UserError, match="the loss on the batch is inf"):
        gradient_norms(model, [batch], lambda m, b: (m(b[0]) / 0).square().sum())
    with pytest.raises(UserError, match="at least one batch"):
        gradient_norms(model, [], squared_error)
    with pytest.raises(UserError, match="trainable parameter"):
        gradient_norms(model.requires_grad_(False), [batch], squared_error)
    with pytest.raises(UserError, match="smoothness must be above 0"):
        Readiness(1.0, 1.0, 1.0).gain(0.0)
