"""Inputs with their labels, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Labelled samples as two tensors on one device.

    Shapes: `inputs` (N, *sample) ready for the network; `targets` (N,) int64 in [0, classes).
    """

    inputs: Tensor
    targets: Tensor
    classes: int

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise UserError(f"inputs and targets differ in length: {len(self.inputs)} and {len(self.targets)}")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def take(self, index: Tensor) -> Dataset:
        """The samples at `index`, in that order."""
        index = index.to(self.targets.device)
        return Dataset(self.inputs[index], self.targets[index], self.classes)

    def first(self, count: int) -> Dataset:
        """The first `count` samples, or all if there are fewer."""
        return Dataset(self.inputs[:count], self.targets[:count], self.classes)

    def to(self, device: str | torch.device) -> Dataset:
        """The same samples on `device`."""
        return Dataset(self.inputs.to(device), self.targets.to(device), self.classes)


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts: searches, best-epoch choices and triggers see `held_out` alone, tables report `test`."""

    train: Dataset
    held_out: Dataset
    test: Dataset

    def to(self, device: str | torch.device) -> Splits:
        """The same splits on `device`."""
        return Splits(self.train.to(device), self.held_out.to(device), self.test.to(device))


def hold_out(targets: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Split stratified by class without drawing anything: within each class, each `every`-th sample is held out.

    Args:
        targets: (N,) labels.
        every: 10 holds out one sample in ten of each class, in the order of the data.

    Returns:
        Indices kept and indices held out, each ascending.
    """
    rank = torch.empty_like(targets)
    for label in range(int(targets.max()) + 1):
        chosen = targets == label
        rank[chosen] = torch.arange(int(chosen.sum()), dtype=targets.dtype)
    held = rank % every == every - 1
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()
