"""The NTK against the Jacobian operator of curvlinops, where it is installed.

It needs torchvision, so it belongs in an environment of its own: `pip install curvlinops-for-pytorch` there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from replastic.probes import ntk

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed: see the first lines of this file")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("kind", ["full", "sum"])
def test_kernel_and_eigenvalues(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(3, 2, 3, stride=2, bias=False),
        nn.Flatten(),
        nn.LayerNorm(8),
        nn.Linear(8, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
    ).double()
    batches = [(torch.randn(n, 1, 5, 5).double(), torch.randint(0, 4, (n,))) for n in (4, 3)]
    operator = curvlinops.JacobianLinearOperator(model, list(model.parameters()), batches)
    size = sum(p.numel() for p in model.parameters())
    j = torch.as_tensor(operator @ torch.eye(size, dtype=torch.float64))
    if kind == "sum":
        j = j.view(7, 4, size).sum(1)
    found = ntk(model, torch.cat([x for x, _ in batches]), kind=kind)
    torch.testing.assert_close(found.matrix, j @ j.mT, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.eigenvalues, torch.linalg.svdvals(j).square()[: 7 * 4], rtol=1e-7, atol=1e-9)
