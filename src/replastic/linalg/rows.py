"""The polar factor of a tall matrix whose rows lie in several places: they share its small Gram matrix alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.linalg.eigen import exact_enough, inverse_root
from replastic.linalg.magnitude import towards_one
from replastic.linalg.tall import Tall, gram_residual


@dataclass(frozen=True)
class GramRoot:
    """The map T = (W^T W)^(-1/2), with which each row of Q = W T follows from the same row of W.

    All that is told of Q follows from W^T W and T, in float64. So the rounding of single entries of Q to float32, of
    about 1e-14 in the residual, is not in it; that of T is.
    """

    gram: Tensor
    """W^T W (n, n) float64."""
    transform: Tensor
    """T (n, n), in the dtype of the product W T: float32, or float64 where W is ill-conditioned."""
    sigma: Tensor
    """(n,) float64: singular values of W, ascending."""

    @property
    def residual(self) -> float:
        """||Q^T Q - I||_F^2 / n."""
        t = self.transform.double()
        return float(gram_residual((t @ self.gram @ t)[None])[0])

    @property
    def alignment(self) -> float:
        """<Q, W> / ||W||_*."""
        return float((self.transform.double() * self.gram).sum() / self.sigma.sum())

    def norms(self, scale: float) -> tuple[float, float, float]:
        """||W||_F, ||s Q||_F and ||s Q - W||_F for a scale s."""
        new = scale * self.transform.double()
        squares = [self.gram.trace()]
        for right in (new, new - torch.eye(len(new), dtype=new.dtype, device=new.device)):
            squares.append(((self.gram @ right) * right).sum())
        before, after, distance = torch.stack(squares).clamp_min(0).sqrt().tolist()
        return before, after, distance

    def times(self, w: Tensor) -> Tensor:
        """Q for some rows of W: (m, n) float32 -> (m, n) float32, in blocks of rows."""
        power = towards_one(self.sigma[-1:]).to(w.dtype)
        rows = Tall(w[None], power[:, None, None], torch.empty_like(w)[None])
        rows.times((self.transform.double() / power).to(self.transform.dtype)[None])
        return rows.out[0]


def gram_of(w: Tensor) -> Tensor:
    """W^T W of some rows (m, n) float32, also of none: (n, n) float64. The sum over all rows is that of the matrix."""
    one = torch.ones(1, 1, 1, dtype=w.dtype, device=w.device)
    return Tall(w[None], one, w[None]).gram(torch.float64)[0]


def gram_root(gram: Tensor) -> GramRoot | None:
    """The map from W to its polar factor, as `exact` finds it, by W^T W (n, n) float64.

    Returns:
        None if W lacks a direction: its factor cannot be filled up row by row.
    """
    if not bool(torch.isfinite(gram).all()) or not float(gram.trace()) > 0:
        return None
    root = inverse_root(gram[None])
    if root.missing[0].shape[1]:
        return None
    dtype = torch.float32 if exact_enough(root) else torch.float64
    return GramRoot(gram, root.transform[0].to(dtype), root.sigma[0])
