"""Folders in pieces: data cut up, carried one piece at a time and put together with checksums; records as one file."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SETS = ("cifar10", "cifar100", "mnist")
"""Data sets in the order in which they are packed: the first is whole as soon as possible."""
PIECE = 50 * 2**20
"""Bytes of a piece; a call carries one, and the checkout beside it (64 MiB in all)."""
MANIFEST = "manifest.json"
LARGEST = 16 * 2**20
"""Bytes of a file of exported records."""
BLOCK = 1 << 20
LEFT_OUT = ("state", "cache")
"""Folders that are not exported: what resuming on the same machine needs, and what can be made again."""


def pack(data: Path | None, folder: Path, *, limit: int = PIECE, sets: Sequence[str] = SETS) -> int:
    """Cut the files of the sets of a folder of data into pieces; the exit code.

    The pieces are one stream of all the files. The manifest says where each begins, with the checksums.
    """
    there = [] if data is None else [name for name in sets if (data / name).is_dir()]
    if data is None or not there:
        print(f"gpu: --pack needs --data FOLDER with {', '.join(sets)} in it, got {data}")
        return 2
    files = [file for name in there for file in sorted((data / name).rglob("*")) if file.is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    listed, pieces = [], []
    writer = _Pieces(folder, limit, pieces)
    for file in files:
        digest = hashlib.sha256()
        for block in _blocks(file):
            digest.update(block)
            writer.write(block)
        listed.append({"path": str(file.relative_to(data)), "size": file.stat().st_size, "sha256": digest.hexdigest()})
    writer.close()
    content = {"files": listed, "pieces": pieces}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"gpu: {len(files)} files in {len(pieces)} pieces of at most {limit / 2**20:.0f} MiB in {folder}")
    return 0


class _Pieces:
    """Writes a stream as files of equal size."""

    def __init__(self, folder: Path, limit: int, made: list[dict[str, Any]]) -> None:
        self.folder, self.limit, self.made = folder, limit, made
        self.buffer = bytearray()

    def write(self, block: bytes) -> None:
        """Add to the stream."""
        self.buffer += block
        while len(self.buffer) >= self.limit:
            self._put(self.limit)

    def close(self) -> None:
        """Write the rest."""
        if self.buffer:
            self._put(len(self.buffer))

    def _put(self, size: int) -> None:
        content = bytes(self.buffer[:size])
        del self.buffer[:size]
        name = f"piece-{len(self.made)}"
        (self.folder / name).write_bytes(content)
        self.made.append({"name": name, "size": size, "sha256": hashlib.sha256(content).hexdigest()})


def unpack(folder: Path, data: Path | None) -> bool:
    """Take the pieces that are in `folder` into the folder of data, and write each file that is whole by now.

    Pieces of earlier calls are kept beside the data, so that one piece may come at a time.

    Returns:
        Whether the pieces were sound.
    """
    if data is None or not (folder / MANIFEST).is_file():
        print(f"gpu: --unpack needs --data FOLDER to put the files in, and {folder / MANIFEST}")
        return False
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    kept = data / ".pieces"
    kept.mkdir(parents=True, exist_ok=True)
    for piece in content["pieces"]:
        source, target = folder / piece["name"], kept / piece["name"]
        if source.is_file() and not target.is_file():
            if _digest(source) != piece["sha256"]:
                print(f"gpu: {source} is damaged: its checksum is not that of the manifest; pack it again")
                return False
            part = target.with_suffix(".part")
            shutil.copyfile(source, part)
            part.rename(target)
    return _written(content, kept, data)


def _written(content: Mapping[str, Any], kept: Path, data: Path) -> bool:
    begin, whole = 0, []
    for file in content["files"]:
        target = data / file["path"]
        if not target.is_file() and _there(content, kept, begin, file["size"]):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            with part.open("wb") as out:
                out.writelines(_stream(content, kept, begin, file["size"]))
            if _digest(part) != file["sha256"]:
                print(f"gpu: {target} is damaged: its checksum is not that of the manifest")
                return False
            part.rename(target)
        whole.append(target.is_file())
        begin += file["size"]
    waiting = [p["name"] for p in content["pieces"] if not (kept / p["name"]).is_file()]
    missing = f"; still to come: {', '.join(waiting)}" if waiting else ""
    print(f"gpu: {sum(whole)} of {len(whole)} files are in {data}{missing}")
    return True


def _overlaps(content: Mapping[str, Any], begin: int, size: int) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and number of bytes of each piece that holds a part of the stream."""
    start = 0
    for piece in content["pieces"]:
        first, last = max(begin, start), min(begin + size, start + piece["size"])
        if first < last:
            yield piece["name"], first - start, last - first
        start += piece["size"]


def _there(content: Mapping[str, Any], kept: Path, begin: int, size: int) -> bool:
    return all((kept / name).is_file() for name, _, _ in _overlaps(content, begin, size))


def _stream(content: Mapping[str, Any], kept: Path, begin: int, size: int) -> Iterator[bytes]:
    for name, first, count in _overlaps(content, begin, size):
        with (kept / name).open("rb") as file:
            file.seek(first)
            yield file.read(count)


def export(records: Path, folder: Path) -> None:
    """Put the summary and all records, in one file, where a few small files can be fetched from."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(records / "summary.md", folder / "summary.md")
    part = folder / "records.tar.gz.part"
    with tarfile.open(part, "w:gz") as archive:
        for file in sorted(records.rglob("*")):
            inside = file.relative_to(records)
            if file.is_file() and not set(inside.parts) & set(LEFT_OUT):
                archive.add(file, str(inside))
    part.rename(folder / "records.tar.gz")
    if (size := (folder / "records.tar.gz").stat().st_size) > LARGEST:
        print(f"gpu: {folder / 'records.tar.gz'} has {size / 2**20:.0f} MiB, more than can be fetched", file=sys.stderr)


def restore(file: Path, records: Path) -> None:
    """Put exported records back, unless there are some already."""
    if (records / "summary.md").is_file():
        print(f"gpu: {records} has records already; {file} is left alone")
        return
    records.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file) as archive:
        archive.extractall(records, filter="data")


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as source:
        while block := source.read(BLOCK):
            yield block


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()
