"""Decoded data sets on disk: one safetensors file each, mapped into memory. A damaged file is made again."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file

from replastic.data.dataset import Dataset, Pixels, Splits
from replastic.data.source import Place
from replastic.disk import CACHE, cache_folder, clear, replacing
from replastic.errors import UserError

FORMAT = 3
"""Part of every key. It grows whenever the same source is decoded to other tensors than before."""
PARTS = ("train", "held_out", "test")


def cached(name: str, key: Sequence[Any], make: Callable[[], Splits]) -> Splits:
    """The splits of `key`, mapped into memory from the cache. They are made and stored if the cache lacks them.

    Processes that map one file share its memory. Two processes may make it at once: each writes a file of its own and
    renames it into place. A file that does not match its checksum is made again.

    Args:
        name: Name of the data set; the file's name begins with it.
        key: Everything that the splits depend on, as values whose `repr` is complete.
        make: Reads and decodes the splits, all three with one pixel rule.

    Raises:
        UserError: The cache cannot be written, or `make` raised it.
    """
    file = _file(name, key)
    clear(file.parent)
    splits = _read(file)
    if splits is None:
        _write(file, make())
        splits = _read(file)
    if splits is None:
        raise UserError(
            f"{file} is damaged although it was just written: check the disk, or set {CACHE} to another folder"
        )
    return splits


def is_cached(name: str, key: Sequence[Any]) -> bool:
    """Whether there is a file for the splits of `key`; the arguments are those of `cached`."""
    return _file(name, key).is_file()


def _file(name: str, key: Sequence[Any]) -> Path:
    return cache_folder() / f"{name}-{hashlib.sha256(repr([FORMAT, *key]).encode()).hexdigest()[:24]}.safetensors"


def fingerprint(place: Place) -> Sequence[Any]:
    """Facts that change when the files of a folder change: path, size and time of each. For the Hub, the name alone.

    So later runs use the data that the Hub gave first, with or without a network. Delete the cache to fetch it again.
    """
    return (
        [str(place), place.config]
        if place.folder is None
        else [str(place.folder.resolve()), place.config, *sorted(_files(place.folder))]
    )


def _files(folder: Path, inside: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each file below a folder, links to folders followed.

    Raises:
        UserError: A folder may not be read, or a link leads back to a folder that it lies in.
    """
    try:
        own = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    here = (own.st_dev, own.st_ino)
    if here in above:
        raise UserError(f"{folder} is a link to a folder that it lies in, so its images have no end: remove the link")
    for entry in entries:
        name = os.path.join(inside, entry.name)
        try:
            facts = entry.stat()
        except FileNotFoundError:
            continue  # removed meanwhile, or a link to nothing
        except OSError as error:
            raise UserError(f"cannot read {entry.path}: {error.strerror or error}") from error
        if stat.S_ISDIR(facts.st_mode):
            yield from _files(Path(entry.path), name, (*above, here))
        else:
            yield name, facts.st_size, facts.st_mtime_ns


def _write(file: Path, splits: Splits) -> None:
    parts = (splits.train, splits.held_out, splits.test)
    pixels = splits.train.pixels
    assert pixels is not None
    tensors = {"mean": pixels.mean, "std": pixels.std}
    for name, part in zip(PARTS, parts, strict=True):
        tensors |= {f"{name}.inputs": part.inputs, f"{name}.targets": part.targets}
    facts = {"classes": str(splits.train.classes), "checksum": splits.checksum()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            save_file(tensors, temporary, metadata=facts)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"cannot keep the decoded images in {file.parent} ({error}): make room, or set {CACHE} to another folder"
        ) from error


def _read(file: Path) -> Splits | None:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            facts = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        pixels = Pixels(tensors["mean"], tensors["std"])
        classes = int(facts["classes"])
        splits = Splits(
            *(Dataset(tensors[f"{name}.inputs"], tensors[f"{name}.targets"], classes, pixels) for name in PARTS)
        )
        return splits if splits.checksum() == facts["checksum"] else None
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None
