"""A chunk of upright matrices (m >= n) and the place for their factors, read and written in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from replastic.linalg.device import at_once
from replastic.linalg.products import symmetric_product

BLOCK_ELEMENTS = 1 << 18
"""Elements that are read, multiplied and written at a time on a CPU. It bounds the memory beside weight and factor."""


class Solved(NamedTuple):
    """The report of a solver on a chunk. The factors themselves are in `Tall.out`."""

    residual: Tensor
    """(b,) float64."""
    alignment: Tensor
    """(b,) float64."""
    iterations: int


@dataclass(frozen=True)
class Tall:
    """Matrices W = `w` * `scale` of shape (b, m, n), m >= n, and the place `out` for their factors.

    `w` and `out` may be transposed views of the caller's tensors. `scale` (b, 1, 1) is a power of two for each matrix
    and brings its largest entry near 1. The polar factor does not change by it, and norms neither overflow nor
    underflow.
    """

    w: Tensor
    scale: Tensor
    out: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(b, m, n)."""
        b, m, n = self.w.shape
        return b, m, n

    def single(self, index: int) -> Tall:
        """One matrix of the chunk, as a chunk of its own."""
        pick = slice(index, index + 1)
        return Tall(self.w[pick], self.scale[pick], self.out[pick])

    def rows(self, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
        """A scaled copy of some rows of every matrix, in `dtype`, contiguous."""
        source = self.w[:, rows]
        copy = torch.empty(source.shape, dtype=dtype, device=source.device)
        return torch.mul(source, self.scale, out=copy)

    def row_blocks(self) -> Iterator[slice]:
        """Slices of rows of about BLOCK_ELEMENTS elements over the whole chunk."""
        b, m, n = self.shape
        step = max(1, at_once(self.w.device, BLOCK_ELEMENTS) // (b * n))
        return (slice(start, min(start + step, m)) for start in range(0, m, step))

    def gram(self, dtype: torch.dtype) -> Tensor:
        """W^T W, (b, n, n), accumulated in `dtype`."""
        b, _, n = self.shape
        total = torch.zeros(b, n, n, dtype=dtype, device=self.w.device)
        for rows in self.row_blocks():
            block = self.rows(dtype, rows)
            symmetric_product(block, block, out=total, add=True)
        return total

    def times(self, transform: Tensor, *, product: Tensor | None = None) -> Tensor:
        """Write Q = W T to `out`, block by block. Each block is read before it is written.

        Args:
            transform: T (b, n, n). The product runs in its dtype.
            product: (b,) float64; <Q, W> is added to it.

        Returns:
            Q^T Q (b, n, n) of the written Q.
        """
        b, _, n = self.shape
        gram = torch.zeros(b, n, n, dtype=self.out.dtype, device=self.out.device)
        for rows in self.row_blocks():
            block = self.rows(transform.dtype, rows)
            written = (block @ transform).to(self.out.dtype)
            symmetric_product(written, written, out=gram, add=True)
            self.out[:, rows] = written
            if product is not None:
                product += inner(written, block)
        return gram


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<A, B> of every pair of matrices, (*B,) float64."""
    return torch.sum(a * b, dim=(-2, -1)).double()


def gram_residual(gram: Tensor) -> Tensor:
    """||G - I||_F^2 / n of Gram matrices (b, n, n), (b,) float64, without a copy of them.

    The diagonals are changed for a moment, and put back. So a residual far below the rounding of a sum over all
    entries is found without sums in float64, which are slow.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    kept = diagonal.clone()
    diagonal.sub_(1)
    entries = gram.flatten(-2)
    squared = torch.linalg.vecdot(entries, entries).double()
    diagonal.copy_(kept)
    return torch.div(squared, gram.shape[-1])
