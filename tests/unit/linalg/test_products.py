"""Half a symmetric product, mirrored, is the whole one."""

from __future__ import annotations

import pytest
import torch

from replastic.linalg import products
from replastic.linalg.products import symmetric_product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [1, 3, 7, 64, 70])
@pytest.mark.parametrize("half", [False, True])
def test_equals_the_plain_product(half: bool, n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_HALF_PAYS_FROM", {})
    monkeypatch.setattr(products, "_HALF_PAYS_FROM_OTHERWISE", 0 if half else 10**9)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 90, n, generator=generator, dtype=torch.float64).to(dtype)
    truth = x.double().mT @ x.double()
    tolerance = 90 * torch.finfo(dtype).eps
    gram = symmetric_product(x, x, out=torch.full((2, n, n), torch.nan, dtype=dtype))
    torch.testing.assert_close(gram.double(), truth, atol=tolerance, rtol=tolerance)
    start = torch.eye(n, dtype=dtype).expand(2, n, n).clone()
    added = symmetric_product(x, x, out=start, add=True)
    torch.testing.assert_close(added.double(), truth + torch.eye(n), atol=tolerance, rtol=tolerance)


def test_commuting_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_HALF_PAYS_FROM", {})
    monkeypatch.setattr(products, "_HALF_PAYS_FROM_OTHERWISE", 0)
    a = torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = a + a.mT
    square = symmetric_product(a, a, out=torch.empty_like(a))
    torch.testing.assert_close(symmetric_product(square, a, out=torch.empty_like(a)), a @ a @ a)
