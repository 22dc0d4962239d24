"""Agreement of the factor with the weight in direction: <Q, W> over the nuclear norm. A residual cannot see it."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.linalg.tall import Tall, inner

_SEED = 20260210
_DIRECTIONS = 16
_STEPS = 3


class Leading:
    """The leading min(16, n) right singular directions V of a chunk, and W V. They are kept to be compared with Q V."""

    def __init__(self, tall: Tall, gram: Tensor) -> None:
        self.directions = _leading_directions(gram.to(tall.out.dtype))
        self.images = _times(tall, self.directions)

        images = self.images.double()
        self._sigma: Tensor = torch.linalg.eigvalsh(images.mT @ images).clamp_min(0).sqrt()

    def largest(self) -> Tensor:
        """The largest singular value of W, (b,) float64; found from below, and closely."""
        return self._sigma[:, -1]

    def alignment(self, factor: Tensor) -> Tensor:
        """<Q V, W V> / ||W V||_*, (b,) float64, for the factor Q (b, m, n)."""
        return torch.div(inner(factor @ self.directions, self.images), self._sigma.sum(-1))


def _leading_directions(gram: Tensor) -> Tensor:
    """An orthonormal basis (b, n, k) close to the span of the leading eigenvectors, by subspace iteration."""
    b, n, _ = gram.shape
    start = torch.randn(n, min(_DIRECTIONS, n), generator=torch.Generator().manual_seed(_SEED), dtype=gram.dtype)
    basis = start.to(gram.device).expand(b, -1, -1)
    for _ in range(_STEPS):
        basis = torch.linalg.qr(gram @ basis).Q
    return basis


def _times(tall: Tall, basis: Tensor) -> Tensor:
    return torch.cat([tall.rows(basis.dtype, rows) @ basis for rows in tall.row_blocks()], dim=1)
