"""Inputs with their targets, and their splits."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from replastic.errors import UserError


@dataclass(frozen=True)
class Pixels:
    """The rule from stored bytes to the input of a network: (byte / 255 - mean) / std, channel by channel.

    Shapes: `mean` and `std` (C,) float32, on the device of the data, in units of the full range of a byte.
    """

    mean: Tensor
    std: Tensor

    def __call__(self, stored: Tensor) -> Tensor:
        """Bytes (B, C, H, W) to float32 of the same shape."""
        scale = (1.0 / (255.0 * self.std)).view(-1, 1, 1)
        return torch.addcmul(-(self.mean / self.std).view(-1, 1, 1), stored.float(), scale)

    def to(self, device: str | torch.device) -> Pixels:
        """The same rule on `device`."""
        return Pixels(self.mean.to(device), self.std.to(device))


@dataclass(frozen=True)
class Dataset:
    """Labelled samples as two tensors on one device.

    Shapes: `inputs` (N, *sample), ready for the network or, with `pixels`, bytes that `batch` makes ready;
    `targets` (N,) int64 in [0, classes).
    """

    inputs: Tensor
    targets: Tensor
    classes: int
    pixels: Pixels | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise UserError(f"inputs and targets differ in length: {len(self.inputs)} and {len(self.targets)}")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs ready for the network, and targets, of the samples at `index`."""
        inputs, targets = (
            (self.inputs[index], self.targets[index])
            if isinstance(index, slice)
            else (self.inputs.index_select(0, index), self.targets.index_select(0, index))
        )
        return inputs if self.pixels is None else self.pixels(inputs), targets

    def take(self, index: Tensor) -> Dataset:
        """The samples at `index`, in that order."""
        index = index.to(self.targets.device)
        return replace(self, inputs=self.inputs[index], targets=self.targets[index])

    def first(self, count: int) -> Dataset:
        """The first `count` samples, or all if there are fewer."""
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def to(self, device: str | torch.device) -> Dataset:
        """The same samples on `device`."""
        pixels = None if self.pixels is None else self.pixels.to(device)
        return Dataset(self.inputs.to(device), self.targets.to(device), self.classes, pixels)


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts. Searches, best-epoch choices and triggers use `held_out` alone; tables report `test`."""

    train: Dataset
    held_out: Dataset
    test: Dataset

    def to(self, device: str | torch.device) -> Splits:
        """The same splits on `device`."""
        return Splits(self.train.to(device), self.held_out.to(device), self.test.to(device))

    def facts(self) -> dict[str, int | str]:
        """Facts that differ between two data sets of one name: samples of each part, and a checksum of all bytes."""
        counts = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        return {**counts, "checksum": self.checksum()}

    def checksum(self) -> str:
        """CRC-32 of all inputs and targets and of the pixel rules, in hexadecimal."""
        total = 0
        for part in (self.train, self.held_out, self.test):
            rule = () if part.pixels is None else (part.pixels.mean, part.pixels.std)
            for tensor in (part.inputs, part.targets, *rule):
                total = zlib.crc32(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
        return f"{total:08x}"


def hold_out(targets: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """A split stratified by class, without a random draw: within each class, every `every`-th sample is held out.

    Args:
        targets: (N,) labels.
        every: 10 holds out one sample in ten of each class, in the order of the data.

    Returns:
        Indices kept and indices held out, each ascending.
    """
    held = within_class(targets) % every == every - 1
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def within_class(targets: Tensor) -> Tensor:
    """Place of each sample among those of its class, from 0, in the order of the data; (N,) labels -> (N,)."""
    rank = torch.empty_like(targets)
    for label in range(int(targets.max()) + 1):
        chosen = targets == label
        rank[chosen] = torch.arange(int(chosen.sum()), dtype=targets.dtype)
    return rank
