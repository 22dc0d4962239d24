"""Singular values and the measures computed from them: effective rank, stable rank, srank, condition number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.linalg.magnitude import towards_one


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a batch of matrices, (*B, r) float64 and descending, with the measures computed from them.

    Several measures of one weight need its singular values only once. The functions `effective_rank` and `stable_rank`
    describe their measures.
    """

    values: Tensor

    def effective_rank(self) -> Tensor:
        """(*B,), from 1 to r; 0 for a zero matrix."""
        s = self.values * towards_one(self.values[..., :1])
        total = s.sum(-1)
        share = s / torch.where(total > 0, total, 1).unsqueeze(-1)
        return torch.where(total > 0, torch.special.entr(share).sum(-1).exp(), 0)

    def stable_rank(self) -> Tensor:
        """(*B,), from 1 to r; 0 for a zero matrix."""
        largest = self.values[..., :1]
        return (self.values / torch.where(largest > 0, largest, 1)).square().sum(-1)

    def mean_square(self) -> Tensor:
        """(*B,): ||W||_F^2 / r, the mean of the squares."""
        return self.values.square().mean(-1)

    def largest(self) -> Tensor:
        """(*B,): the spectral norm."""
        return self.values[..., 0]

    def spread(self, rounding: float) -> Tensor:
        """log10 of the condition number: (*B,), from 0 to -log10(rounding), which a zero matrix has.

        Args:
            rounding: Share of the largest singular value at which the smaller ones are rounding.
        """
        return torch.log10(self.condition_number().clamp_max(1 / rounding))

    def condition_number(self) -> Tensor:
        """Largest over smallest singular value: (*B,), from 1; inf when the smallest is zero."""
        s = self.values
        return torch.where(s[..., -1] > 0, s[..., 0] / s[..., -1], torch.inf)


def singular_values(w: Tensor) -> Tensor:
    """Singular values of every matrix, descending: (*B, m, n) -> (*B, min(m, n)), float64."""
    values: Tensor = torch.linalg.svdvals(w.detach().double())
    return values


def effective_rank(w: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values divided by their sum: (*B, m, n) -> (*B,).

    The value lies between 1 and min(m, n); a zero matrix has 0.

    Reference: Roy and Vetterli, The effective rank (EUSIPCO 2007).
    """
    return Spectrum(singular_values(w)).effective_rank()


def stable_rank(w: Tensor) -> Tensor:
    """||W||_F^2 / ||W||_2^2: (*B, m, n) -> (*B,), from 1 to min(m, n); 0 for a zero matrix.

    Reference: Rudelson and Vershynin (2007), arXiv math/0503442.
    """
    return Spectrum(singular_values(w)).stable_rank()


def srank(w: Tensor, delta: float = 0.01) -> Tensor:
    """Least k such that the k largest singular values are a share 1 - delta of the sum: (*B, m, n) -> (*B,) int64.

    A zero matrix has 0.

    Args:
        w: Matrices; for the rank of features, samples by units.
        delta: Share that may be missing, in (0, 1).

    Raises:
        UserError: `delta` is out of range.

    Reference: Kumar et al., Implicit under-parameterization (arXiv 2010.14498), section 3.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta must lie strictly between 0 and 1, got {delta}")
    s = singular_values(w)
    total = s.sum(-1, keepdim=True)
    short = s.cumsum(-1) < (1 - delta) * total
    return torch.where(total.squeeze(-1) > 0, short.sum(-1) + 1, 0)
