"""A checkpoint of safetensors: one file, or a folder of shards with the files beside them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from replastic.disk import sync
from replastic.errors import CheckpointError
from replastic.text import printable
from replastic.weights.archive import Stored
from replastic.weights.input_file import InputFile, Stamp
from replastic.weights.model_folder import ModelFolder
from replastic.weights.naming import RUN_STATE
from replastic.weights.run_state import FACTS
from replastic.weights.safetensors_file import SafetensorsFile, read_index

_INDEX = ".safetensors.index.json"
_SINGLE = "model.safetensors"
_OTHER_WEIGHTS = (
    "pytorch_model*",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "consolidated*.pth",
)
_CHUNK = 1 << 20


class SafetensorsArchive:
    """One or more safetensors files as one archive; implements `Archive`.

    A folder needs ``model.safetensors.index.json``, ``model.safetensors``, or just one safetensors file. In the saved
    state of a run, only the tensors of the network count; the rest is copied as it is.

    Raises:
        CheckpointError: A file is missing or damaged, or the index and the shards contradict each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ties: tuple[tuple[str, ...], ...] = ()
        self.refusals: Mapping[str, str] = {}
        self.folder = ModelFolder(path) if path.is_dir() else None
        if self.folder is None:
            index, self._files = None, {path.name: SafetensorsFile(InputFile(path))}
        else:
            index, shards = _shards(self.folder)
            self._files = {shard: SafetensorsFile(self.folder.open(shard)) for shard in shards}
        self._home = {name: shard for shard, file in self._files.items() for name in file.spans}
        if index is not None:
            self._check_index(index)
        spans = {name: file.spans[name] for file in self._files.values() for name in file.spans}
        surroundings = {name for file in self._files.values() for name in _surroundings(file)}
        self.tensors: Mapping[str, Stored] = {
            name: Stored(span.shape, span.dtype) for name, span in spans.items() if name not in surroundings
        }
        kept = sorted({printable(name.partition("/")[0]) for name in surroundings})
        left_out = _other_weights(self.folder)
        links = [name for name in sorted(self.folder.links) if name not in left_out] if self.folder else []
        notes = {
            "kept as it is": kept,
            "not copied, as they hold the old weights in another format": left_out,
            "kept as links, since they lead out of the folder": [printable(name) for name in links],
        }
        self.notes: tuple[str, ...] = tuple(f"{note}: {', '.join(of)}" for note, of in notes.items() if of)
        self._copied = {} if self.folder is None else {n: s for n, s in self.folder.files.items() if n not in left_out}
        self.links = {name: self.folder.links[name] for name in links} if self.folder else {}
        self.size = sum(stamp[2] for stamp in self._copied.values()) or sum(f.file.size for f in self._files.values())

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """State of its files when they were opened, by name."""
        return self._copied if self.folder is not None else {n: f.file.stamp for n, f in self._files.items()}

    @property
    def outputs(self) -> frozenset[str]:
        """Files and links of a copy, relative to its folder; empty if the archive is a single file.

        Raises:
            CheckpointError: The folder holds what cannot be copied.
        """
        if self.folder is None:
            return frozenset()
        self.folder.check_copyable()
        return frozenset(self._copied) | frozenset(self.links)

    def check(self) -> None:
        """Check that all files are still those that were opened, and the state of a run what was saved.

        Raises:
            CheckpointError: One was replaced or written to, or is damaged.
        """
        for file in self._files.values():
            file.check_state()
            file.file.check()
        if self.folder is not None:
            self.folder.check()

    def open(self, name: str) -> InputFile:
        """One of the files of a copy, by its name."""
        if name in self._files:
            return self._files[name].file
        assert self.folder is not None
        return self.folder.open(name)

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        return self.home(name).read(name)

    def equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same bytes. Reads them in pieces, up to the first difference."""
        files = [self.home(name) for name in (a, b)]
        spans = [file.spans[name] for file, name in zip(files, (a, b), strict=True)]
        size = spans[0].end - spans[0].start
        if size != spans[1].end - spans[1].start:
            return False
        for position in range(0, size, _CHUNK):
            count = min(_CHUNK, size - position)
            one, other = (f.file.read(s.start + position, count) for f, s in zip(files, spans, strict=True))
            if one != other:
                return False
        return True

    def writer(self, draft: Path) -> SafetensorsWriter:
        """Begin a copy at `draft`."""
        return SafetensorsWriter(self, draft)

    def home(self, name: str) -> SafetensorsFile:
        """The file that holds a tensor."""
        return self.shard(self._home[name])

    def shard(self, name: str) -> SafetensorsFile:
        """A file with tensors, by its name."""
        return self._files[name]

    @property
    def originals(self) -> frozenset[str]:
        """Names of the files that a copy has, links left out; that of the file itself if it is no folder."""
        return frozenset({self.path.name} if self.folder is None else self._copied)

    def _check_index(self, index: dict[str, str]) -> None:
        for name, shard in index.items():
            if self._home.get(name) != shard:
                raise CheckpointError(f"{self.path}: the index puts {name} into {shard}, which does not hold it")
        total = sum(len(file.spans) for file in self._files.values())
        if total != len(self._home):
            raise CheckpointError(f"{self.path}: two shards hold a tensor of the same name")


class SafetensorsWriter:
    """A byte-for-byte copy in which only the bytes of replaced tensors differ; implements `ArchiveWriter`.

    A shard begins as its header and a hole. New tensors go to their places in it at once, and what is between them is
    copied in the end, so that each byte is written once. One tensor at a time is in memory.
    """

    def __init__(self, archive: SafetensorsArchive, draft: Path) -> None:
        self._archive = archive
        self._draft = draft
        self._new: dict[str, set[str]] = defaultdict(set)
        """Names of the new tensors of each shard, by the name of its file."""
        self._open: tuple[Path, BinaryIO] | None = None
        if archive.folder is not None:
            draft.mkdir(exist_ok=True)

    def put(self, name: str, value: Tensor) -> None:
        """Write one new tensor to its place in the copy of its shard."""
        file = self._archive.home(name)
        file.overwrite(self._copy_of(file), name, value)
        self.keep(name)

    def keep(self, name: str) -> None:
        """Leave a tensor as it is in the copy, where an earlier call put it."""
        self._new[self._archive.home(name).path.name].add(name)

    def written(self, name: str) -> Tensor:
        """A tensor that was put into the copy."""
        file = self._archive.home(name)
        return file.read_from(self._copy_of(file), name)

    def finish(self) -> None:
        """Copy all that is not new, and wait until it is on the disk."""
        for name, new in self._new.items():
            file = self._archive.shard(name)
            copy = self._copy_of(file)
            for start, end in file.around(new):
                copy.seek(start)
                file.file.copy_to(copy, start, end)
            file.renew_state(copy)
        self.close()
        copied = [self._target(name) for name in self._new]
        for name in sorted(self._archive.originals - self._new.keys()):
            target = self._target(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as copy:
                self._archive.open(name).copy_to(copy)
            copied.append(target)
        for name, place in self._archive.links.items():
            link = self._draft / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(place)
        for target in copied:
            sync(target)
        if self._archive.folder is not None:
            for folder, _, _ in os.walk(self._draft):
                sync(Path(folder))

    def close(self) -> None:
        """Close the shard that is open, if any."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _target(self, name: str) -> Path:
        return self._draft if self._archive.folder is None else self._draft / name

    def _copy_of(self, source: SafetensorsFile) -> BinaryIO:
        """The copy of a shard, open; it begins with the header and has the full length."""
        target = self._target(source.path.name)
        if self._open is None or self._open[0] != target:
            self.close()
            copy = target.open("r+b" if target.exists() else "w+b")
            self._open = (target, copy)
            source.file.copy_to(copy, 0, source.start)
            copy.truncate(source.file.size)
        return self._open[1]


