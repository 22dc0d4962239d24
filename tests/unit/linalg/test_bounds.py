"""The paper's theorems, checked as inequalities on small networks, and refused where they cannot hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.linalg import (
    dfi,
    dfi_for_no_dormant,
    dormancy_interval,
    hessian_bound,
    hessian_factors,
    polar,
    residual,
    srank,
    srank_bound,
)


def near_isometry(d_out: int, d_in: int, noise: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d_out, d_in, generator=generator, dtype=torch.float64)
    return polar(w, "svd").factor + noise * torch.randn(d_out, d_in, generator=generator, dtype=torch.float64)


def whitened(samples: int, dim: int, seed: int = 9) -> Tensor:
    z = torch.randn(samples, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return polar(z, "svd").factor * math.sqrt(samples)


@pytest.mark.parametrize("delta", [0.01, 0.3])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_theorem_3(noise: float, delta: float) -> None:
    w = near_isometry(6, 10, noise)
    z = whitened(50, 10)
    assert int(srank(z @ w.mT, delta)) >= srank_bound(w, delta=delta)
    stretched = z * torch.linspace(1, 3, 10, dtype=torch.float64)
    assert int(srank(stretched @ w.mT, delta)) >= srank_bound(w, stretched, delta=delta)
    assert srank_bound(w, stretched, delta=delta) <= srank_bound(w, delta=delta)
    assert srank_bound(w, z, delta=delta) == srank_bound(w, delta=delta)


def test_theorem_3_by_hand() -> None:
    w = near_isometry(6, 10, 0.0)
    assert srank_bound(w, delta=0.5) == 3
    scaled = w * math.sqrt(1 + 0.6 / math.sqrt(6))  # DfI = 0.36: sqrt(1.6 / 0.4) = 2
    assert srank_bound(scaled, delta=0.5) == math.ceil(0.5 * 6 / (0.5 * 2 + 0.5))


def test_theorem_3_of_features_that_are_all_zero() -> None:
    assert srank_bound(torch.eye(3, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64)) == 0


def test_theorem_4_on_relu_units() -> None:
    w = near_isometry(5, 8, 0.06)
    z = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    activation = (z @ w.mT).relu().mean(0)
    score = activation / activation.mean()
    low, high = dormancy_interval(w)
    assert 0 < low < 1 < high
    assert low <= float(score.min())
    assert float(score.max()) <= high


def test_corollary_2() -> None:
    assert dfi_for_no_dormant(0.025) == pytest.approx(0.9975, abs=5e-5)
    w = near_isometry(5, 8, 0.0) * math.sqrt(1 + math.sqrt(dfi_for_no_dormant(0.1) / 5))
    assert float(dfi(w)) == pytest.approx(dfi_for_no_dormant(0.1))
    assert dormancy_interval(w)[0] == pytest.approx(0.1)


def test_the_smaller_gram_matrix_would_not_do() -> None:
    """[I | 0] transposed: an isometry of its 2 inputs with a dead third unit."""
    w = torch.eye(3, 2)
    assert float(residual(w)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(UserError, match=r"cannot hold: 2 to 3 expands, and DfI is at least 1"):
        dormancy_interval(w)


@pytest.mark.parametrize("w", [2 * torch.eye(3), torch.zeros(2, 4)])
def test_assumption_that_does_not_hold(w: Tensor) -> None:
    for promise in (dormancy_interval, srank_bound):
        with pytest.raises(UserError, match=r"sqrt\(DfI\) < 1 does not hold: it is"):
            promise(w)


def hessian_norm(weights: Sequence[Tensor], z: Tensor, y: Tensor, gates: Sequence[Tensor]) -> float:
    """Spectral norm of the dense Hessian of the mean half squared error of a network whose gates are held."""
    sizes = [w.numel() for w in weights]

    def loss(flat: Tensor) -> Tensor:
        h = z
        for i, (part, w) in enumerate(zip(flat.split(sizes), weights, strict=True)):
            h = h @ part.view_as(w).mT
            h = h * gates[i] if i < len(gates) else h
        return 0.5 * (h - y).square().sum(1).mean()

    flat = torch.cat([w.flatten() for w in weights])
    return float(torch.linalg.matrix_norm(torch.autograd.functional.hessian(loss, flat), ord=2))


def gated(weights: Sequence[Tensor], z: Tensor, *, relu: bool) -> tuple[list[Tensor], Tensor]:
    """Gates of every hidden layer at these weights, and the output."""
    gates, h = [], z
    for w in weights[:-1]:
        h = h @ w.mT
        gates.append((h > 0).double() if relu else torch.ones_like(h))
        h = h * gates[-1]
    return gates, h @ weights[-1].mT


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("relu", [False, True])
def test_theorem_2(relu: bool, noise: float) -> None:
    weights = [near_isometry(4, 5, noise, 1), near_isometry(4, 4, noise, 2), near_isometry(3, 4, noise, 3)]
    z = whitened(40, 5) * 1.5
    y = torch.randn(40, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gates, output = gated(weights, z, relu=relu)
    gamma = float((output - y).norm(dim=1).max())
    energy = float(z.square().sum(1).mean()) if relu else float(torch.linalg.matrix_norm(z, ord=2) ** 2 / len(z))
    bound = hessian_bound([float(dfi(w)) for w in weights], beta=1.0, gamma=gamma, energy=energy)
    assert hessian_norm(weights, z, y, gates) <= bound


def test_theorem_2_as_the_paper_has_it_fails_with_relu() -> None:
    """Every assumption of the paper holds: whitened inputs, isometries, fixed gates, beta = 1, gamma = 0."""
    width = 16
    weights = [torch.eye(width, dtype=torch.float64), torch.full((1, width), width**-0.5, dtype=torch.float64)]
    z = whitened(200, width)
    deviations = [float(dfi(w)) for w in weights]
    norms = {}
    for relu in (False, True):
        gates, output = gated(weights, z, relu=relu)
        norms[relu] = hessian_norm(weights, z, output, gates)
    assert norms[False] <= hessian_bound(deviations, beta=1.0, gamma=0.0, energy=1.0) + 1e-6 < norms[True]
    assert norms[True] <= hessian_bound(deviations, beta=1.0, gamma=0.0, energy=width)


def test_theorem_2_by_hand() -> None:
    """DfI 9 makes nu 4."""
    assert hessian_factors([9.0, 9.0]) == (8.0, 1.0)
    assert hessian_factors([0.0, 1.0, 4.0]) == (2 * 3 + 1 * 3 + 1 * 2, 3 + 2 + 1)
    assert hessian_bound([9.0, 9.0], beta=1.0, gamma=0.0, energy=1.0) == 8.0
    assert hessian_bound([9.0, 9.0], beta=1.0, gamma=0.5, energy=4.0) == 4 * 8 + 2


def test_out_of_range() -> None:
    for tau in (0.0, 1.0):
        with pytest.raises(UserError, match="tau"):
            dfi_for_no_dormant(tau)
    with pytest.raises(UserError, match="delta"):
        srank_bound(torch.eye(2), delta=1.0)
    with pytest.raises(UserError, match="one weight"):
        srank_bound(torch.eye(2).expand(3, 2, 2))
