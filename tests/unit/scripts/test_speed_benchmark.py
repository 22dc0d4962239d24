"""The speed benchmark compares like with like: the right layers, and the same polynomial in both contestants."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_layer_lists_have_the_networks_sizes(script) -> None:
    lists = script("layer_lists")
    matrices = {
        name: sum(max(1, layer.kernel) ** 2 for layer in layers()) for name, (layers, _) in lists.MODELS.items()
    }
    assert matrices == {"ResNet-18": 158, "VGG-16": 120, "ViT-Tiny": 74, "ViT-Tiny q, k": 24, "GPT-2": 73}
    parameters = sum(layer.d_out * layer.d_in for layer in lists.gpt2())
    assert parameters == 12 * 12 * 768**2 + 50304 * 768


def test_loop_and_batched_solve_the_same_problem(script) -> None:
    reference = script("reference")
    weights = [torch.randn(8, 6, 3, 3), torch.randn(5, 12), torch.randn(8, 6), torch.randn(12, 5)]
    mine, theirs = ([w.clone() for w in weights] for _ in range(2))
    reference.loop(theirs, 10)
    reference.batched(mine, "newton_schulz", limit=100, num_iters=10)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_goals_point_the_right_way(script) -> None:
    row = script("measure").Row
    assert row("", "", 2.0, "x", 1.5).met
    assert not row("", "", 2.0, "MiB", 1.5, "lower").met
    assert row("", "", 2.0, "x").met is None