def _shards(folder: ModelFolder) -> tuple[dict[str, str] | None, list[str]]:
    """The index, or None, and the names of the safetensors files."""
    indexes = folder.names([_INDEX])
    if len(indexes) == 1 or f"model{_INDEX}" in indexes:
        index = read_index(folder.open(f"model{_INDEX}" if f"model{_INDEX}" in indexes else indexes[0]))
        shards = sorted(set(index.values()))
        missing = [shard for shard in shards if shard not in folder.files and shard not in folder.links]
        if missing:
            raise CheckpointError(
                f"{folder.path} is incomplete: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}"
            )
        return index, shards
    found = folder.names([".safetensors"])
    if _SINGLE in found or len(found) == 1:
        return None, [_SINGLE if _SINGLE in found else found[0]]
    if found:
        raise CheckpointError(f"{folder.path} holds {len(found)} safetensors files but no index: give one file instead")
    others = folder.names([".bin", ".pt", ".pth"])
    hint = f"; give the file itself, such as {folder.path / others[0]}" if others else ""
    raise CheckpointError(f"{folder.path} holds no safetensors file{hint}")


def _other_weights(folder: ModelFolder | None) -> list[str]:
    """Files in the folder itself with weights in another format."""
    names = folder.names([""]) if folder else []
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in _OTHER_WEIGHTS)]


def _surroundings(file: SafetensorsFile) -> list[str]:
    """Tensors that are not the network's, such as the optimizer's, if the file is the saved state of a run."""
    if FACTS not in file.metadata:
        return []
    return [name for name in file.spans if not name.startswith(RUN_STATE)]
