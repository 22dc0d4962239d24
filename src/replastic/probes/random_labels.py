"""Random labels for a batch: its own ones, handed out anew among its samples."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from replastic.seeds import generator

_KEYS = ("labels", "label", "targets", "target", "y")
"""Names under which a table of tensors holds its labels."""


def with_random_labels(batch: Any, seed: int) -> tuple[Any, tuple[str, ...]]:
    """The batch with its labels permuted among its samples, and a note where that cannot be done (the batch is None).

    Args:
        batch: A pair of inputs and labels, or a table that holds labels under one of the usual names.
        seed: Seed of the permutation.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2 and _are_labels(batch[1]):
        return (batch[0], _permuted(batch[1], seed)), ()
    if isinstance(batch, MutableMapping):
        key = next((k for k in _KEYS if k in batch and _are_labels(batch[k])), None)
        if key is not None:
            table = copy.copy(batch)  # of its own kind, since models may ask for attributes of it
            table.update({key: _permuted(batch[key], seed)})
            return table, ()
    return None, ("no random labels were tried: the batch is no pair (inputs, labels)",)


def _are_labels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) > 1


def _permuted(labels: Tensor, seed: int) -> Tensor:
    order = torch.randperm(len(labels), generator=generator(seed, "labels")).to(labels.device)
    return labels[order]
