"""A checkpoint of safetensors: one file, or a folder of shards with the files beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from replastic.errors import CheckpointError
from replastic.weights.archive import Stored
from replastic.weights.draft import sync, tree
from replastic.weights.naming import RUN_STATE
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
        folder = path if path.is_dir() else path.parent
        index, shards = (None, [path.name]) if not path.is_dir() else _shards(path)
        self._files = {shard: SafetensorsFile(folder / shard) for shard in shards}
        self._home = {name: shard for shard, file in self._files.items() for name in file.spans}
        if index is not None:
            self._check_index(index)
        spans = {name: file.spans[name] for file in self._files.values() for name in file.spans}
        surroundings = {name for file in self._files.values() for name in _surroundings(file)}
        self.tensors: Mapping[str, Stored] = {
            name: Stored(span.shape, span.dtype) for name, span in spans.items() if name not in surroundings
        }
        left_out = _other_weights(path) if path.is_dir() else set()
        self.outputs = frozenset(_along(path) - left_out) if path.is_dir() else frozenset()
        kept = sorted({name.partition("/")[0] for name in surroundings})
        notes = {
            "kept as it is": kept,
            "not copied, as they hold the old weights in another format": sorted(left_out),
        }
        self.notes: tuple[str, ...] = tuple(f"{note}: {', '.join(of)}" for note, of in notes.items() if of)
        sources = [path / name for name in self.outputs] or [path]
        self.size = sum(source.stat().st_size for source in sources if source.is_file())

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        return self._files[self._home[name]].read(name)

    def equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same bytes. Reads them in pieces, up to the first difference."""
        with ExitStack() as stack:
            handles, left = [], []
            for name in (a, b):
                file = self._files[self._home[name]]
                handle = stack.enter_context(file.path.open("rb"))
                handle.seek(file.spans[name].start)
                handles.append(handle)
                left.append(file.spans[name].end - file.spans[name].start)
            if left[0] != left[1]:
                return False
            for position in range(0, left[0], _CHUNK):
                size = min(_CHUNK, left[0] - position)
                if handles[0].read(size) != handles[1].read(size):
                    return False
        return True

    def writer(self, draft: Path) -> SafetensorsWriter:
        """Begin a copy at `draft`."""
        return SafetensorsWriter(self, draft)

    def home(self, name: str) -> SafetensorsFile:
        """The file that holds a tensor."""
        return self._files[self._home[name]]

    def _check_index(self, index: dict[str, str]) -> None:
        for name, shard in index.items():
            if self._home.get(name) != shard:
                raise CheckpointError(f"{self.path}: the index puts {name} into {shard}, which does not hold it")
        total = sum(len(file.spans) for file in self._files.values())
        if total != len(self._home):
            raise CheckpointError(f"{self.path}: two shards hold a tensor of the same name")


class SafetensorsWriter:
    """A byte-for-byte copy in which only the bytes of replaced tensors differ; implements `ArchiveWriter`.

    A shard is copied when its first tensor is replaced. One tensor at a time is in memory.
    """

    def __init__(self, archive: SafetensorsArchive, draft: Path) -> None:
        self._archive = archive
        self._draft = draft
        self._folder = archive.path.is_dir()
        self._copied: set[Path] = set()
        self._open: tuple[Path, BinaryIO] | None = None
        if self._folder:
            draft.mkdir()

    def put(self, name: str, value: Tensor) -> None:
        """Overwrite one tensor in the copy of its shard."""
        file = self._archive.home(name)
        file.overwrite(self._copy_of(file.path), name, value)

    def finish(self) -> None:
        """Copy the files that no new tensor is in, and wait until all are on the disk."""
        self.close()
        source = self._archive.path
        for name in sorted(self._archive.outputs):
            self._copy(source / name, self._draft / name)
        if not self._folder:
            self._copy(source, self._draft)
        for copied in self._copied:
            sync(copied)
        if self._folder:
            for folder in {self._draft, *(p.parent for p in self._copied)}:
                sync(folder)

    def close(self) -> None:
        """Close the shard that is open, if any."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _copy_of(self, source: Path) -> BinaryIO:
        target = self._draft / source.name if self._folder else self._draft
        if self._open is None or self._open[0] != target:
            self.close()
            self._copy(source, target)
            self._open = (target, target.open("r+b"))
        return self._open[1]

    def _copy(self, source: Path, target: Path) -> None:
        if target not in self._copied:
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)  # a folder here is behind a link
            self._copied.add(target)


def _shards(folder: Path) -> tuple[dict[str, str] | None, list[str]]:
    """The index, or None, and the names of the safetensors files."""
    indexes = sorted(p.name for p in folder.glob(f"*{_INDEX}"))
    if len(indexes) == 1 or f"model{_INDEX}" in indexes:
        index = read_index(folder / (f"model{_INDEX}" if f"model{_INDEX}" in indexes else indexes[0]))
        shards = sorted(set(index.values()))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} is incomplete: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}"
            )
        return index, shards
    found = sorted(p.name for p in folder.glob("*.safetensors"))
    if _SINGLE in found or len(found) == 1:
        return None, [_SINGLE if _SINGLE in found else found[0]]
    if found:
        raise CheckpointError(f"{folder} holds {len(found)} safetensors files but no index: give one file instead")
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
    hint = f"; give the file itself, such as {folder / others[0]}" if others else ""
    raise CheckpointError(f"{folder} holds no safetensors file{hint}")


def _surroundings(file: SafetensorsFile) -> list[str]:
    """Tensors that are not the network's, such as the optimizer's, if the file is the saved state of a run."""
    if "replastic" not in file.metadata:
        return []
    return [name for name in file.spans if not name.startswith(RUN_STATE)]


def _along(folder: Path) -> set[str]:
    """Every file of the folder, except those of version control and of download tools."""
    return {name for name in tree(folder) if Path(name).parts[0] not in (".git", ".cache")}


def _other_weights(folder: Path) -> set[str]:
    return {p.name for pattern in _OTHER_WEIGHTS for p in folder.glob(pattern)}
