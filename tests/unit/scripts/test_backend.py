"""The choice of matrix product: accurate or not taken, and always put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch


@pytest.fixture
def backend(script: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    found = script("backend")
    found.medium_is_exact_and_faster.cache_clear()
    yield found
    found.medium_is_exact_and_faster.cache_clear()


def pretend_medium_is_faster(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "seconds", lambda a: 1.0 if torch.get_float32_matmul_precision() == "highest" else 0.1)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_previous_setting_comes_back(backend: ModuleType, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    try:
        with backend.fastest_backend():
            pass
        assert torch.get_float32_matmul_precision() == precision
        with pytest.raises(RuntimeError, match="mine"), backend.fastest_backend():
            raise RuntimeError("mine")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


def test_fastest_is_still_float32(backend: ModuleType) -> None:
    a = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    truth = a.double() @ a.double()
    with backend.fastest_backend():
        assert float(torch.linalg.norm((a @ a).double() - truth) / torch.linalg.norm(truth)) < 2e-6


def test_a_fast_but_rough_product_is_not_taken(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "ACCURATE", 0.0)
    pretend_medium_is_faster(backend, monkeypatch)
    with backend.fastest_backend() as setting:
        assert setting == "highest"


def test_an_accurate_and_faster_product_is_taken(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "ACCURATE", 1.0)
    pretend_medium_is_faster(backend, monkeypatch)
    with backend.fastest_backend() as setting:
        assert setting == "medium"
    assert torch.get_float32_matmul_precision() == "highest"
