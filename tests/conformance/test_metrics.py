"""What every measure keeps to, whoever wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic import metrics, recipes
from replastic.errors import UserError
from replastic.weights.entries import MatrixInfo
from replastic.weights.module_store import ModuleStore

every_metric = pytest.mark.parametrize("name", metrics.names())


@pytest.fixture
def given(
    build: Callable[..., tuple[nn.Module, dict[str, Tensor]]],
    batches: Callable[..., Any],
    loss: Callable[..., Tensor],
) -> dict[str, Any]:
    """Arguments of `measure` in which nothing is missing."""
    model, init = build()
    return {
        "store": ModuleStore(model),
        "recipe": recipes.load("default"),
        "model": model,
        "batch": batches()[0],
        "loss_fn": loss,
        "old": init,
    }


@every_metric
def test_it_says_what_it_is(name: str) -> None:
    entry = metrics.entry(name)
    metric = entry.target
    assert entry.summary
    assert len(entry.summary) <= 160
    assert entry.reference.startswith("https://")
    assert metric.label
    assert metric.on in ("weight", "change", "features", "loss")
    assert metric.better in ("lower", "higher", "neither")
    assert metric.total in ("sum", "mean", "max", "norm")


@every_metric
def test_shape_and_value(name: str) -> None:
    metric = metrics.get(name)
    g = torch.Generator().manual_seed(0)
    w, old = torch.randn(2, 5, 3, 4, generator=g)
    info = MatrixInfo("layer.weight", "linear", 5, 3, 4)
    each = (3,) if metric.vector else ()
    if metric.on == "weight":
        value = metric.compute(w, info)
        assert value.shape == (5, *each)
        one_by_one = torch.cat([metric.compute(m[None], info) for m in w])
        assert torch.allclose(value, one_by_one, rtol=1e-12)
    elif metric.on == "change":
        value = metric.compute(w, old, info)
        assert value.shape == (5, *each)
        assert torch.equal(metric.compute(w, w, info), torch.zeros(5, *each, dtype=value.dtype))
    elif metric.on == "features":
        value = metric.compute(torch.randn(20, 6, generator=g))
        assert value.shape in ((), (6,))
    else:
        pytest.skip("needs a model; see test_records")
    assert torch.isfinite(value).all()


@every_metric
def test_records_are_finite_repeatable_and_leave_no_trace(name: str, given: dict[str, Any]) -> None:
    model = given["model"]
    model.train()
    model.conv2.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    rng = torch.get_rng_state()

    first, second = metrics.measure([name], **given), metrics.measure([name], **given)

    assert first == second
    metric = metrics.get(name)
    assert first
    assert (f"metric/{name}" in first) is (not metric.vector or metric.on == "loss")
    assert all(key == f"metric/{name}" or key.startswith(f"metric/{name}/") for key in first)
    assert all(isinstance(value, list) is metric.vector for value in first.values())
    numbers = [number for value in first.values() for number in (value if metric.vector else [value])]
    assert all(isinstance(number, float) and abs(number) < float("inf") for number in numbers)
    assert json.loads(json.dumps(first)) == first
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert model.training
    assert not model.conv2.training
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@every_metric
def test_the_network_is_the_total_over_its_layers(name: str, given: dict[str, Any]) -> None:
    metric = metrics.get(name)
    if metric.vector:
        pytest.skip("vectors of layers of different sizes have no total")
    found = metrics.measure([name], **given)
    whole, layers = found.pop(f"metric/{name}"), list(found.values())
    if metric.total == "sum":
        assert whole == pytest.approx(sum(layers))
    elif metric.total == "max":
        assert whole == max(layers)
    elif metric.total == "norm" and layers:
        assert whole == pytest.approx(math.hypot(*layers))
    elif layers:
        assert min(layers) <= whole <= max(layers)


@every_metric
def test_what_is_missing_is_named(name: str, given: dict[str, Any]) -> None:
    needed = {"weight": (), "change": ("old",), "features": ("model", "batch"), "loss": ("model", "batch", "loss_fn")}
    for argument in needed[metrics.get(name).on]:
        with pytest.raises(UserError, match=f"{name} needs {argument}"):
            metrics.measure([name], **{**given, argument: None})
