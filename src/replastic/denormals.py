"""Arithmetic that takes the smallest floating-point numbers as zero: processors are many times slower with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flushed() -> Iterator[None]:
    """Take denormal numbers (float32 below 1.2e-38) as zero inside the block; afterwards it is as it was before.

    Where a gradient has become zero, as for a dormant unit, Adam's moving average halves every few updates until it is
    such a number, and stays one. A step of Adam takes several times as long then (benchmarks/denormals.py). In that
    step the average is divided by at least eps = 1e-8 and added to a weight, so that only weights below 1e-23 could
    tell the difference.

    It holds for this thread. Other threads, as torch has for large products, compute as ever.
    """
    before = _flushes()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    """Whether this thread takes denormal numbers as zero."""
    return float(torch.tensor(2e-38) * torch.tensor(0.25)) == 0.0
