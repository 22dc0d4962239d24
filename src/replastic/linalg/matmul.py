"""Which matrix product is fastest here and still accurate: probed once per process, on small matrices."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from replastic.errors import UserError

_ACCURATE = 2e-6


@contextmanager
def matmul_backend(name: str = "default") -> Iterator[str]:
    """Run a block with the chosen float32 matrix product; the previous setting comes back, whatever happens.

    ``torch.set_float32_matmul_precision("medium")`` lets torch hand CPU products to oneDNN. On processors without
    bfloat16 tiles (AMX) that library computes them in true float32, about twice as fast as the default on AMD ones;
    elsewhere the same setting really means bfloat16 (or TF32 on a GPU). So it is used only after a product computed
    with it has been compared with float64.

    Args:
        name: ``"default"`` changes nothing. ``"fastest"`` takes the medium setting if it is accurate (relative error
            below 2e-6) and faster here, on the CPU; GPU products are left as they are.

    Yields:
        The setting in force: ``"highest"``, ``"high"`` or ``"medium"``.

    Raises:
        UserError: Unknown name.
    """
    if name not in ("default", "fastest"):
        raise UserError(f"matmul backend must be 'default' or 'fastest', got {name!r}")
    before = torch.get_float32_matmul_precision()
    try:
        if name == "fastest" and _medium_is_exact_and_faster():
            torch.set_float32_matmul_precision("medium")
        yield torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def bfloat16_is_fast(device_type: str) -> bool:
    """Whether bfloat16 products are well faster than float32 ones: on GPUs yes, on a CPU if it has instructions."""
    if device_type != "cpu":
        return True
    a = _probe(256)
    half = a.bfloat16()
    return _seconds(lambda: half @ half) < 0.75 * _seconds(lambda: a @ a)


@functools.cache
def _medium_is_exact_and_faster() -> bool:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        a = _probe(384)
        truth = a.double() @ a.double()
        usual = _seconds(lambda: a @ a)
        torch.set_float32_matmul_precision("medium")
        error = torch.linalg.norm((a @ a).double() - truth) / torch.linalg.norm(truth)
        return float(error) < _ACCURATE and _seconds(lambda: a @ a) < 0.9 * usual
    finally:
        torch.set_float32_matmul_precision(before)


def _probe(n: int) -> Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(0))


def _seconds(work: Callable[[], object], repeats: int = 9) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
