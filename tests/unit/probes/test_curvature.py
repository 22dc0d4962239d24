"""Hessian eigenvalues, density and epsilon-rank against the dense Hessian in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from replastic import metrics, recipes
from replastic.errors import UserError
from replastic.linalg import quadrature
from replastic.probes import HessianProduct, hessian_density, hessian_eigenvalues
from replastic.weights.module_store import ModuleStore

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def network(width: int = 4, seed: int = 0) -> tuple[nn.Module, Batch]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 3)).double()
    return model, (torch.randn(12, 3).double(), torch.randint(0, 3, (12,)))


def dense(model: nn.Module, batch: Batch) -> Tensor:
    shapes = {n: p.shape for n, p in model.named_parameters()}
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        parts = {n: v.view(s) for (n, s), v in zip(shapes.items(), pieces, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, parts, (batch[0],)), batch[1])

    return torch.autograd.functional.hessian(loss, flat)


@settings(deadline=None, max_examples=8)
@given(width=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_spectrum_is_that_of_the_dense_hessian(width: int, seed: int) -> None:
    model, batch = network(width, seed)
    truth = torch.linalg.eigvalsh(dense(model, batch))
    g = torch.Generator().manual_seed(seed)
    by_size = truth[truth.abs().argsort(descending=True)]
    found = hessian_eigenvalues(model, [batch], loss_fn, generator=g, count=len(truth), num_steps=len(truth))
    assert torch.allclose(found.values.abs(), by_size.abs(), atol=1e-8)
    assert float(found.values.sum()) == pytest.approx(float(truth.sum()), abs=1e-8)
    exact = hessian_density(model, [batch], loss_fn, generator=g, num_probes=len(truth))
    assert exact.exact
    assert torch.allclose(exact.nodes[0], truth.flip(0), atol=1e-10)
    assert exact.rank().value == int((truth.abs() > 0.01 * truth.abs().max()).sum())
    assert exact.rank(0.03, relative=False).value == int((truth.abs() > 0.03).sum())


def test_few_steps_find_the_top_and_all_probes_the_moments() -> None:
    model, batch = network(12)
    hessian = dense(model, batch)
    truth = torch.linalg.eigvalsh(hessian)
    top = truth[truth.abs().argsort(descending=True)][:3]
    g = torch.Generator().manual_seed(0)
    found = hessian_eigenvalues(model, [batch], loss_fn, generator=g, count=3, num_steps=30)
    assert torch.allclose(found.values, top, atol=1e-8)
    assert float(found.bounds.max()) < 1e-4
    product = HessianProduct(model, [batch], loss_fn)
    all_probes = quadrature(product, product.dim, num_probes=product.dim, num_steps=3, generator=g)
    for power in range(6):
        trace = float(torch.linalg.matrix_power(hessian, power).trace()) / product.dim
        assert all_probes.moment(power) == pytest.approx(trace, rel=1e-9)


def test_both_ranks_are_recorded_from_one_density() -> None:
    model, batch = network(12)
    calls = []

    def counted(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(len(batch[1]))
        return loss_fn(model, batch)

    names = ["hessian_rank", "hessian_rank_absolute"]
    given = {"store": ModuleStore(model), "recipe": recipes.load("default"), "model": model, "loss_fn": counted}
    both = metrics.measure(names, batch=batch, **given)
    assert len(calls) == 80
    alone = metrics.measure(names[1:], batch=batch, **given)
    assert alone["metric/hessian_rank_absolute"] == both["metric/hessian_rank_absolute"]
    truth = torch.linalg.eigvalsh(dense(model, batch)).abs()
    assert both["metric/hessian_rank"] == pytest.approx(int((truth > 0.01 * truth.max()).sum()), rel=0.5)
    exact = metrics.measure(["hessian_rank:probes=30,epsilon=0.1"], batch=batch, **given)
    assert exact["metric/hessian_rank"] == int((truth > 0.1 * truth.max()).sum())
    calls.clear()
    many = (batch[0].repeat(20, 1), batch[1].repeat(20))
    metrics.measure(names[:1], batch=many, **given)
    assert set(calls) == {128}


def test_batch_normalisation_uses_the_batch_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    batch = (torch.randn(9, 2).double() * 3 + 1, torch.randint(0, 2, (9,)))
    g = torch.Generator().manual_seed(0)
    with_batch, running = (
        hessian_density(model, [batch], loss_fn, generator=g, batch_statistics=mode) for mode in (True, False)
    )
    product = HessianProduct(model, [batch], loss_fn, batch_statistics=True)
    whole = torch.stack([product(v) for v in torch.eye(product.dim).double()])
    assert torch.allclose(with_batch.nodes[0], torch.linalg.eigvalsh(whole).flip(0), atol=1e-10)
    assert not torch.allclose(with_batch.nodes, running.nodes, atol=1e-3)


def test_wrong_input_is_named() -> None:
    model, batch = network()
    g = torch.Generator()
    with pytest.raises(UserError, match="count must lie between 1 and num_steps = 40, got 0"):
        hessian_eigenvalues(model, [batch], loss_fn, generator=g, count=0)
    with pytest.raises(UserError, match="tensor of one number"):
        hessian_density(model, [batch], lambda m, b: m(b[0]), generator=g)
    with pytest.raises(UserError, match="the loss on the batch is nan"):
        hessian_density(model, [batch], lambda m, b: m(b[0]).sum() * float("nan"), generator=g)
    with pytest.raises(UserError, match="at least one trainable parameter"):
        hessian_density(model.requires_grad_(False), [batch], loss_fn, generator=g)
