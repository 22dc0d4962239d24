"""Classification: its loss, its batches and one update of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from replastic.data import Dataset
from replastic.seeds import generator

Batch = tuple[Tensor, Tensor]
"""Inputs and targets."""


def loss(model: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """Mean cross-entropy of the model on a batch, in nats.

    Args:
        model: Inputs (B, *sample) to outputs (B, classes).
        batch: Inputs, and targets (B,), int64 in [0, classes).

    Returns:
        A scalar, differentiable in the parameters.
    """
    inputs, targets = batch
    return functional.cross_entropy(model(inputs), targets)


def batches(data: Dataset, batch_size: int, first: int, last: int, *purpose: str | int, seed: int) -> Iterator[Batch]:
    """Batches number `first` to `last` (excluded) of an endless sequence of shuffled passes over `data`.

    Every batch has `batch_size` samples (all of them, if the data has fewer): passes run into each other, so that no
    batch is small and every sample is seen equally often. A pass's order depends on its number, the seed and the
    purpose alone, so any part of the sequence can be drawn on its own.
    """
    count = len(data)
    size = min(batch_size, count)
    first_pass, last_pass = first * size // count, -(-last * size // count)
    orders = [torch.randperm(count, generator=generator(seed, *purpose, p)) for p in range(first_pass, last_pass)]
    if not orders:
        return
    offset = first * size - first_pass * count
    chosen = torch.cat(orders)[offset : offset + (last - first) * size].to(data.targets.device)
    for index in chosen.view(-1, size).unbind():
        yield data.batch(index)


def one_pass(data: Dataset, batch_size: int, first_batch: int = 0, every: int = 1) -> Iterator[Batch]:
    """Every sample once, in the order of the data; the last batch may be smaller.

    Args:
        data: The samples.
        batch_size: Samples in a batch.
        first_batch: Number of the first batch to give.
        every: Give each `every`-th batch from there.
    """
    for first in range(first_batch * batch_size, len(data), every * batch_size):
        yield data.batch(slice(first, first + batch_size))
