"""Extreme eigenvalues of a symmetric operator, from its products with vectors alone."""

from __future__ import annotations

import math
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
    weights: Tensor
    """(k,) float64: squared cosine between the start and each Ritz vector; they sum to 1. Values and weights are the
    Gauss quadrature of the start's spectral measure (Golub and Meurant 2010, section 6.2)."""


def lanczos(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    *,
    num_steps: int,
    generator: torch.Generator,
    start: Tensor | None = None,
    restart: bool = False,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> LanczosResult:
    """Lanczos iteration with full reorthogonalisation.

    Memory holds num_steps vectors of length dim. When the space of the start is exhausted, the Ritz values are exact
    eigenvalues, and each appears once, however many directions it has. Then the iteration stops, or goes on from a new
    vector orthogonal to all before. With num_steps = dim it finds every eigenvalue as often as it occurs.

    Args:
        matvec: v (dim,) -> A v (dim,) for a symmetric A, such as a Hessian-vector product.
        dim: Length of the vectors.
        num_steps: Largest number of products, never more than `dim`. 20 to 50 give the largest eigenvalue of a Hessian.
        generator: Source of start vectors; a CPU generator, so that they are the same on every device.
        start: (dim,) vector to begin with, of any length but 0; None draws a Gaussian one.
        restart: Whether to go on from a new vector when the space is exhausted.
        dtype: Of the vectors.
        device: Of the vectors.

    Raises:
        UserError: `num_steps` or `dim` is less than 1; or a product is NaN or infinite.
    """
    if num_steps < 1 or dim < 1:
        raise UserError(f"num_steps and dim must be at least 1, got {num_steps} and {dim}")
    if start is None:
        start = torch.randn(dim, generator=generator, dtype=torch.float64)
    start = start.to(device=device, dtype=dtype)
    limit = min(num_steps, dim)
    basis = torch.empty(limit, dim, dtype=dtype, device=device)
    basis[0] = start / torch.linalg.vector_norm(start)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    exhausted = 100 * torch.finfo(dtype).eps
    for count in range(1, limit + 1):
        v = matvec(basis[count - 1])
        diagonal.append(float(torch.dot(basis[count - 1], v)))
        if not math.isfinite(diagonal[-1]):
            raise UserError("a product of the matrix with a vector holds NaN or infinite numbers: check its entries")
        v = _orthogonal(v, basis[:count])
        beta = float(torch.linalg.vector_norm(v))
        off_diagonal.append(beta)
        if beta <= exhausted * max(map(abs, diagonal + off_diagonal)):
            if not restart or count == limit:
                break
            off_diagonal[-1] = 0.0
            v = torch.randn(dim, generator=generator, dtype=torch.float64).to(device=device, dtype=dtype)
            v = _orthogonal(v, basis[:count])
            beta = float(torch.linalg.vector_norm(v))
        if count < limit:
            basis[count] = v / beta
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    between = torch.tensor(off_diagonal[:-1], dtype=torch.float64)
    tridiagonal += torch.diag(between, 1) + torch.diag(between, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    top = basis[: len(diagonal)].mT @ vectors[:, -1].to(device=device, dtype=dtype)
    bounds = off_diagonal[-1] * vectors[-1].abs()
    weights = vectors[0].square()
    return LanczosResult(values.flip(0), bounds.flip(0), top / torch.linalg.vector_norm(top), weights.flip(0))


def _orthogonal(v: Tensor, basis: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to orthonormal rows, (k, dim); twice, for the sake of rounding."""
    for _ in range(2):
        v = v - basis.mT @ (basis @ v)
    return v
