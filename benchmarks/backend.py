"""The fastest float32 matrix product of this machine that is still accurate, for the variants that ask for it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from measure import in_turn

ACCURATE = 2e-6
"""Largest relative error (Frobenius) of a product that counts as float32."""
FASTER = 0.9
"""The other setting must take less than this share of the usual time."""


@contextmanager
def fastest_backend() -> Iterator[str]:
    """Run a block with the fastest accurate float32 product; the previous setting comes back after it.

    ``torch.set_float32_matmul_precision("medium")`` lets torch hand CPU products to oneDNN. On processors without
    bfloat16 tiles (AMX) that library computes them in true float32, about twice as fast as the default on some AMD
    ones. Elsewhere the same setting really means bfloat16 (or TF32 on a GPU). So it is taken only if a product
    computed with it agrees with float64 and is faster.

    Yields:
        The setting in force: ``"highest"``, ``"high"`` or ``"medium"``.
    """
    before = torch.get_float32_matmul_precision()
    try:
        if medium_is_exact_and_faster():
            torch.set_float32_matmul_precision("medium")
        yield torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def medium_is_exact_and_faster() -> bool:
    """Whether the setting ``medium`` is accurate and faster on this machine."""
    before = torch.get_float32_matmul_precision()
    a = torch.randn(384, 384, generator=torch.Generator().manual_seed(0))
    truth = a.double() @ a.double()
    try:
        torch.set_float32_matmul_precision("highest")
        usual = seconds(a)
        torch.set_float32_matmul_precision("medium")
        error = float(torch.linalg.norm((a @ a).double() - truth) / torch.linalg.norm(truth))
        return error < ACCURATE and seconds(a) < FASTER * usual
    finally:
        torch.set_float32_matmul_precision(before)


def seconds(a: torch.Tensor) -> float:
    """Least time of nine products of a matrix with itself."""
    return min(in_turn({"": lambda: a @ a}, 9, lambda: None)[""])
