"""One safetensors file: its header, its tensors one at a time, and a copy with some of them overwritten."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from replastic.errors import CheckpointError
from replastic.text import printable
from replastic.weights.archive import raw_bytes, refuse_pointer
from replastic.weights.input_file import InputFile
from replastic.weights.run_state import CHECKSUM, FACTS, checksum
from replastic.weights.safetensors_header import HeaderError, Span, parse_header, strict_json

_HEADER_LIMIT = 100_000_000  # as in the safetensors library


class SafetensorsFile:
    """A safetensors file. Its header is read and checked at once, its tensors on request.

    Raises:
        CheckpointError: It is not a safetensors file, is a Git LFS pointer or is cut short, or its header contradicts
            itself.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.spans: dict[str, Span] = {}
        """Places of the tensors by name, in the order of the bytes in the file."""
        self.metadata: dict[str, str] = {}
        self._read_header()

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        span = self.spans[name]
        return _tensor(span, self.file.read(span.start, span.end - span.start))

    @property
    def start(self) -> int:
        """Where the header ends and the tensors begin."""
        return 8 + self._length

    def around(self, names: Collection[str]) -> Iterator[tuple[int, int]]:
        """The parts of the file (first byte, end) that hold neither the header nor one of these tensors."""
        start = self.start
        for name, span in self.spans.items():
            if name in names:
                if start < span.start:
                    yield start, span.start
                start = span.end
        if start < self.file.size:
            yield start, self.file.size

    def overwrite(self, copy: BinaryIO, name: str, value: Tensor) -> None:
        """Write `value`, of the stored shape and dtype, to its place in an open copy of this file."""
        copy.seek(self.spans[name].start)
        copy.write(raw_bytes(value))

    def read_from(self, copy: BinaryIO, name: str) -> Tensor:
        """One tensor of an open copy of this file, in memory of its own."""
        span = self.spans[name]
        copy.seek(span.start)
        content = bytearray(span.end - span.start)
        if copy.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise CheckpointError(f"{copy.name} is cut short")
        return _tensor(span, content)

    def check_state(self) -> None:
        """If this is the saved state of a run, check that its content is what was saved.

        Raises:
            CheckpointError: It is not.
        """
        if self._is_state and checksum(self.spans, self.read, self.metadata[FACTS]) != self.metadata[CHECKSUM]:
            raise CheckpointError(f"{self.path} is damaged: its content is not what the run saved")

    def renew_state(self, copy: BinaryIO) -> None:
        """If this is the saved state of a run, bring the checksum of a changed copy up to date."""
        if not self._is_state:
            return
        old = self.metadata[CHECKSUM].encode()
        copy.seek(0)
        header = copy.read(self.start)
        new = checksum(self.spans, partial(self.read_from, copy), self.metadata[FACTS]).encode()
        copy.seek(header.index(old))
        copy.write(new)

    @property
    def _is_state(self) -> bool:
        return FACTS in self.metadata and len(self.metadata.get(CHECKSUM, "")) == 64

    def _read_header(self) -> None:
        start = bytes(self.file.read(0, min(8, self.file.size)))
        refuse_pointer(self.path, start)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= _HEADER_LIMIT:
            raise CheckpointError(f"{self.path} is not a safetensors file, or damaged: fetch it again")
        if self.file.size < 8 + length:
            raise CheckpointError(f"{self.path} is cut short: it ends inside its header")
        try:
            spans, self.metadata = parse_header(bytes(self.file.read(8, length)))
        except HeaderError as error:
            raise CheckpointError(f"{self.path} {printable(str(error))}") from None
        self._length = length
        offset = self.start
        self.spans = {n: replace(s, start=offset + s.start, end=offset + s.end) for n, s in spans.items()}
        self._check_extent(offset, self.file.size)

    def _check_extent(self, start: int, size: int) -> None:
        position = start
        for name, span in self.spans.items():
            if span.start != position:
                raise CheckpointError(f"{self.path}: {printable(name)} does not begin where the tensor before it ends")
            position = span.end
        if size < position:
            raise CheckpointError(
                f"{self.path} is cut short: its header promises {position:,} bytes, it has {size:,}; fetch it again"
            )
        if size > position:
            raise CheckpointError(f"{self.path} has {size - position:,} bytes more than its header describes")


def _tensor(span: Span, content: bytearray) -> Tensor:
    if not content:
        return torch.empty(span.shape, dtype=span.dtype)
    return torch.frombuffer(content, dtype=span.dtype).reshape(span.shape)


def read_index(file: InputFile) -> dict[str, str]:
    """The file of every tensor, from a ``model.safetensors.index.json``.

    Raises:
        CheckpointError: The index is not JSON, has no `weight_map`, or names a file outside its folder.
    """
    path = file.path
    try:
        if file.size > _HEADER_LIMIT:
            raise HeaderError("is larger than any index")
        content = strict_json(bytes(file.read(0, file.size)))
    except HeaderError:
        raise CheckpointError(f"the index {path} is damaged: it is not JSON, or has a key twice") from None
    files = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(files, Mapping) or not files:
        raise CheckpointError(f"the index {path} is damaged: it has no weight_map")
    for name, shard in files.items():
        if not isinstance(shard, str) or not shard or "\0" in shard or Path(shard).name != shard:
            raise CheckpointError(
                f"the index {path} is damaged: {printable(name)} lies in {shard!r}, not in a file beside it"
            )
    return dict(files)
