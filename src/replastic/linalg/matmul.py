"""Which precision a rough matrix product may take: measured once per process, on a small matrix."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

_ENOUGH = 0.75
"""A bfloat16 product must take less than this share of the time of a float32 one."""


@functools.cache
def bfloat16_is_fast(device_type: str) -> bool:
    """Whether bfloat16 products are much faster than float32 ones: yes on a GPU, on a CPU if it has instructions."""
    if device_type != "cpu":
        return True
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    half = a.bfloat16()
    return _seconds(lambda: half @ half) < _ENOUGH * _seconds(lambda: a @ a)


def _seconds(work: Callable[[], object], repeats: int = 9) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
