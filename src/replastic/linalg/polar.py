"""The entry to the solvers: checks the input, brings it to the shape and range they expect, and runs them in chunks."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from replastic.errors import MatrixError, UnknownNameError, UserError
from replastic.linalg.completion import complete_
from replastic.linalg.device import at_once, in_working_precision
from replastic.linalg.exact import exact
from replastic.linalg.fast import fast
from replastic.linalg.iterative import iterative
from replastic.linalg.magnitude import towards_one
from replastic.linalg.matmul import fastest_products
from replastic.linalg.newton_schulz import newton_schulz
from replastic.linalg.result import PolarResult
from replastic.linalg.svd import svd
from replastic.linalg.tall import Solved, Tall, gram_residual
from replastic.linalg.threads import for_each

CHUNK_ELEMENTS = 1 << 18
"""Elements of a batch that are solved at a time, but one matrix at least; more on a GPU. It bounds the extra memory."""

SOLVERS: dict[str, Callable[..., Solved]] = {
    "newton_schulz": newton_schulz,
    "exact": exact,
    "iterative": iterative,
    "fast": fast,
    "svd": svd,
}
"""Solvers by name. Their keyword arguments are the options of `polar`."""

_DIRECT = ("exact", "svd")
_ALIGNED = 0.1
"""Largest distance from 1 of the alignment of a direct solver; rounding stays far below."""


@torch.no_grad()
def polar(
    w: Tensor, solver: str = "exact", *, on_zero: str = "error", out: Tensor | None = None, **options: Any
) -> PolarResult:
    """Nearest matrix with orthonormal columns (rows if m < n) of every matrix of a batch: Q = W (W^T W)^(-1/2).

    The computation runs in float64 for float64 weights and in float32 for all others. `w` is not changed, and the
    factor has memory of its own, unless `out` asks otherwise.

    Args:
        w: Weights (*B, m, n) with any batch axes; need not be contiguous.
        solver: ``exact`` (default), ``svd``, ``iterative``, ``newton_schulz`` or ``fast``; see `SOLVERS`.
        on_zero: The answer for a matrix that is all zero, which has no nearest isometry: ``error``, ``skip`` (factor
            zero, residual 1) or ``complete`` (an orthonormal matrix that depends on the shape alone).
        out: Tensor for the factor, with the shape of `w` and the working dtype. With ``exact`` it may be `w` itself:
            the weight is overwritten, which saves the memory of a second one.
        **options: Options of the solver.

    Raises:
        MatrixError: A matrix holds NaN or Inf, or is all zero and `on_zero` is ``error``, or the answer is no factor.
        UserError: `w` has fewer than two axes, holds empty matrices or is no float tensor; an option is unknown; `out`
            cannot be used.
    """
    solve = _solver(solver, options)
    if on_zero not in ("error", "skip", "complete"):
        raise UserError(f"on_zero must be 'error', 'skip' or 'complete', got {on_zero!r}")
    if w.ndim < 2 or 0 in w.shape[-2:] or not w.is_floating_point():
        raise UserError(
            f"polar needs a float tensor (*batch, m, n), m and n at least 1; got {w.dtype} {tuple(w.shape)}"
        )
    dtype = torch.float64 if w.dtype == torch.float64 else torch.float32
    out = _output(w, dtype, out, solver)
    source, target = _upright(w.detach()), _upright(out)
    peak = _peaks(source).to(dtype)
    _refuse(peak, on_zero)
    scale = towards_one(peak)[:, None, None]
    residual = torch.ones(len(peak), dtype=torch.float64, device=w.device)
    aligned = torch.zeros_like(residual)
    iterations = [0]
    zero = peak == 0

    def work(chunk: slice) -> None:
        with in_working_precision(w.device):
            solved = solve(Tall(source[chunk], scale[chunk], target[chunk]), **options)
        residual[chunk], aligned[chunk] = solved.residual, solved.alignment
        iterations.append(solved.iterations)

    with fastest_products(w.device) as products:
        for_each(work, list(_chunks(source, zero)), w.device)
    with in_working_precision(w.device):
        for i in torch.nonzero(zero).flatten().tolist():
            target[i].zero_()
            if on_zero == "complete":
                complete_(target[i], torch.eye(target.shape[-1], dtype=torch.float64, device=w.device))
                residual[i], aligned[i] = gram_residual(target[i].mT @ target[i]), 1.0
    _check(residual, aligned, zero, solver)
    batch = w.shape[:-2]
    return PolarResult(out, residual.reshape(batch), aligned.reshape(batch), max(iterations), solver, products)


def _solver(name: str, options: dict[str, Any]) -> Callable[..., Solved]:
    if name not in SOLVERS:
        raise UnknownNameError("solver", name, SOLVERS)
    known = [p.name for p in inspect.signature(SOLVERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(f"solver {name!r} has no option {option!r}; it takes {', '.join(known)}")
    return SOLVERS[name]


def _output(w: Tensor, dtype: torch.dtype, out: Tensor | None, solver: str) -> Tensor:
    if out is None:
        return torch.empty(w.shape, dtype=dtype, device=w.device)
    if out.shape != w.shape or out.dtype != dtype or out.device != w.device:
        raise UserError(f"out must be {dtype} {tuple(w.shape)} on {w.device}; got {out.dtype} {tuple(out.shape)}")
    if solver != "exact" and out.untyped_storage().data_ptr() == w.untyped_storage().data_ptr():
        raise UserError(f"solver {solver!r} cannot work in place; give another out, or use 'exact'")
    return out.detach()


def _upright(w: Tensor) -> Tensor:
    """The batch as (b, m, n) with m >= n: a view wherever the strides allow one."""
    flat = w.reshape(-1, *w.shape[-2:])
    return flat if flat.shape[-2] >= flat.shape[-1] else flat.mT


def _peaks(w: Tensor) -> Tensor:
    """Largest absolute entry of every matrix; NaN if an entry is NaN."""
    peaks = [w.new_empty(0)]
    for chunk in _chunks(w):
        block = w[chunk]
        if not block.mT.is_contiguous():
            block = block.contiguous()  # reductions are slow over scattered memory, such as the taps of a kernel
        peaks.append(torch.maximum(block.amax(dim=(-2, -1)), -block.amin(dim=(-2, -1))))
    return torch.cat(peaks)


def _refuse(peak: Tensor, on_zero: str) -> None:
    """Raise for the first matrix that cannot be solved, judged by its largest absolute entry."""
    bad = ~peak.isfinite()
    problem = "holds NaN or Inf"
    if not bool(bad.any()) and on_zero == "error":
        bad = peak == 0
        problem = "is all zero, so no isometry is nearest to it (on_zero='skip' or 'complete' lets it pass)"
    if bool(bad.any()):
        raise MatrixError(int(bad.nonzero()[0]), problem)


def _check(residual: Tensor, aligned: Tensor, zero: Tensor, solver: str) -> None:
    """Raise for the first answer that is no number, or, of a direct solver, that points elsewhere than its matrix."""
    wrong = ~(residual.isfinite() & aligned.isfinite())
    if solver in _DIRECT:
        wrong |= ~zero & ((aligned - 1).abs() > _ALIGNED)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise MatrixError(
            i,
            f"could not be solved by {solver}: the factor found has residual {float(residual[i]):.2g} and alignment "
            f"{float(aligned[i]):.2g} instead of 0 and 1",
        )


def _chunks(w: Tensor, without: Tensor | None = None) -> Iterator[slice]:
    """Slices of the batch of about CHUNK_ELEMENTS elements each, without the matrices marked in `without`."""
    step = max(1, at_once(w.device, CHUNK_ELEMENTS) // w.shape[1:].numel())
    left_out = [] if without is None else torch.nonzero(without).flatten().tolist()
    edges = [-1, *left_out, len(w)]
    for before, after in itertools.pairwise(edges):
        for start in range(before + 1, after, step):
            yield slice(start, min(start + step, after))
