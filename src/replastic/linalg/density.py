"""Spectral density of a symmetric operator by stochastic Lanczos quadrature, and the epsilon-rank it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.linalg.lanczos import lanczos

RELATIVE_EPSILON = 0.01
"""Share of the largest eigenvalue above which one counts (ours, fixed before any result was seen)."""
ABSOLUTE_EPSILON = 0.03
"""Size above which an eigenvalue counts: the middle, on a logarithmic scale, of the range that the authors of
arXiv 2509.22335 searched for the best fit (1e-2 to 8e-2). Fixed before any result was seen."""


@dataclass(frozen=True)
class RankEstimate:
    """The number of eigenvalues above a threshold in size, with what is known of its error."""

    value: float
    """The estimate; a whole number where `exact`."""
    low: float
    """Error bound of the quadrature: the probes' own spectral measures have no less than this, in the mean."""
    high: float
    """They have no more than this. A wide range means that there are too few steps to resolve the threshold."""
    standard_error: float | None
    """Over the probes, for the chance in their draw; 0 where `exact`, None for one probe."""
    at_least: int
    """A lower bound on the true number: so many Ritz values of one probe are above (Cauchy's interlacing theorem)."""
    threshold: float
    """The size above which an eigenvalue counts."""
    exact: bool
    """Whether the whole spectrum was computed."""


@dataclass(frozen=True)
class SpectralDensity:
    """Distribution of the eigenvalues: for each probe, nodes with weights."""

    nodes: Tensor
    """(probes, steps) float64: Ritz values; 0 with weight 0 where a probe ended early."""
    weights: Tensor
    """(probes, steps) float64: shares of all eigenvalues; each row sums to 1."""
    dim: int
    """Number of eigenvalues."""
    exact: bool = False
    """Whether the nodes are the eigenvalues themselves, in one row."""

    def moment(self, power: int) -> float:
        """Mean of the eigenvalues to some power, tr(A^power) / dim.

        Each probe is exact for its own quadratic form up to power 2 steps - 1, so the mean over `dim` probes is exact.
        """
        return float((self.weights * self.nodes**power).sum(-1).mean())

    def on_grid(self, points: Tensor, width: float) -> Tensor:
        """The density with each node widened to a Gaussian: (points,) -> (points,), in 1 / unit of the eigenvalues.

        Args:
            points: Where it is evaluated.
            width: Standard deviation of the Gaussian.

        Raises:
            UserError: `width` is not above 0.
        """
        if not width > 0:
            raise UserError(f"width must be above 0, got {width}")
        z = (points.double()[:, None, None] - self.nodes) / width
        kernel = torch.exp(-z.square() / 2) / (width * math.sqrt(2 * math.pi))
        return (kernel * self.weights).sum(-1).mean(-1)

    def rank(self, epsilon: float = RELATIVE_EPSILON, *, relative: bool = True) -> RankEstimate:
        """epsilon-rank: the number of eigenvalues whose size exceeds epsilon times the largest, or epsilon itself.

        Exact for an exact density. Otherwise it is the weight above the threshold times `dim`, in the mean over probes,
        and never less than the number of Ritz values above it in any probe. A relative threshold then rests on the
        largest Ritz value, which approaches the largest eigenvalue from below.

        Args:
            epsilon: The threshold, above 0; below 1 where relative.
            relative: Whether `epsilon` is a share of the largest size (ours) or a size (He et al. 2025).

        Raises:
            UserError: `epsilon` is out of range.

        Reference: He et al. (2025), arXiv 2509.22335, whose threshold is a size; and ours, a share of the largest.
        """
        if not 0 < epsilon < (1 if relative else math.inf):
            allowed = "between 0 and 1" if relative else "above 0 and finite"
            raise UserError(f"epsilon must lie {allowed}, got {epsilon}")
        threshold = epsilon * float(self.nodes.abs().max()) if relative else epsilon
        above = self.nodes.abs() > threshold
        at_least = int(above.sum(-1).max())
        if self.exact:
            whole = float(at_least)
            return RankEstimate(whole, whole, whole, 0.0, at_least, threshold, exact=True)
        counts = (self.weights * above).sum(-1) * self.dim
        ends = torch.stack([_bounds(x, w, threshold) for x, w in zip(self.nodes, self.weights, strict=True)])
        low, high = (ends.mean(0) * self.dim).tolist()
        error = float(counts.std() / math.sqrt(len(counts))) if len(counts) > 1 else None
        value = max(float(counts.mean()), float(at_least))
        return RankEstimate(value, low, max(high, value), error, at_least, threshold, exact=False)


