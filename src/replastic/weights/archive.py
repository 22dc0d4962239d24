"""The interface of every checkpoint format: tensors by name, one at a time, and a copy with some of them replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from replastic.errors import CheckpointError
from replastic.weights.input_file import Stamp

_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Stored:
    """Shape and dtype of one stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def refuse_pointer(path: Path, start: bytes) -> None:
    """Check by its first eight bytes or more that a file is no Git LFS pointer, whose weights were never fetched.

    Raises:
        CheckpointError: The file is a pointer.
    """
    if len(start) >= 8 and _LFS_POINTER.startswith(start[: len(_LFS_POINTER)]):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` there")


def raw_bytes(value: Tensor) -> memoryview:
    """The bytes of a tensor in the order of its axes, without a copy if they lie so in memory."""
    flat: memoryview = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return flat


class ArchiveWriter(Protocol):
    """A copy of an archive that is being written. Its files may be there in part, from an earlier call."""

    def put(self, name: str, value: Tensor) -> None:
        """Replace one tensor by another of the same shape and dtype."""

    def keep(self, name: str) -> None:
        """Count a tensor as replaced, since an earlier call has put it into the copy."""

    def written(self, name: str) -> Tensor:
        """A tensor as it is in the copy, in memory of its own."""

    def finish(self) -> None:
        """Complete the copy and wait until it is on the disk."""

    def close(self) -> None:
        """Close open files. It may be called after `finish`."""


class Archive(Protocol):
    """A checkpoint on disk."""

    path: Path
    tensors: Mapping[str, Stored]
    ties: tuple[tuple[str, ...], ...]
    """Groups of names that are one tensor, according to the file itself."""
    refusals: Mapping[str, str]
    """Tensors that cannot be replaced in a copy, each with the reason."""
    size: int
    """Size of a copy in bytes."""
    notes: tuple[str, ...]
    """Sentences about the archive, for the user."""

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """State of its files when they were opened, by name."""

    @property
    def outputs(self) -> frozenset[str]:
        """Files of a copy, relative to its folder; empty if the archive is a single file."""

    def check(self) -> None:
        """Check that the files are still those that were opened."""

    def read(self, name: str) -> Tensor:
        """One tensor. It has memory of its own, or must not be changed."""

    def equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same bytes."""

    def writer(self, draft: Path) -> ArchiveWriter:
        """Begin a copy at `draft`, a path that does not exist yet."""
