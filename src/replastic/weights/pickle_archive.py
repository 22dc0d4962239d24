"""A .pt, .pth, .bin or .th file, read without running its code: the state dict inside, and the rest around it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from replastic.disk import sync
from replastic.errors import CheckpointError
from replastic.text import printable
from replastic.weights.archive import Stored, refuse_pointer
from replastic.weights.input_file import InputFile, Stamp
from replastic.weights.pickled import DamagedError, Opaque, TensorRef, UnsafeError, overlapping, references
from replastic.weights.torch_file import Record, TorchFile, checksum, open_torch_file

SUFFIXES = (".pt", ".pth", ".bin", ".th", ".ckpt")
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "params", "weights")


class PickleArchive:
    """A file of `torch.save`, read a tensor at a time and without running its code; implements `Archive`.

    The state dict may lie inside a container, under one of the usual keys. The rest of the container is kept. Tensors
    that are sparse, nested or quantized, or whose elements share memory, are kept as they are.

    Raises:
        CheckpointError: The file is missing or damaged, holds objects that need code to be run, or has no state dict.
    """

    outputs: frozenset[str] = frozenset()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _load(InputFile(path))
        content = self.file.content
        key, state = _find_state(content, path)
        found = {n: v for n, v in state.items() if isinstance(v, TensorRef) and not v.expands}
        self.views: Mapping[str, TensorRef] = found
        self.tensors: Mapping[str, Stored] = {name: Stored(view.shape, view.dtype) for name, view in found.items()}
        groups: dict[object, list[str]] = {}
        for name, view in found.items():
            place = (view.storage.key, view.span, view.shape, view.strides, view.dtype) if 0 not in view.shape else name
            groups.setdefault(place, []).append(name)
        self.ties: tuple[tuple[str, ...], ...] = tuple(tuple(names) for names in groups.values() if len(names) > 1)
        outside = references(content, leave_out=state) if key else []
        outside += references([value for name, value in state.items() if name not in found])
        shared = overlapping([*((view, name) for name, view in found.items()), *((view, "") for view in outside)])
        self.refusals: Mapping[str, str] = {
            name: f"it shares memory with {printable(other) or 'another part'} of the file: save a clone of it"
            for name, other in shared.items()
        }
        self.size = self.file.file.size
        self.notes: tuple[str, ...] = _notes(content, key, state, found)
        self._checked: set[str] = set()

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """State of the file when it was opened, by its name."""
        return {self.path.name: self.file.file.stamp}

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own.

        Raises:
            CheckpointError: Its bytes are not those that were saved.
        """
        view = self.views[name]
        begin, end = view.span
        if begin == end:
            return torch.empty(view.shape, dtype=view.dtype)
        self._check(view.storage.key)
        content = self.file.file.read(self.file.records[view.storage.key].start + begin, end - begin)
        return torch.frombuffer(content, dtype=view.dtype).as_strided(view.shape, view.strides)

    def equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same values."""
        return torch.equal(self.read(a), self.read(b))

    def check(self) -> None:
        """Check that the file is still the one that was opened, and that nothing in it is damaged.

        Raises:
            CheckpointError: It is not.
        """
        for key in self.file.records:
            self._check(key)
        self.file.file.check()

    def writer(self, draft: Path) -> PickleWriter:
        """Begin a copy at `draft`."""
        return PickleWriter(self, draft)

    def _check(self, key: str) -> None:
        if key not in self._checked:
            self.file.check_sum(self.file.records[key])
            self._checked.add(key)


class PickleWriter:
    """A byte-for-byte copy in which only the bytes of replaced tensors and their checksums differ.

    Implements `ArchiveWriter`. One tensor at a time is in memory.
    """

    def __init__(self, archive: PickleArchive, draft: Path) -> None:
        self._archive = archive
        self._draft = draft
        self._touched: dict[str, Record] = {}
        self._copy: BinaryIO | None = None

    def put(self, name: str, value: Tensor) -> None:
        """Overwrite one tensor in the copy. Names that share its memory in the file have the new value, too."""
        view = self._archive.views[name]
        begin, end = view.span
        record = self._archive.file.records[view.storage.key]
        if begin == end:
            return
        copy = self._begun()
        copy.seek(record.start + begin)
        content = bytearray(copy.read(end - begin))
        torch.frombuffer(content, dtype=view.dtype).as_strided(view.shape, view.strides).copy_(value)
        copy.seek(record.start + begin)
        copy.write(content)
        self.keep(name)

    def keep(self, name: str) -> None:
        """Leave a tensor as it is in the copy, where an earlier call put it."""
        key = self._archive.views[name].storage.key
        self._touched[key] = self._archive.file.records[key]

    def written(self, name: str) -> Tensor:
        """A tensor as it is in the copy, in memory of its own."""
        view = self._archive.views[name]
        begin, end = view.span
        if begin == end:
            return torch.empty(view.shape, dtype=view.dtype)
        copy = self._begun()
        copy.seek(self._archive.file.records[view.storage.key].start + begin)
        return torch.frombuffer(bytearray(copy.read(end - begin)), dtype=view.dtype).as_strided(
            view.shape, view.strides
        )

    def finish(self) -> None:
        """Bring the checksums up to date, and wait until the copy is on the disk."""
        copy = self._begun()
        for record in self._touched.values():
            if record.crc:
                crc = checksum(copy, record)
                for place in record.crc_places:
                    copy.seek(place)
                    copy.write(crc.to_bytes(4, "little"))
        self.close()
        sync(self._draft)

    def close(self) -> None:
        """Close the copy."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _begun(self) -> BinaryIO:
        if self._copy is None:
            source = self._archive.file.file
            whole = self._draft.exists() and self._draft.stat().st_size == source.size  # of an earlier call
            self._copy = self._draft.open("r+b" if whole else "w+b")
            if not whole:
                source.copy_to(self._copy)
        return self._copy


