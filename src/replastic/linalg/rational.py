"""The polar factor from float32 products alone: Halley steps lift the small singular values, quintic steps finish."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from replastic.linalg.direction import Leading
from replastic.linalg.eigen import by_eigenvectors
from replastic.linalg.halley import LEAST, halley, lifted, weights, well_conditioned
from replastic.linalg.polynomial import x_form
from replastic.linalg.schedule import POLISH, Step, schedule
from replastic.linalg.tall import Solved, Tall, gram_residual

_TOL = 1e-10
_ABOVE = 1.03
"""The largest singular value is estimated from below, by at most a few percent."""
_LEAST = (LEAST, LEAST, 0.05)
"""Least lower end of each Halley step. So small values grow by at most 2.2e4 in all, and rounding with them."""
_LIFTED = tuple(k / 20 for k in range(2, 19))
"""Lower ends for which there are schedules of quintic steps."""
_LOW_ENOUGH = 0.2
"""From here on quintic steps are cheaper than a Halley step."""
_HOPELESS = 0.001
"""A singular value below this after one step was below 3e-5 at first, where float32 does not tell its direction."""
_QUINTIC_STEPS = 6


def by_products(tall: Tall, *, complete: bool = True) -> Solved:
    """The polar factor in the working precision, up to condition numbers of about 1e4; eigenvectors solve the others.

    No matrix is accepted with a residual above 1e-10. The factor that this leaves is that of the weight: each step is
    a positive function of the singular values, and they can grow by no more than about 1e5 in all. A matrix with a
    singular value below 1e-5 of the largest therefore cannot be accepted. The factors may overwrite the weights.

    Args:
        tall: The matrices, and where the factors go.
        complete: As in `exact`.

    Reference: Nakatsukasa, Bai and Gygi (2010); Nakatsukasa and Freund, Computing fundamental matrix decompositions
        accurately via the matrix sign function in two iterations (SIAM Rev. 58, 2016). They work in float64 with
        Cholesky or QR factors, from a condition estimate of the matrix, and take Halley steps to the end. The quintic
        steps, the limit on the weights and the estimates after each step are ours.
    """
    dtype = tall.out.dtype
    gram = tall.gram(dtype)
    leading = Leading(tall, gram)
    norm = (leading.largest() * _ABOVE).to(dtype)[:, None, None]
    x, gram, low, spent = _lift(tall.rows(dtype).div_(norm), gram.div_(norm.square()))
    if low > 0:
        x, gram, further = x_form(x, gram, _steps(low), tol=_TOL)
        spent += further
    residual = gram_residual(gram)
    solved = residual <= _TOL
    aligned = leading.alignment(x)
    for i, done in enumerate(solved.tolist()):
        if done:
            tall.out[i] = x[i]
        else:
            one = by_eigenvectors(tall.single(i), complete=complete)
            residual[i], aligned[i] = one.residual[0], one.alignment[0]
    return Solved(residual, aligned, spent)


def _lift(x: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, float, int]:
    """Halley steps until no singular value of X is small.

    Args:
        x: (b, m, n), singular values at most 1; overwritten.
        gram: X^T X (b, n, n); overwritten.

    Returns:
        X after the steps, its Gram matrix, a lower bound of its singular values, number of steps. Matrices that need
        more than float32 allows are left out of the bound; it is 0 if all of them do.
    """
    low = float(well_conditioned(gram).min()) / 2
    if low >= _LOW_ENOUGH:
        return x, gram, low, 0
    spare = torch.empty_like(x)
    for spent, least in enumerate(_LEAST, start=1):
        known = least if spent < len(_LEAST) else max(low, least)
        step = weights(known)
        found = halley(x, gram, step, out=spare)
        x, spare = spare, x
        if spent == 1:
            continue  # the small ones cannot be told apart before the first step
        found = found[found > _HOPELESS] if spent == 2 else found
        if not len(found):
            return x, gram, 0.0, spent
        low = 0.95 * min(lifted(float(found.min()), step), lifted(known, step))  # it is no less anywhere in [known, 1]
        if low >= _LOW_ENOUGH:
            break
    return x, gram, low, spent


@functools.cache
def _schedule(low: float) -> tuple[Step, ...]:
    steps = schedule(low, 2, cushion=0.0)
    return (*steps, *(POLISH,) * (_QUINTIC_STEPS - len(steps)))


def _steps(low: float) -> tuple[Step, ...]:
    """Quintic steps for singular values in [low, 1]."""
    return _schedule(max((end for end in _LIFTED if end <= low), default=_LIFTED[0]))
