"""Seeds that depend on what they are for, and on nothing else: a new consumer never shifts another's numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


def derive(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as ``derive(seed, "labels", task)``; equal on every platform.

    Returns:
        A number in [0, 2**63).
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive`: draws are made there, so that they do not depend on the device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def drawing_from(seed: int | None, model: nn.Module | None = None) -> Iterator[None]:
    """Inside the block the global generators begin at `seed`; afterwards they are where they were before.

    That is those of the CPU and of the CUDA devices that hold parameters of `model`: of these, and no others, it draws.

    Args:
        seed: None leaves them where they are.
        model: None, or one on the CPU, concerns the CPU alone.
    """
    parameters = () if model is None else model.parameters()
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            seed_global(seed, devices)
        yield


def seed_global(seed: int, devices: Iterable[int]) -> None:
    """Seed the global generators of the CPU and of some CUDA devices.

    As `torch.manual_seed`, which would seed the generators of all other devices, too.
    """
    torch.default_generator.manual_seed(seed)
    for device in devices:
        torch.cuda.default_generators[device].manual_seed(seed)