def _load(file: InputFile) -> TorchFile:
    refuse_pointer(file.path, bytes(file.read(0, min(23, file.size))))
    try:
        return open_torch_file(file)
    except UnsafeError as error:
        raise CheckpointError(
            f"{file.path} is refused: besides tensors it holds {printable(error.name)}, and reading that could run "
            "code; if you trust the file, load it yourself and save its state dict as safetensors"
        ) from None
    except (DamagedError, zlib.error):
        raise CheckpointError(
            f"{file.path} is damaged or not a PyTorch checkpoint: fetch it or save it again"
        ) from None


def _notes(content: Any, key: str, state: Mapping[str, Any], found: Mapping[str, TensorRef]) -> tuple[str, ...]:
    """Sentences on what the file holds besides the weights."""
    others = [printable(name) if isinstance(name, str) else str(name)[:40] for name in content if key and name != key]
    odd = {n: v for n, v in state.items() if n not in found and isinstance(v, Opaque | TensorRef)}
    named = [
        f"{printable(name)} ({value.kind.removeprefix('_rebuild_') if isinstance(value, Opaque) else 'expanded'})"
        for name, value in odd.items()
    ]
    return tuple(f"kept as it is: {', '.join(names)}" for names in (others, named) if names)


def _find_state(content: Any, path: Path) -> tuple[str, Mapping[str, Any]]:
    if _is_state(content):
        return "", content
    if isinstance(content, dict):
        for key in _CONTAINERS:
            if _is_state(content.get(key)):
                return key, content[key]
        others = [key for key, value in content.items() if _is_state(value)]
        if len(others) == 1:
            return others[0], content[others[0]]
        if others:
            raise CheckpointError(
                f"{path} holds several state dicts ({', '.join(printable(str(o)) for o in others)}): save the one to "
                "use as a file of its own"
            )
    raise CheckpointError(f"{path} holds no state dict (tensors by name): save model.state_dict() into it")


def _is_state(value: Any) -> bool:
    """Whether it looks like a state dict: its keys are texts, and most values tensors (some modules add others)."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    return 2 * sum(isinstance(item, TensorRef | Opaque) for item in value.values()) > len(value)
