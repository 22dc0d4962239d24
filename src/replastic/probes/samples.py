"""Some of the samples of a batch, whatever its structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from replastic.errors import UserError


def count_samples(batch: Any) -> int:
    """Number of samples of a batch: the length of the first axis of its tensors.

    Raises:
        UserError: It holds no tensor with an axis, or tensors of unequal length.
    """
    lengths = {len(tensor) for tensor in _tensors(batch)}
    if not lengths:
        raise UserError(f"a batch must hold tensors whose first axis counts samples, got {type(batch).__name__}")
    if len(lengths) > 1:
        raise UserError(
            "the first axis of every tensor of a batch must count the same samples, got lengths "
            + " and ".join(map(str, sorted(lengths)))
        )
    return lengths.pop()


def take(batch: Any, index: Tensor | slice) -> Any:
    """The batch with some of its samples: every tensor that has an axis is indexed along the first.

    Args:
        batch: A tensor, or a list, tuple or mapping of such things, as deep as you like. Other objects stay.
        index: Numbers of samples, or a slice.
    """
    if isinstance(batch, Tensor):
        return batch[index.to(batch.device) if isinstance(index, Tensor) else index] if batch.dim() else batch
    if isinstance(batch, Mapping):
        parts = {key: take(value, index) for key, value in batch.items()}
        return parts if type(batch) is dict else type(batch)(parts)  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(take(part, index) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(take(part, index) for part in batch)
    return batch


def first(batch: Any, samples: int) -> Any:
    """The first samples of a batch; the whole batch if it has no more, or if its samples cannot be counted.

    Raises:
        UserError: `samples` is less than 1.
    """
    if samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}")
    lengths = {len(tensor) for tensor in _tensors(batch)}
    return take(batch, slice(samples)) if len(lengths) == 1 and max(lengths) > samples else batch


def drawn(batch: Any, samples: int, generator: torch.Generator) -> Any:
    """Samples of a batch drawn without replacement; `generator` is on the CPU.

    Raises:
        UserError: The batch has fewer samples.
    """
    there = count_samples(batch)
    if not 1 <= samples <= there:
        raise UserError(f"cannot draw {samples} samples of a batch that holds {there}")
    return take(batch, torch.randperm(there, generator=generator)[:samples])


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        if batch.dim():
            yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _tensors(part)
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)
