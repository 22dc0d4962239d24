"""Extreme eigenvalues of a symmetric operator, from its products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.errors import UserError


@dataclass(frozen=True)
class LanczosResult:
    """Ritz values, with a bound on the distance of each to an eigenvalue."""

    values: Tensor
    """(k,) float64, descending."""
    bounds: Tensor
    """(k,) float64: some eigenvalue lies within this distance of the Ritz value."""
    top_vector: Tensor
    """(dim,) unit Ritz vector of the largest value."""


def lanczos(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    *,
    num_steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> LanczosResult:
    """Lanczos iteration with full reorthogonalisation, from a Gaussian start.

    Memory holds num_steps vectors of length dim. The iteration stops early when the space is exhausted; then the Ritz
    values are exact eigenvalues.

    Args:
        matvec: v (dim,) -> A v (dim,) for a symmetric A, such as a Hessian-vector product.
        dim: Length of the vectors.
        num_steps: Largest number of products, never more than `dim`. 20 to 50 give the largest eigenvalue of a Hessian.
        generator: Source of the start vector; a CPU generator, so that the start is the same on every device.
        dtype: Of the vectors.
        device: Of the vectors.

    Raises:
        UserError: `num_steps` or `dim` is less than 1.
    """
    if num_steps < 1 or dim < 1:
        raise UserError(f"num_steps and dim must be at least 1, got {num_steps} and {dim}")
    start = torch.randn(dim, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    exhausted = 100 * torch.finfo(dtype).eps
    for _ in range(min(num_steps, dim)):
        v = matvec(basis[-1])
        diagonal.append(float(torch.dot(basis[-1], v)))
        known = torch.stack(basis)
        for _ in range(2):
            v = v - known.mT @ (known @ v)
        beta = float(torch.linalg.vector_norm(v))
        off_diagonal.append(beta)
        if beta <= exhausted * max(map(abs, diagonal + off_diagonal)):
            break
        basis.append(v / beta)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    between = torch.tensor(off_diagonal[:-1], dtype=torch.float64)
    tridiagonal += torch.diag(between, 1) + torch.diag(between, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    top = torch.stack(basis[: len(diagonal)]).mT @ vectors[:, -1].to(device=device, dtype=dtype)
    bounds = off_diagonal[-1] * vectors[-1].abs()
    return LanczosResult(values.flip(0), bounds.flip(0), top / torch.linalg.vector_norm(top))
