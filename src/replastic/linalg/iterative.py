"""The polar factor by minimax quintic steps until the residual is small, and by eigenvectors if that fails."""

from __future__ import annotations

import torch

from replastic.errors import UserError
from replastic.linalg.direction import Leading
from replastic.linalg.eigen import by_eigenvectors, inverse_root
from replastic.linalg.polynomial import gram_form, restarted_gram_form, spectral_bound, x_form
from replastic.linalg.schedule import POLISH, Step, schedule
from replastic.linalg.tall import Solved, Tall, gram_residual

_LOWER = 1e-4
_SCHEDULE_STEPS = 9
_SAFETY = 1.01
_RESTART_EVERY = 3
_TALL = 1.6
_FLOAT64_STEPS = 20
_FLOAT64_TOL = 1e-12


def iterative(tall: Tall, *, tol: float = 1e-8, max_iters: int = 20, complete: bool = True) -> Solved:
    """Nine quintic steps, made for singular values down to 1e-4 of the largest, then polishing steps, until `tol`.

    Everything runs in the working precision (float32). The steps act on the matrix if m < 1.6 n, and otherwise on its
    Gram matrix. That is computed afresh after every three steps, since rounding in a Gram matrix is multiplied by the
    square of the growth of small singular values. A matrix that has not converged after `max_iters` steps
    (rank-deficient or very ill-conditioned) is solved by eigenvectors instead.

    Args:
        tall: The matrices, and where the factors go.
        tol: Largest accepted residual ||Q^T Q - I||_F^2 / n.
        max_iters: Largest number of steps.
        complete: As in `exact`.

    Raises:
        UserError: An option is out of range.

    Reference: Amsel et al., The Polar Express (arXiv 2505.16932); schedule, bound and restarts are ours.
    """
    if not tol > 0:
        raise UserError(f"tol must be positive, got {tol}")
    if max_iters < 1:
        raise UserError(f"max_iters must be at least 1, got {max_iters}")
    steps = _steps(max_iters)
    _, m, n = tall.shape
    dtype = tall.out.dtype
    gram = tall.gram(dtype)
    leading = Leading(tall, gram)
    norm = spectral_bound(gram)
    gram.div_(norm.square())
    if m < _TALL * n:
        x, gram, spent = x_form(tall.rows(dtype).div_(norm), gram, steps, tol=tol)
        tall.out.copy_(x)
    else:
        cycles = [steps[k : k + _RESTART_EVERY] for k in range(0, max_iters, _RESTART_EVERY)]
        gram, spent = restarted_gram_form(tall, gram, norm, cycles, tol=tol)
    residual, aligned = gram_residual(gram), leading.alignment(tall.out)
    for i in torch.nonzero(~(residual <= tol)).flatten().tolist():
        solved = by_eigenvectors(tall.single(i), complete=complete)
        residual[i], aligned[i] = solved.residual[0], solved.alignment[0]
    return Solved(residual, aligned, spent)


def by_float64_gram(tall: Tall, *, complete: bool = True) -> Solved:
    """The same polynomials on the float64 Gram matrix, without restarts.

    Matrices that do not converge, because of singular values near zero, are solved by eigenvectors. Nothing is written
    before the Gram matrix has converged, so the factor may overwrite the weight.

    Args:
        tall: The matrices, and where the factors go.
        complete: As in `exact`.
    """
    gram = tall.gram(torch.float64)
    leading = Leading(tall, gram)
    norm = spectral_bound(gram)
    transform, spent = gram_form(gram.div_(norm.square()), _steps(_FLOAT64_STEPS), tol=_FLOAT64_TOL)
    transform.div_(norm)
    failed = torch.nonzero(~(gram_residual(gram) <= _FLOAT64_TOL)).flatten().tolist()
    roots = {i: inverse_root(tall.single(i).gram(torch.float64)) for i in failed}
    for i, root in roots.items():
        transform[i] = root.transform[0]
    gram = tall.times(transform)
    if complete:
        for i, root in roots.items():
            root.complete_(tall.out[i : i + 1], gram[i : i + 1])
    return Solved(gram_residual(gram), leading.alignment(tall.out), spent)


def _steps(max_iters: int) -> tuple[Step, ...]:
    steps = schedule(_LOWER, _SCHEDULE_STEPS, safety=_SAFETY)
    return (steps + (POLISH,) * (max_iters - len(steps)))[:max_iters]
