"""Matrices with hard spectra, and the float64 singular value decomposition that solvers are held against."""

from __future__ import annotations

import torch
from torch import Tensor


def spectrum(kind: str, n: int) -> Tensor:
    """Singular values (n,), float64, the largest 1, in descending order."""
    even = torch.linspace(0, 1, n, dtype=torch.float64)
    falling = 1 / torch.arange(1, n + 1, dtype=torch.float64)
    halves = torch.arange(n) < (n + 1) // 2
    return {
        "condition 1": torch.ones(n, dtype=torch.float64),
        "condition 1e3": 10 ** (-3 * even),
        "condition 1e4": 10 ** (-4 * even),
        "condition 1e5": 10 ** (-5 * even),
        "condition 1e7": 10 ** (-7 * even),
        "half at 1e-3": torch.where(halves, 1.0, 1e-3).double(),
        "one at 1e-5": torch.where(torch.arange(n) == n - 1, 1e-5, 1.0).double(),
        "1 / i": falling,
        "spikes": torch.where(torch.arange(n) < 2, 1.0, 0.02 * (1 - 0.9 * even)),
        "half rank": torch.where(halves, 1.0 - 0.9 * even, 0.0),
    }[kind]


SPECTRA = (
    "condition 1",
    "condition 1e3",
    "condition 1e4",
    "condition 1e5",
    "condition 1e7",
    "half at 1e-3",
    "one at 1e-5",
    "1 / i",
    "spikes",
    "half rank",
)
SOLVABLE = ("condition 1", "condition 1e3", "half at 1e-3", "1 / i", "spikes")
"""Spectra whose factor float32 weights determine to about 1e-4."""


def matrix(kind: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random singular vectors with that spectrum, (*batch, m, n) float64."""
    draw = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=draw, dtype=torch.float64), full_matrices=False)
    return (u * spectrum(kind, min(shape[-2:]))) @ vh


def polar_factor(w: Tensor) -> Tensor:
    """U V^T, float64, computed on the CPU."""
    u, _, vh = torch.linalg.svd(w.detach().cpu().double(), full_matrices=False)
    return u @ vh


def distance(q: Tensor, truth: Tensor) -> float:
    """Largest relative distance of a matrix of a batch to its truth."""
    q = q.detach().cpu().double()
    return float((torch.linalg.matrix_norm(q - truth) / torch.linalg.matrix_norm(truth)).max())