def _bounds(nodes: Tensor, weights: Tensor, threshold: float) -> Tensor:
    """Least and largest share of a spectral measure outside of [-threshold, threshold] that its quadrature allows.

    The measure up to a node lies between the weights before that node and those up to it (Chebyshev, Markov and
    Stieltjes). So the two nodes next to an end of the interval may be on either side of it.
    """
    real = weights > 0
    order = nodes[real].argsort()
    x, w = nodes[real][order], weights[real][order]
    below, over = x < -threshold, x > threshold
    inside = ~below & ~over
    outside = w[~inside].sum()
    lost = sum((w[side][pick] for side, pick in ((below, -1), (over, 0)) if bool(side.any())), torch.zeros(()))
    gained = w[inside][[0, -1]].sum() if bool(inside.any()) else torch.zeros(())
    return torch.stack([outside - lost, (outside + gained).clamp(max=1)])


def spectral_density(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    *,
    num_probes: int,
    num_steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SpectralDensity:
    """Density by whichever costs fewer products: `dense_density` (dim) or `quadrature` (num_probes * num_steps)."""
    if num_products(dim, num_probes, num_steps) == dim:
        return dense_density(matvec, dim, dtype=dtype, device=device)
    return quadrature(
        matvec, dim, num_probes=num_probes, num_steps=num_steps, generator=generator, dtype=dtype, device=device
    )


def num_products(dim: int, num_probes: int, num_steps: int) -> int:
    """Products that `spectral_density` takes; a Hessian-vector product has the time of two training steps."""
    return min(dim, num_probes * num_steps)


def dense_density(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SpectralDensity:
    """Every eigenvalue, from `dim` products: (dim, dim) in float64 on the CPU.

    Raises:
        UserError: `dim` is less than 1, or a product is NaN or infinite.
    """
    if dim < 1:
        raise UserError(f"dim must be at least 1, got {dim}")
    matrix = torch.stack([matvec(v).cpu() for v in torch.eye(dim, dtype=dtype, device=device)]).double()
    if not bool(torch.isfinite(matrix).all()):
        raise UserError("a product of the matrix with a vector holds NaN or infinite numbers: check its entries")
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).flip(0)
    return SpectralDensity(values[None], torch.full((1, dim), 1 / dim, dtype=torch.float64), dim, exact=True)


def quadrature(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    *,
    num_probes: int,
    num_steps: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SpectralDensity:
    """Stochastic Lanczos quadrature with full reorthogonalisation: num_probes * num_steps products.

    The probes are orthonormal. So each is uniform on the sphere, and their mean varies less than that of independent
    ones. Memory holds num_probes + num_steps vectors of length dim.

    Args:
        matvec: v (dim,) -> A v (dim,) for a symmetric A.
        dim: Length of the vectors.
        num_probes: Random start vectors; never more than `dim`.
        num_steps: Products for each probe; the more, the finer the density.
        generator: Source of the probes; a CPU generator.
        dtype: Of the vectors.
        device: Of the vectors.

    Raises:
        UserError: A number is less than 1, or a product is NaN or infinite.

    Reference: Ghorbani, Krishnan and Xiao (2019), arXiv 1901.10159, section 3.
    """
    if min(num_probes, num_steps, dim) < 1:
        raise UserError(f"num_probes, num_steps and dim must be at least 1, got {num_probes}, {num_steps} and {dim}")
    draws = torch.randn(dim, min(num_probes, dim), generator=generator, dtype=torch.float64)
    nodes = torch.zeros(draws.shape[1], min(num_steps, dim), dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for i, probe in enumerate(torch.linalg.qr(draws).Q.mT):
        found = lanczos(matvec, dim, num_steps=num_steps, generator=generator, start=probe, dtype=dtype, device=device)
        nodes[i, : len(found.values)] = found.values
        weights[i, : len(found.values)] = found.weights
    return SpectralDensity(nodes, weights, dim)
