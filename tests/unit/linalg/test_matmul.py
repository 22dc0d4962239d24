"""The choice of matrix product: accurate or not taken, and always put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from replastic.errors import UserError
from replastic.linalg import matmul, matmul_backend


@pytest.fixture(autouse=True)
def fresh_probe() -> Iterator[None]:
    matmul._medium_is_exact_and_faster.cache_clear()
    yield
    matmul._medium_is_exact_and_faster.cache_clear()


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("name", ["default", "fastest"])
def test_previous_setting_comes_back(name: str, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    try:
        with matmul_backend(name):
            pass
        assert torch.get_float32_matmul_precision() == precision
        with pytest.raises(RuntimeError, match="mine"), matmul_backend(name):
            raise RuntimeError("mine")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


def test_fastest_is_still_float32() -> None:
    a = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    truth = a.double() @ a.double()
    with matmul_backend("fastest"):
        assert float(torch.linalg.norm((a @ a).double() - truth) / torch.linalg.norm(truth)) < 2e-6


def test_a_fast_but_rough_product_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_ACCURATE", 0.0)
    monkeypatch.setattr(
        matmul, "_seconds", lambda work: 1.0 if torch.get_float32_matmul_precision() == "highest" else 0.1
    )
    with matmul_backend("fastest") as setting:
        assert setting == "highest"


def test_an_accurate_and_faster_product_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_ACCURATE", 1.0)
    monkeypatch.setattr(
        matmul, "_seconds", lambda work: 1.0 if torch.get_float32_matmul_precision() == "highest" else 0.1
    )
    with matmul_backend("fastest") as setting:
        assert setting == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="'default' or 'fastest'"), matmul_backend("quick"):
        pass
