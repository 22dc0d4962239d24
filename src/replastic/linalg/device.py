"""Habits of a device: how many elements to take at a time, and rounding that a caller may have switched on there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

ON_A_GPU = 1 << 24
"""Elements taken at a time on a GPU, which needs many to be busy and has the memory: 64 MiB in float32."""


def at_once(device: torch.device, on_cpu: int) -> int:
    """Elements to take at a time: `on_cpu` on a CPU, whose caches are small, and at least `ON_A_GPU` elsewhere."""
    return on_cpu if device.type == "cpu" else max(on_cpu, ON_A_GPU)


@contextmanager
def in_working_precision(device: torch.device) -> Iterator[None]:
    """Compute products in the dtype of their factors inside the block, whatever the caller allows for its own.

    Autocast is off. On a GPU, so is TF32, which rounds the factors of a float32 product to 10 bits.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        try:
            before = torch.get_float32_matmul_precision()
        except RuntimeError:  # TF32 was switched on by torch's newer switch, and then the older one refuses to answer
            switch = torch.backends.cuda.matmul
            tf32, switch.fp32_precision = switch.fp32_precision, "ieee"
            try:
                yield
            finally:
                switch.fp32_precision = tf32
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
