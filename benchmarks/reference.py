"""What the solvers are measured against: the FIRE paper's formula in a plain loop over layers and kernel positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from replastic.linalg import polar


def newton_schulz(w: Tensor, num_iters: int) -> Tensor:
    """Algorithm 1 on one matrix."""
    transpose = w.shape[0] < w.shape[1]
    x = w.T if transpose else w
    x = x / torch.linalg.norm(x)
    for _ in range(num_iters):
        x = 1.5 * x - 0.5 * x @ (x.T @ x)
    return x.T if transpose else x


def loop(weights: Sequence[Tensor], num_iters: int) -> None:
    """Replace every weight by its factor, one matrix after the other."""
    for w in weights:
        w.copy_(factor(w, num_iters))


def factor(w: Tensor, num_iters: int) -> Tensor:
    """The new value of one weight: of a convolution, kernel position by kernel position."""
    if w.ndim == 2:
        return newton_schulz(w, num_iters)
    q = torch.empty_like(w)
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            q[:, :, i, j] = newton_schulz(w[:, :, i, j], num_iters)
    return q


def batched(weights: Sequence[Tensor], solver: str, *, limit: int = 1 << 18, **options: object) -> None:
    """The same with `polar`: matrices of equal shape together, at most `limit` elements (or one matrix) at a time."""
    groups: dict[torch.Size, list[Tensor]] = {}
    for w in weights:
        groups.setdefault(w.shape[:2], []).extend(matrices(w))
    for shape, group in groups.items():
        step = max(1, limit // shape.numel())
        for part in (group[k : k + step] for k in range(0, len(group), step)):
            if len(part) == 1 and solver == "exact":
                polar(part[0], solver, out=part[0], **options)
                continue
            solved = polar(part[0][None] if len(part) == 1 else torch.stack(part), solver, **options).factor
            for w, q in zip(part, solved, strict=True):
                w.copy_(q)


def matrices(w: Tensor) -> Tensor:
    """A weight as a batch of (d_out, d_in), sharing its memory."""
    return w.permute(2, 3, 0, 1).flatten(0, 1) if w.ndim == 4 else w[None]
