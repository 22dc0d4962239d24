"""A checkpoint as a chain of Linears, where nothing but the file says how the network runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.weights.checkpoint import CheckpointStore

ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}
"""Activation functions by the name that a user types."""


def chain(path: str | Path, activation: str = "relu") -> nn.Sequential:
    """The network whose Linears are the matrices of a checkpoint, with the activation function between them.

    The order is that of the numbers in the names, the head last, or that of the file, whichever fits: each layer must
    take as many inputs as the one before gives.

    Args:
        path: A checkpoint of matrices ``NAME.weight`` (d_out, d_in) and biases ``NAME.bias``.
        activation: One of `ACTIVATIONS`.

    Raises:
        UserError: The checkpoint holds anything else, or its matrices fit in no such order.
    """
    if activation not in ACTIVATIONS:
        raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    store = CheckpointStore(path)
    tensors = {entry.name: store.read(entry.name) for entry in store.entries()}
    names = [name for name, value in tensors.items() if name.endswith("weight") and value.ndim == 2]
    other = [name for name in tensors if name not in names and not _is_bias(name, tensors)]
    if other or not names:
        what = other[0] if other else "no matrix"
        raise UserError(
            f"{path} holds {what}, so that no chain of Linears can be made of it: use replastic.theory(model, batch) "
            "in Python"
        )
    heads = {entry.name for entry in store.entries() if entry.role == "head"}
    numbered = sorted(names, key=lambda name: (name in heads, _numbers(name)))
    order = next((found for found in (numbered, names) if _fits([tensors[name] for name in found])), None)
    if order is None:
        shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in numbered)
        raise UserError(f"the matrices of {path} do not follow each other ({shapes}): use replastic.theory in Python")
    layers: list[nn.Module] = [nn.Flatten()]
    for name in order:
        layers += [_linear(tensors[name], tensors.get(f"{name.removesuffix('weight')}bias")), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def _is_bias(name: str, tensors: Mapping[str, Tensor]) -> bool:
    weight = tensors.get(f"{name.removesuffix('bias')}weight")
    return name.endswith("bias") and weight is not None and tensors[name].shape == weight.shape[:1]


def _numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts 10 after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _fits(weights: Sequence[Tensor]) -> bool:
    return all(first.shape[0] == then.shape[1] for first, then in pairwise(weights))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    d_out, d_in = weight.shape
    layer = nn.Linear(d_in, d_out, bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
