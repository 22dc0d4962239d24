"""Seeds that depend on what they are for, and on nothing else: a new consumer never shifts another's numbers."""

from __future__ import annotations

import hashlib

import torch


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
