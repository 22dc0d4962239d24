"""Measures of the kernel and of the Jacobian: their values, their limits, and that they share one computation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic import metrics, recipes
from replastic.errors import UserError
from replastic.metrics import _kernel
from replastic.probes import jacobian_spectrum, layer_jacobians, ntk
from replastic.weights.module_store import ModuleStore

KERNEL = ("ntk_condition", "ntk_effective_rank", "ntk_top")
JACOBIAN = ("jacobian_spread", "jacobian_mean_square", "jacobian_top")


def found(model: nn.Module, batch: Any, *names: str) -> dict[str, Any]:
    where = {"store": ModuleStore(model), "recipe": recipes.load("default")}
    return {
        key.removeprefix("metric/"): value
        for key, value in metrics.measure(
            names, model=model, batch=batch, loss_fn=lambda m, b: m(b).mean(), **where
        ).items()
    }


def diagonal(*values: float) -> nn.Linear:
    layer = nn.Linear(len(values), len(values), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(values)))
    return layer


def test_values_by_hand() -> None:
    # f(x) = diag(2, 4) diag(3, 1) x at x = e1 and at x = e2: four pairs (sample, output).
    # First layer: <x_n, x_m> <row_o, row_p> = diag(4, 16) at each sample; second: <h_n, h_m> I with h = 3 e1 and e2.
    model = nn.Sequential(diagonal(3, 1), diagonal(2, 4))
    kernel = [4 + 9, 16 + 9, 4 + 1, 16 + 1]
    seen = found(model, torch.eye(2), *KERNEL, *JACOBIAN)
    assert seen["ntk_top"] == pytest.approx(25)
    assert seen["ntk_condition"] == pytest.approx(25 / 5)
    share = [k / sum(kernel) for k in kernel]
    assert seen["ntk_effective_rank"] == pytest.approx(math.exp(-sum(s * math.log(s) for s in share)))
    assert seen["jacobian_top"] == pytest.approx(6)
    assert seen["jacobian_mean_square"] == pytest.approx((36 + 16) / 2)
    assert seen["jacobian_spread"] == pytest.approx(math.log10(6 / 4))


@pytest.mark.parametrize("values", [(0.0, 0.0), (1.0, 0.0)])
def test_values_of_dead_networks_are_finite_and_the_worst(values: tuple[float, ...]) -> None:
    model = nn.Sequential(diagonal(*values), diagonal(*values))
    seen = found(model, torch.eye(2), "ntk_condition", "jacobian_spread")
    eps = torch.finfo(torch.float64).eps
    assert seen["ntk_condition"] == pytest.approx(1 / (4 * eps))
    assert seen["jacobian_spread"] == pytest.approx(-math.log10(2 * eps))


def test_measures_together_share_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("ntk", "jacobian_spectrum"):
        look = getattr(_kernel, name)

        def counted(*given: Any, name: str = name, look: Any = look, **options: Any) -> Any:
            calls.append(name)
            return look(*given, **options)

        monkeypatch.setattr(_kernel, name, counted)
    found(diagonal(1, 2), torch.eye(2), *KERNEL, *JACOBIAN)
    assert calls == ["ntk", "jacobian_spectrum"]


def test_options_choose_samples_and_kind() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(9, 3)
    seen = found(model, x, "ntk_top:samples=5,kind=trace", "ntk_condition:entries=6", "jacobian_top:samples=2")
    assert seen["ntk_top"] == pytest.approx(float(ntk(model, x[:5], kind="trace").eigenvalues[0]))
    assert seen["ntk_condition"] == pytest.approx(ntk(model, x[:3]).condition_number)
    assert seen["jacobian_top"] == pytest.approx(float(jacobian_spectrum(model, x[:2]).top().mean()))
    layers = found(model, x, "layer_jacobian_gap:samples=3")
    spectra = layer_jacobians(model, x[:3]).spectra
    assert {name: layers[f"layer_jacobian_gap/{name}"] for name in "012"} == {
        name: pytest.approx(float(spectrum.gap().mean())) for name, spectrum in spectra.items()
    }
    with pytest.raises(UserError, match="ntk_top: samples must be at least 1, got 0"):
        found(model, x, "ntk_top:samples=0")


def test_the_kernel_takes_64_samples_or_fewer() -> None:
    class Count(nn.Linear):
        seen: int = 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen = len(x)
            return super().forward(x)

    few, many = Count(3, 2), Count(3, 100)
    for model in (few, many):
        found(model, torch.randn(200, 3), "ntk_top")
    assert (few.seen, many.seen) == (64, 10)
