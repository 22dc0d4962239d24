"""Alignment of a factor with its weight over all directions, to hold the solvers' own values against."""

from __future__ import annotations

import torch
from torch import Tensor


def alignment(factor: Tensor, w: Tensor) -> Tensor:
    """<Q, W> / ||W||_* in float64: (*B, m, n) -> (*B,); 1 for the polar factor, less for any other isometry."""
    product = (factor.double() * w.double()).sum((-2, -1))
    return product / torch.linalg.matrix_norm(w.double(), ord="nuc")
