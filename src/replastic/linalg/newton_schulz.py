"""The FIRE paper's iteration: a fixed number of Newton-Schulz steps from W / ||W||_F."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from replastic.errors import UserError
from replastic.linalg.direction import Leading
from replastic.linalg.polynomial import frobenius_bound, in_cycles, restarted_gram_form, x_form
from replastic.linalg.schedule import CUBIC, QUINTIC, Step
from replastic.linalg.tall import Solved, Tall, gram_residual

COEFFICIENTS = {"cubic": CUBIC, "quintic": QUINTIC}

_FLOAT32_GAIN = 64.0
"""Up to this gain (10 cubic steps, 6 quintic steps) float32 is accurate enough. Rounding grows with the gain."""
_CYCLE_GAIN = {torch.float32: 8.0, torch.float64: 1e4}
"""Largest growth of small singular values in one cycle of the Gram form. Rounding grows with its square."""


def newton_schulz(tall: Tall, *, num_iters: int = 10, coefficients: str = "cubic") -> Solved:
    """`num_iters` steps of the paper's polynomial, from W / ||W||_F.

    A small singular value grows 1.5x per cubic step and 2x per quintic step. So most matrices do not reach their polar
    factor: after 5 steps a square matrix is little more than rescaled. The residual says how far it got.

    The steps act on the matrix, or, if the matrix is tall enough for that to be cheaper, on its Gram matrix with
    restarts every few steps. Many steps run in float64, because float32 would not be accurate enough. In every case
    the result equals the formula within 5e-6 (relative, Frobenius).

    Args:
        tall: The matrices, and where the factors go.
        num_iters: Number of steps. The authors take 10 for vision and reinforcement learning, 5 for language.
        coefficients: ``cubic`` (1.5, -0.5), Algorithm 1 and the authors' code, or ``quintic`` (2, -1.5, 0.5),
            Appendix A.2.

    Raises:
        UserError: An option is out of range.

    Reference: Han et al., FIRE (arXiv 2602.08040).
    """
    if coefficients not in COEFFICIENTS:
        raise UserError(f"coefficients must be 'cubic' or 'quintic', got {coefficients!r}")
    if num_iters < 1:
        raise UserError(f"num_iters must be at least 1, got {num_iters}")
    steps = (COEFFICIENTS[coefficients],) * num_iters
    small = steps[0][0] ** num_iters <= _FLOAT32_GAIN
    dtype = tall.out.dtype if small else torch.float64
    cycles = in_cycles(steps, _CYCLE_GAIN[dtype])
    storable = len(cycles) == 1 or dtype == tall.out.dtype  # `out` keeps the state between two cycles
    gram = tall.gram(dtype)
    leading = Leading(tall, gram)
    norm = frobenius_bound(gram)
    gram.div_(norm.square())
    if storable and _gram_form_pays(tall, cycles):
        gram, _ = restarted_gram_form(tall, gram, norm, cycles)
    else:
        x, gram, _ = x_form(tall.rows(dtype).div_(norm), gram, steps)
        tall.out.copy_(x)
    return Solved(gram_residual(gram), leading.alignment(tall.out), num_iters)


def _gram_form_pays(tall: Tall, cycles: Sequence[Sequence[Step]]) -> bool:
    """Whether the Gram form takes fewer products than the X form, both counted in products of n x n matrices."""
    _, m, n = tall.shape
    quintic = cycles[0][0][2] != 0
    num_steps = sum(map(len, cycles))
    in_x_form = (1 + 2 * num_steps) * m / n + num_steps * quintic
    in_gram_form = (1 + 2 * len(cycles)) * m / n + num_steps * (3 + quintic) - 3 * len(cycles)
    return in_gram_form < in_x_form
