"""Parts that several processes hold of some tensors are brought to one owner each, and back: one exchange each way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from replastic.parallel.distributed import plainly

T = TypeVar("T")


def exchange(
    pieces: Sequence[Sequence[Tensor]], expected: Sequence[int], device: torch.device, group: Any
) -> list[Tensor]:
    """Give each process of a group some tensors, and take those that the others give; one collective.

    Args:
        pieces: The tensors for each process, of any shapes and dtypes, in the order of the group.
        expected: Number of bytes that each process gives to this one.
        device: The device on which the group communicates.
        group: The process group.

    Returns:
        The bytes of each process, (expected,) uint8.

    Raises:
        LostProcessError: Another process has ended.
    """
    flat = [t.detach().contiguous().reshape(-1).view(torch.uint8).to(device) for given in pieces for t in given]
    counts = [sum(t.numel() * t.element_size() for t in given) for given in pieces]
    sent = torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8, device=device)
    taken = torch.empty(sum(expected), dtype=torch.uint8, device=device)
    with plainly():
        distributed.all_to_all_single(taken, sent, list(expected), counts, group=group)
    return list(torch.split(taken, list(expected)))


def tell(said: T, group: Any) -> list[T]:
    """The small objects that the processes of a group say, in the order of the group."""
    heard: list[Any] = [None] * distributed.get_world_size(group)
    with plainly():
        distributed.all_gather_object(heard, said, group=group)
    return heard


def share(work: Sequence[float], owners: int) -> list[list[int]]:
    """Pieces of work for each of some owners, by their numbers: the largest first, to whom has the least so far.

    The result depends on the arguments alone, so all processes find the same.
    """
    shares: list[list[int]] = [[] for _ in range(owners)]
    loads = [0.0] * owners
    for piece in sorted(range(len(work)), key=lambda k: (-work[k], k)):
        least = min(range(owners), key=lambda k: (loads[k], k))
        shares[least].append(piece)
        loads[least] += work[piece]
    return shares
