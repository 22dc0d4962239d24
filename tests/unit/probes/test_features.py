"""Features of the last layers, on networks whose last layers are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.networks.vit_tiny import VitTiny
from replastic.probes.features import last_features


def test_of_a_perceptron_they_are_the_hidden_activations() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU())
    model.append(nn.Linear(6, 2))
    x = torch.randn(7, 3)
    found = last_features(lambda: model(x), 2)
    assert all(torch.equal(a, b) for a, b in zip(found, (model[:4](x), model[:6](x)), strict=True))
    (gradient,) = torch.autograd.grad(found[1].sum(), model[0].weight)
    (wanted,) = torch.autograd.grad(model[:6](x).sum(), model[0].weight)
    assert torch.equal(gradient, wanted)


class Pooled(nn.Module):
    """Activations written in place, calls in place of modules, pooling and a functional head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3), nn.Conv1d(3, 4, 1)
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu_(self.first(x)).flatten(2)
        mean = self.second(hidden).mean(2)
        hidden.zero_()
        return functional.linear(mean, self.weight)


def test_positions_are_samples_and_later_writing_is_not_seen() -> None:
    model, x = Pooled(), torch.randn(2, 2, 5, 5)
    first, second = last_features(lambda: model(x), 2)
    wanted = torch.relu(model.first(x)).permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(first, wanted)
    assert first.abs().sum() > 0
    assert second.shape == (2, 4)


def test_what_depends_on_no_weight_is_no_feature() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(6, 3)
    (only,) = last_features(lambda: model(x), 2)
    assert torch.equal(only, model[:2](x))
    assert last_features(lambda: model[2](x @ torch.ones(3, 4)), 2) == []


def test_of_a_transformer_they_are_the_last_mlps_and_what_the_head_reads() -> None:
    model = VitTiny.reduced().module((3, 32, 32), 10)
    inner, outer = last_features(lambda: model(torch.randn(2, 3, 32, 32)), 2)
    assert outer.shape == (2, model.head.in_features)
    assert inner.shape[0] % 2 == 0
    assert inner.shape[1] > outer.shape[1]
