"""Stages: they hold new tensors until they are written, and old ones for an undo."""

from __future__ import annotations

import os
import tempfile
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from replastic.errors import UserError

STAGINGS = ("memory", "disk")
PIECE = 1 << 18
"""Elements that are written to disk at once. Tensors with unusual strides are copied in pieces of this size."""


class Stage(Protocol):
    """Numbered tensors. Each may be replaced by one of the same shape and dtype."""

    def put(self, value: Tensor) -> int:
        """Keep a tensor and return its number."""

    def get(self, key: int) -> Tensor:
        """The tensor of that number. Do not change it."""

    def replace(self, key: int, value: Tensor) -> None:
        """Keep a copy of `value` in place of the tensor of that number."""

    def close(self) -> None:
        """Release memory and files."""


def open_stage(staging: str) -> Stage:
    """The stage of that name, one of `STAGINGS`.

    Raises:
        UserError: The name is unknown.
    """
    if staging == "memory":
        return MemoryStage()
    if staging == "disk":
        return DiskStage()
    raise UserError(f"staging must be one of {', '.join(STAGINGS)}, got {staging!r}")


class MemoryStage:
    """A stage in memory."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def put(self, value: Tensor) -> int:
        """Keep the tensor itself. The caller must not change it afterwards."""
        key = len(self._tensors)
        self._tensors[key] = value
        return key

    def get(self, key: int) -> Tensor:
        """The tensor."""
        return self._tensors[key]

    def replace(self, key: int, value: Tensor) -> None:
        """Keep a copy, in the memory format of `value`."""
        self._tensors[key] = value.detach().clone()

    def close(self) -> None:
        """Drop the tensors."""
        self._tensors.clear()


class DiskStage:
    """A stage in a temporary file without a name. The file is gone after `close`, or when the process ends in any way.

    Only the tensor that `get` returns is in memory.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            self._descriptor = os.dup(file.fileno())
        self._slots: list[tuple[int, torch.Size, torch.dtype, torch.device]] = []
        self._end = 0

    def put(self, value: Tensor) -> int:
        """Write the tensor at the end of the file.

        Raises:
            UserError: The disk of the temporary folder is full.
        """
        key = len(self._slots)
        self._slots.append((self._end, value.shape, value.dtype, value.device))
        self._end += value.numel() * value.element_size()
        self.replace(key, value)
        return key

    def get(self, key: int) -> Tensor:
        """Read the tensor from the file to its device."""
        offset, shape, dtype, device = self._slots[key]
        data = torch.empty(prod(shape) * dtype.itemsize, dtype=torch.uint8)
        _read(self._descriptor, data.numpy().data, offset)
        return data.view(dtype).reshape(shape).to(device)

    def replace(self, key: int, value: Tensor) -> None:
        """Overwrite the tensor in the file, a few rows at a time."""
        value = value.detach()
        rows = value.unsqueeze(0) if value.ndim == 0 else value
        offset = self._slots[key][0]
        for piece in torch.split(rows, max(1, PIECE // max(1, rows[:1].numel()))):
            flat = piece.cpu().contiguous().reshape(-1).view(torch.uint8)
            _write(self._descriptor, flat.numpy().data, offset)
            offset += flat.numel()

    def close(self) -> None:
        """Close the file, which frees its space."""
        os.close(self._descriptor)


def _read(descriptor: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if not count:
            raise UserError("the temporary file that held staged weights was cut short")
        buffer, offset = buffer[count:], offset + count


def _write(descriptor: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        try:
            count = os.pwrite(descriptor, buffer, offset)
        except OSError as error:
            where = tempfile.gettempdir()
            raise UserError(
                f"cannot stage weights in {where}: {error.strerror or error}; free space there, set TMPDIR, "
                'or use staging="memory"'
            ) from error
        buffer, offset = buffer[count:], offset + count
