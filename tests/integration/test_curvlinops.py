"""Curvature against curvlinops, where it is installed.

It needs torchvision, so it belongs in an environment of its own: `pip install curvlinops-for-pytorch` there.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from replastic.linalg import dense_density
from replastic.probes import HessianProduct, hessian_density, hessian_eigenvalues, kronecker_ranks

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed: see the first lines of this file")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def problem() -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 4)
    ).double()
    batches = [(torch.randn(9, 1, 4, 4).double(), torch.randint(0, 4, (9,))) for _ in range(2)]
    return model, batches


def dense(operator: object, dim: int) -> np.ndarray:
    return np.asarray(operator @ torch.eye(dim, dtype=torch.float64))


def test_hessian_products_eigenvalues_and_density(problem: tuple[nn.Module, list[Batch]]) -> None:
    model, batches = problem
    operator = curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), batches)
    product = HessianProduct(model, batches, loss_fn)
    vector = torch.randn(product.dim).double()
    torch.testing.assert_close(product(vector), torch.as_tensor(operator @ vector), rtol=1e-9, atol=1e-11)
    truth = np.linalg.eigvalsh(dense(operator, product.dim))
    g = torch.Generator().manual_seed(0)
    found = dense_density(product, product.dim)
    np.testing.assert_allclose(found.nodes[0].numpy(), truth[::-1], atol=1e-9)
    top = hessian_eigenvalues(model, batches, loss_fn, generator=g, count=3, num_steps=60)
    by_size = truth[np.argsort(-np.abs(truth))][:3]
    np.testing.assert_allclose(top.values.numpy(), by_size, atol=1e-8)
    estimate = hessian_density(model, batches, loss_fn, generator=g, num_probes=4, num_steps=60).rank()
    expected = int((np.abs(truth) > 0.01 * np.abs(truth).max()).sum())
    assert not estimate.exact
    assert estimate.value == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_kronecker_factors(problem: tuple[nn.Module, list[Batch]], layer: int) -> None:
    model, (batch, _) = problem
    weight = model[layer].weight
    operator = curvlinops.KFACLinearOperator(
        model, nn.CrossEntropyLoss(), [weight], [batch], fisher_type=curvlinops.FisherType.EMPIRICAL
    )
    values = np.linalg.eigvalsh(dense(operator, weight.numel())).clip(min=0)
    share = values[values > 0] / values.sum()
    found = kronecker_ranks(model, batch, loss_fn)[f"{layer}.weight"]
    assert found.value == pytest.approx(float(np.exp(-(share * np.log(share)).sum())), rel=1e-6)
