"""How products of matrices are computed on this machine: chosen by probes, once, and kept on disk."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from replastic.disk import cache_folder, write_text
from replastic.environment import processor
from replastic.errors import UserError

SWITCH = "REPLASTIC_PRODUCTS"
"""Environment variable, read at each call: ``default`` leaves float32 products as torch computes them."""
ACCURATE = 2e-6
"""Largest relative error (Frobenius) of a product that counts as float32."""
_FASTER = 0.9
"""Another way must take less than this share of the usual time."""
_ENOUGH = 0.75
"""A bfloat16 product must take less than this share of the time of a float32 one."""
_ROUNDS = 9


@contextmanager
def fastest_products(device: torch.device) -> Iterator[str]:
    """Compute float32 products on a CPU in the fastest way that is accurate; the setting before comes back after.

    ``torch.set_float32_matmul_precision("medium")`` lets torch hand them to oneDNN. On processors without tiles for
    bfloat16 (AMX) that computes them in float32, on some AMD ones twice as fast as MKL. On others the same setting
    means bfloat16: there a probe of its accuracy refuses it.

    Yields:
        ``oneDNN``, or nothing where the setting stays as it was.
    """
    if device.type != "cpu" or os.environ.get(SWITCH) == "default" or not _one_dnn_is_better():
        yield ""
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has chosen by torch's newer switch
        yield ""
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield "oneDNN"
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _one_dnn_is_better() -> bool:
    """Whether the setting ``medium`` is accurate here, and faster; known from disk if it was measured before.

    The file is of one processor, one torch and one number of threads. If it cannot be written, each process measures.
    """
    key = f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    file = cache_folder() / f"products-{hashlib.sha256(key.encode()).hexdigest()[:24]}.txt"
    try:
        answer = file.read_text(encoding="utf-8").rpartition(": ")[2].strip()
    except OSError:
        answer = ""
    if answer in ("oneDNN", "default"):
        return answer == "oneDNN"
    better = _measured()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{key}: {'oneDNN' if better else 'default'}\n")
    except (OSError, UserError):
        pass
    return better


def _measured() -> bool:
    """The probe: first the accuracy, then both ways in turn, of which the least time counts on a busy machine."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        return False
    a = torch.randn(384, 384, generator=torch.Generator().manual_seed(0))
    truth = a.double() @ a.double()

    def product(setting: str) -> torch.Tensor:
        torch.set_float32_matmul_precision(setting)
        return a @ a

    try:
        error = torch.linalg.norm(product("medium").double() - truth) / torch.linalg.norm(truth)
        if not float(error) < ACCURATE:
            return False
        usual, other = seconds_in_turn(lambda: product("highest"), lambda: product("medium"))
    finally:
        torch.set_float32_matmul_precision(before)
    return other < _FASTER * usual


@functools.cache
def bfloat16_is_fast(device_type: str) -> bool:
    """Whether bfloat16 products are much faster than float32 ones: yes on a GPU, on a CPU if it has instructions."""
    if device_type != "cpu":
        return True
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    half = a.bfloat16()
    in_half, in_full = seconds_in_turn(lambda: half @ half, lambda: a @ a)
    return in_half < _ENOUGH * in_full


def seconds_in_turn(*works: Callable[[], object]) -> list[float]:
    """Least time of each of several pieces of work, which take turns."""
    best = [float("inf")] * len(works)
    for _ in range(_ROUNDS):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best
