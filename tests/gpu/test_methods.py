"""Every registered method and measure on the device, beside the CPU's numbers where nothing is drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from replastic import methods, metrics, recipes
from replastic.weights.module_store import ModuleStore
from support.method_checks import (
    check_a_resumed_run_ends_the_same,
    check_global_generators_are_left_alone,
    check_undo_takes_back_all_it_does,
)
from support.spectra import distance
from support.training_bench import Bench, build, data, differing, lively, loss_fn

pytestmark = pytest.mark.gpu
CHECKS = (
    check_a_resumed_run_ends_the_same,
    check_undo_takes_back_all_it_does,
    check_global_generators_are_left_alone,
)
ITERATED = ("hessian", "ntk", "jacobian", "kfac", "trainability", "plasticity", "readiness")
"""Measures in whose value rounding grows: products with a curvature, or a network that learns."""


def crossed(name: str, device: Any) -> dict[str, Tensor]:
    """The network after the first boundary, without an update before it."""
    with Bench(lambda: methods.from_spec(name), device=device) as bench:
        bench.attached.cross(1, batches=bench.data(1))
        return {n: v.clone() for n, v in bench.model.state_dict().items()}


@pytest.mark.parametrize("name", methods.names())
def test_a_boundary_is_that_of_the_cpu(name: str, device: torch.device) -> None:
    found = crossed(name, device)
    assert {value.device for value in found.values()} == {device}
    assert differing(found, crossed(name, device)) == [], "equal seeds give equal bits on one device"
    if methods.from_spec(name).draws:
        assert all(bool(value.isfinite().all()) for value in found.values())
        return
    for weight, value in crossed(name, "cpu").items():
        truth = value.double()
        assert truth.norm() == 0 or distance(found[weight].flatten()[None], truth.flatten()[None]) <= 3e-4, weight


@pytest.fixture
def there(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks of methods work on the device."""
    usual = Bench.__init__
    monkeypatch.setattr(Bench, "__init__", lambda self, *a, **k: usual(self, *a, **{"device": device, **k}))


@pytest.mark.parametrize("spec", [*methods.names(), "redo+fire", "ewc+fire", "fire+hare_tortoise"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("there", "repeatable")
def test_at_work(check: Any, spec: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.method_checks.data", lambda phase: data(phase, device=device))
    check(lambda: methods.from_spec(lively(spec)))


def measured(name: str, device: Any) -> dict[str, Any]:
    model, init = build()
    model.to(device)
    return metrics.measure(
        [name],
        store=ModuleStore(model),
        recipe=recipes.load("default"),
        model=model,
        batch=data(0, device=device)[0],
        loss_fn=loss_fn,
        old={n: v.to(device) for n, v in init.items()},
    )


@pytest.mark.parametrize("name", metrics.names())
def test_a_measure_is_that_of_the_cpu(name: str, device: torch.device, tf32: bool) -> None:
    found, expected = measured(name, device), measured(name, "cpu")
    assert found.keys() == expected.keys()
    loose = 5e-2 if name.startswith(ITERATED) else 1e-3
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=10 * loose if tf32 else loose, abs=1e-5), key
