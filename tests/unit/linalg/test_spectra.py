"""Ranks of matrices with known singular values."""

from __future__ import annotations

import math

import pytest
import torch

from replastic.errors import UserError
from replastic.linalg import Spectrum, effective_rank, singular_values, srank, stable_rank


def condition_number(w: torch.Tensor) -> torch.Tensor:
    return Spectrum(singular_values(w)).condition_number()


def with_spectrum(*values: float, m: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    u = torch.linalg.qr(torch.randn(m, len(values), generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    return u * torch.tensor(values, dtype=torch.float64) @ v


def test_known_spectra() -> None:
    w = torch.stack([with_spectrum(3, 3, 3, 3), with_spectrum(4, 2, 1, 1), with_spectrum(5, 0, 0, 0)])
    torch.testing.assert_close(singular_values(w)[1], torch.tensor([4.0, 2, 1, 1], dtype=torch.float64))
    entropy = 0.5 * math.log(2) + 0.25 * math.log(4) + 2 * 0.125 * math.log(8)
    torch.testing.assert_close(effective_rank(w), torch.tensor([4.0, math.exp(entropy), 1.0], dtype=torch.float64))
    torch.testing.assert_close(stable_rank(w), torch.tensor([4.0, 22 / 16, 1.0], dtype=torch.float64))
    assert srank(w).tolist() == [4, 4, 1]
    assert srank(w, delta=0.2).tolist() == [4, 3, 1]
    assert srank(w, delta=0.3).tolist() == [3, 2, 1]
    assert condition_number(w)[:2].tolist() == pytest.approx([1.0, 4.0])
    assert float(condition_number(w)[2]) > 1e14


def test_transposing_changes_nothing() -> None:
    w = with_spectrum(4, 2, 1, 1)
    for measure in (effective_rank, stable_rank, condition_number):
        torch.testing.assert_close(measure(w.mT), measure(w))


def test_zero_matrix() -> None:
    zero = torch.zeros(2, 3, 4)
    assert effective_rank(zero).tolist() == stable_rank(zero).tolist() == srank(zero).tolist() == [0, 0]
    assert condition_number(zero).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1])
def test_delta_out_of_range(delta: float) -> None:
    with pytest.raises(UserError, match="delta"):
        srank(torch.eye(2), delta=delta)
