"""Effective ranks of Kronecker factors against factors and products written out by hand in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import metrics, recipes
from replastic.errors import UserError
from replastic.probes import kronecker_ranks
from replastic.weights.module_store import ModuleStore

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def erank(matrix: Tensor) -> float:
    values = torch.linalg.eigvalsh(matrix).clamp_min(0)
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


@settings(deadline=None, max_examples=15)
@given(samples=st.integers(2, 9), width=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_linears_by_hand(samples: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3, bias=False)).double()
    x, y = torch.randn(samples, 4).double(), torch.randint(0, 3, (samples,))
    found = kronecker_ranks(model, (x, y), loss_fn)
    with torch.no_grad():
        h = torch.tanh(model[0](x))
        last = torch.softmax(model[2](h), 1) - nn.functional.one_hot(y, 3)
        hidden = (last @ model[2].weight) * (1 - h.square())
    for name, inputs, gradients in (("0.weight", x, hidden), ("2.weight", h, last)):
        a, g = inputs.mT @ inputs, gradients.mT @ gradients
        assert found[name].inputs == pytest.approx(erank(a))
        assert found[name].gradients == pytest.approx(erank(g))
        assert found[name].value == pytest.approx(erank(torch.kron(a, g)))


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_see_patches(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=2, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    ).double()
    x, y = torch.randn(6, 2, 5, 5).double(), torch.randint(0, 3, (6,))
    model(x)
    noted: list[Tensor] = []
    model[0].register_forward_hook(lambda m, i, out: noted.append(out))
    loss = loss_fn(model, (x, y))
    g = torch.autograd.grad(loss, noted[0])[0].flatten(2)
    patches = nn.functional.unfold(x, (3, 2), padding=1, stride=2)
    model[0]._forward_hooks.clear()
    blocks = []
    for one in range(groups):
        a, b = patches.chunk(groups, 1)[one], g.chunk(groups, 1)[one]
        blocks.append(torch.kron(torch.einsum("sip,sjp->ij", a, a), torch.einsum("sip,sjp->ij", b, b)))
    found = kronecker_ranks(model, (x, y), loss_fn)["0.weight"]
    assert found.value == pytest.approx(erank(torch.block_diag(*blocks)))
    if groups == 1:
        assert found.value == pytest.approx(found.inputs * found.gradients)


def test_one_direction_counts_as_one_and_dead_layers_as_none() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x = torch.ones(5, 1).double() @ torch.tensor([[1.0, 2.0, 3.0]]).double()
    found = kronecker_ranks(model, (x, torch.zeros(5).long()), loss_fn)
    assert found["2.weight"].value == pytest.approx(1)
    with torch.no_grad():
        model[0].bias.fill_(-100)
    dead = kronecker_ranks(model, (x, torch.zeros(5).long()), loss_fn)
    assert dead["0.weight"].value == 0
    assert dead["0.weight"].inputs == pytest.approx(1)


def test_it_is_recorded_by_layer_on_the_first_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double()
    batch = (torch.randn(300, 4).double(), torch.randint(0, 3, (300,)))
    recorded = metrics.measure(
        ["kfac_effective_rank"],
        store=ModuleStore(model),
        recipe=recipes.load("default"),
        model=model,
        batch=batch,
        loss_fn=loss_fn,
    )
    found = kronecker_ranks(model, (batch[0][:256], batch[1][:256]), loss_fn)
    assert recorded["metric/kfac_effective_rank/0.weight"] == pytest.approx(found["0.weight"].value)
    assert recorded["metric/kfac_effective_rank"] == pytest.approx(sum(rank.value for rank in found.values()) / 2)


def test_wrong_input() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    y = torch.zeros(4).long()
    with pytest.raises(UserError, match="at least 2 samples, got 1"):
        kronecker_ranks(model, (x[:1], y[:1]), loss_fn)
    with pytest.raises(UserError, match="tensor of one number"):
        kronecker_ranks(model, (x, y), lambda m, b: m(b[0]))
    with pytest.raises(UserError, match="the loss on the batch is nan"):
        kronecker_ranks(model, (x, y), lambda m, b: m(b[0]).sum() * float("nan"))
    with pytest.raises(UserError, match="no Linear or convolution"):
        kronecker_ranks(nn.LayerNorm(3), (x, y), loss_fn)
    with pytest.raises(UserError, match="trainable parameter"):
        kronecker_ranks(model.requires_grad_(False), (x, y), loss_fn)
