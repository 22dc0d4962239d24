"""Odd polynomials of matrices, applied step by step to the matrix (X form) or to its Gram matrix (Gram form)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from replastic.linalg.products import symmetric_product
from replastic.linalg.schedule import Step
from replastic.linalg.tall import Tall, gram_residual


def x_form(x: Tensor, gram: Tensor, steps: Sequence[Step], *, tol: float | None = None) -> tuple[Tensor, Tensor, int]:
    """Apply `steps` in turn, X <- X (a I + b A + c A^2), with A = X^T X computed afresh for each.

    This is stable in any precision. A step costs 2 products (cubic) or 3 products (quintic) with the m rows of X.

    Args:
        x: (b, m, n), singular values at most 1; overwritten.
        gram: X^T X (b, n, n); overwritten.
        steps: The polynomials.
        tol: Stop as soon as no residual is above this; None for no check.

    Returns:
        X after the steps, its Gram matrix, number of steps done.
    """
    spare = torch.empty_like(x)
    square = torch.empty_like(gram) if any(c != 0 for _, _, c in steps) else gram
    for k, step in enumerate(steps):
        if tol is not None and bool((gram_residual(gram) <= tol).all()):
            return x, gram, k
        a, b, c = step
        if c == 0:
            torch.baddbmm(x, x, gram, beta=a, alpha=b, out=spare)
        else:
            symmetric_product(gram, gram, out=square).mul_(c).add_(gram, alpha=b)
            torch.baddbmm(x, x, square, beta=a, out=spare)
        x, spare = spare, x
        symmetric_product(x, x, out=gram)
    return x, gram, len(steps)


def gram_form(gram: Tensor, steps: Sequence[Step], *, tol: float | None = None) -> tuple[Tensor, int]:
    """The matrix T with X T = X after `steps`, from A = X^T X alone: T <- T P, A <- P A P, P = a I + b A + c A^2.

    A step costs 3 products (cubic) or 4 products (quintic) of n x n matrices, for every m. The gain is the factor by
    which the smallest singular values grow. Rounding in A is multiplied by the square of the gain. So in float32 one
    call must have a modest gain: see `restarted_gram_form`.

    Args:
        gram: X^T X (b, n, n); overwritten. With `tol` it holds T^T A T of the recursion afterwards.
        steps: The polynomials, at least one.
        tol: Stop as soon as no residual is above this; None for no check.

    Returns:
        T, number of steps done.
    """
    transform: Tensor | None = None
    p, product = torch.empty_like(gram), torch.empty_like(gram)
    for k, step in enumerate(steps):
        if transform is not None and tol is not None and bool((gram_residual(gram) <= tol).all()):
            return transform, k
        a, b, c = step
        if c == 0:
            torch.mul(gram, b, out=p)
        else:
            symmetric_product(gram, gram, out=p).mul_(c).add_(gram, alpha=b)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        if transform is None:
            transform = p.clone()
        else:
            transform, product = symmetric_product(transform, p, out=product), transform
        if k < len(steps) - 1 or tol is not None:
            symmetric_product(gram, p, out=product)
            symmetric_product(p, product, out=gram)
    assert transform is not None
    return transform, len(steps)


def restarted_gram_form(
    tall: Tall, gram: Tensor, norm: Tensor, cycles: Sequence[Sequence[Step]], *, tol: float | None = None
) -> tuple[Tensor, int]:
    """Gram form in cycles. Each cycle writes its result to `tall.out` and computes the Gram matrix afresh.

    Args:
        tall: W. With more than one cycle, it must not share memory with its `out`.
        gram: X^T X (b, n, n) of X = W / norm; overwritten.
        norm: (b, 1, 1).
        cycles: The steps of each cycle.
        tol: Stop after the cycle that brings every residual to this; None for no check.

    Returns:
        The Gram matrix of `out`, number of steps done.
    """
    spent, source = 0, tall
    for steps in cycles:
        transform, taken = gram_form(gram, steps)
        if source is tall:
            transform.div_(norm)
        gram = source.times(transform)
        source = Tall(tall.out, torch.ones_like(tall.scale), tall.out)
        spent += taken
        if tol is not None and bool((gram_residual(gram) <= tol).all()):
            break
    return gram, spent


def in_cycles(steps: Sequence[Step], largest_gain: float) -> list[Sequence[Step]]:
    """Cut `steps` into cycles. The gain of a cycle, its factor on a small singular value, is at most `largest_gain`."""
    cycles: list[Sequence[Step]] = []
    start, gain = 0, 1.0
    for k, (a, _, _) in enumerate(steps):
        if gain * a > largest_gain and k > start:
            cycles.append(steps[start:k])
            start, gain = k, 1.0
        gain *= a
    return [*cycles, steps[start:]]


def frobenius_bound(gram: Tensor) -> Tensor:
    """||X||_F from X^T X, (b, 1, 1)."""
    return torch.sqrt(gram.diagonal(dim1=-2, dim2=-1).sum(-1))[:, None, None]


def spectral_bound(gram: Tensor) -> Tensor:
    """||(X^T X)^2||_F^(1/4), (b, 1, 1): from 1 to n^(1/8) times the largest singular value of X."""
    square = symmetric_product(gram, gram, out=torch.empty_like(gram))
    return torch.pow(torch.linalg.matrix_norm(square), 0.25)[:, None, None]
