"""The benchmarks of the polar factor compare like with like: the right layers, and the same polynomial."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from replastic import networks


def test_layer_lists_have_the_networks_sizes(script) -> None:
    lists = script("layer_lists")
    matrices = {
        name: sum(max(1, layer.kernel) ** 2 for layer in layers()) for name, (layers, _) in lists.MODELS.items()
    }
    assert matrices == {"ResNet-18": 158, "VGG-16": 120, "ViT-Tiny": 74, "ViT-Tiny q, k": 24, "GPT-2": 73}
    parameters = sum(layer.d_out * layer.d_in for layer in lists.gpt2())
    assert parameters == 12 * 12 * 768**2 + 50304 * 768


@pytest.mark.parametrize(
    ("name", "network", "side", "classes"),
    [("ResNet-18", "resnet18", 32, 10), ("VGG-16", "vgg16", 64, 200), ("ViT-Tiny", "vit_tiny", 32, 100)],
)
def test_layer_lists_are_those_of_the_networks(script, name: str, network: str, side: int, classes: int) -> None:
    model = networks.build(networks.get(network)(), (3, side, side), classes, seed=0)
    weights = Counter(tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1)
    assert weights == Counter(layer.shape for layer in script("layer_lists").MODELS[name][0]())


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
