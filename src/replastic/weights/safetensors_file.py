"""One safetensors file: its header, its tensors one at a time, and a copy with some of them overwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from replastic.errors import CheckpointError
from replastic.weights.archive import refuse_pointer

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_HEADER_LIMIT = 100_000_000  # as in the safetensors library


@dataclass(frozen=True)
class Span:
    """The place of one tensor: bytes `start` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """A safetensors file. Its header is read and checked at once, its tensors on request.

    Raises:
        CheckpointError: The file is missing, is not a safetensors file, is a Git LFS pointer or is cut short, or its
            header contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spans: dict[str, Span] = {}
        """Places of the tensors by name, in the order of the bytes in the file."""
        self.metadata: dict[str, str] = {}
        try:
            self._read_header()
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        span = self.spans[name]
        content = bytearray(span.end - span.start)
        try:
            with self.path.open("rb") as file:
                file.seek(span.start)
                count = file.readinto(content)
        except OSError as error:
            raise CheckpointError(f"cannot read {name} from {self.path}: {error.strerror or error}") from None
        if count != len(content):
            raise CheckpointError(f"{self.path} was cut short while it was being read, at {name}")
        if not content:
            return torch.empty(span.shape, dtype=span.dtype)
        return torch.frombuffer(content, dtype=span.dtype).reshape(span.shape)

    def overwrite(self, copy: BinaryIO, name: str, value: Tensor) -> None:
        """Write `value`, of the stored shape and dtype, to its place in an open copy of this file."""
        span = self.spans[name]
        flat = value.detach().cpu().contiguous().reshape(-1)
        copy.seek(span.start)
        copy.write(flat.view(torch.uint8).numpy().data)

    def _read_header(self) -> None:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            start = file.read(8)
            refuse_pointer(self.path, start)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= _HEADER_LIMIT:
                raise CheckpointError(f"{self.path} is not a safetensors file, or damaged: fetch it again")
            text = file.read(length)
        if len(text) < length:
            raise CheckpointError(f"{self.path} is cut short: it ends inside its header")
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            raise CheckpointError(f"{self.path} is not a safetensors file: its header is not JSON") from None
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict | None):
            raise CheckpointError(f"{self.path} is not a safetensors file: its header is not a table")
        self.metadata = dict(header.pop("__metadata__", None) or {})
        spans = {name: self._span(name, fields, 8 + length) for name, fields in header.items()}
        self.spans = dict(sorted(spans.items(), key=lambda item: (item[1].start, item[1].end)))
        self._check_extent(8 + length, size)

    def _span(self, name: str, fields: Any, offset: int) -> Span:
        try:
            begin, end = fields["data_offsets"]
            shape, kind = tuple(fields["shape"]), fields["dtype"]
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{self.path}: the header's entry for {name} is damaged") from None
        if not isinstance(kind, str) or any(type(n) is not int or n < 0 for n in (begin, end, *shape)):
            raise CheckpointError(f"{self.path}: the header's entry for {name} is damaged")
        if kind not in DTYPES:
            raise CheckpointError(f"{self.path}: {name} has the dtype {kind}, which this version does not know")
        if end - begin != prod(shape) * DTYPES[kind].itemsize:
            raise CheckpointError(f"{self.path}: the header's size of {name} contradicts its shape {list(shape)}")
        return Span(DTYPES[kind], shape, offset + begin, offset + end)

    def _check_extent(self, start: int, size: int) -> None:
        position = start
        for name, span in self.spans.items():
            if span.start != position:
                raise CheckpointError(f"{self.path}: {name} does not begin where the tensor before it ends")
            position = span.end
        if size < position:
            raise CheckpointError(
                f"{self.path} is cut short: its header promises {position:,} bytes, it has {size:,}; fetch it again"
            )
        if size > position:
            raise CheckpointError(f"{self.path} has {size - position:,} bytes more than its header describes")


def read_index(path: Path) -> dict[str, str]:
    """The file of every tensor, from a ``model.safetensors.index.json``.

    Raises:
        CheckpointError: The index is not JSON, has no `weight_map`, or names a file outside its folder.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the index {path} is damaged: {error}") from None
    files = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(files, Mapping) or not files:
        raise CheckpointError(f"the index {path} is damaged: it has no weight_map")
    for name, file in files.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise CheckpointError(f"the index {path} is damaged: {name} lies in {file!r}, not in a file beside it")
    return dict(files)
