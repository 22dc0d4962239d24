"""Hessian-vector products against the dense Hessian in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from replastic import metrics
from replastic.errors import UserError
from replastic.probes import HessianProduct


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def dense_hessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]], *, batch_statistics: bool = False) -> Tensor:
    model.eval()
    if batch_statistics:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.train()
    trainable = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trainable.values()]

    def loss_of(flat: Tensor) -> Tensor:
        parts = {n: v.view_as(p) for (n, p), v in zip(trainable.items(), flat.split(sizes), strict=True)}
        outputs = [nn.functional.cross_entropy(functional_call(model, parts, (x,)), y) for x, y in batches]
        return torch.stack(outputs).mean()

    return torch.autograd.functional.hessian(loss_of, torch.cat([p.reshape(-1) for p in trainable.values()]))


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(10, 4, generator=g).double() + 1, torch.randint(0, 3, (10,), generator=g)) for _ in range(2)]


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_products_are_those_of_the_dense_hessian(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], batch_statistics: bool
) -> None:
    model[0].bias.requires_grad_(False)
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    product = HessianProduct(model, batches, loss_fn, batch_statistics=batch_statistics)
    matrix = torch.stack([product(v) for v in torch.eye(product.dim, dtype=torch.float64)])
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    dense = dense_hessian(model, batches, batch_statistics=batch_statistics)
    assert torch.allclose(matrix, dense, atol=1e-12)
    assert torch.allclose(matrix, matrix.T, atol=1e-12)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("name", "batch_statistics"), [("hessian_top", False), ("hessian_top_train", True)])
def test_top_eigenvalue_is_that_of_the_dense_hessian(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], name: str, batch_statistics: bool
) -> None:
    top = metrics.get(name).compute(model, batches, loss_fn, generator=torch.Generator().manual_seed(0))
    dense = {
        mode: float(torch.linalg.eigvalsh(dense_hessian(model, batches, batch_statistics=mode))[-1])
        for mode in (False, True)
    }
    assert float(top) == pytest.approx(dense[batch_statistics], rel=1e-6)
    assert dense[False] != pytest.approx(dense[True], rel=0.05)


def test_attention_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    product = HessianProduct(attention, [x], lambda m, b: m(b, b, b, need_weights=False)[0].square().mean())
    assert torch.isfinite(product(torch.ones(product.dim))).all()


def test_a_linear_loss_has_no_curvature() -> None:
    product = HessianProduct(nn.Linear(3, 1), [torch.ones(2, 3)], lambda m, b: m(b).sum())
    assert torch.equal(product(torch.ones(4)), torch.zeros(4))


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UserError, match="at least one trainable parameter and one batch"):
        HessianProduct(nn.Linear(2, 2), [], loss_fn)
    with pytest.raises(UserError, match="at least one trainable parameter and one batch"):
        HessianProduct(nn.Linear(2, 2).requires_grad_(False), [torch.ones(1, 2)], loss_fn)
