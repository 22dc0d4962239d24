"""Opens folders and Hub names with Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replastic.disk import scratch, user_path
from replastic.errors import UserError
from replastic.extras import require


@dataclass(frozen=True)
class Place:
    """The place of a data set: a folder, or a name on the Hugging Face Hub."""

    name: str
    folder: Path | None
    wanted_by: str
    """Public name of the data set, for messages."""
    config: str = ""
    """Name of the configuration, if the set has several."""
    asked_for: bool = True
    """Whether the user gave the name. If not, it is the set's own default."""
    extra: str = "vision"
    """Extra of this package that installs `datasets` for it."""
    content: str = "images"
    """Files that a folder may hold beside Parquet files, in words."""

    def __str__(self) -> str:
        return self.name


def find(
    source: str, wanted_by: str, config: str = "", *, hub: str = "", extra: str = "vision", content: str = "images"
) -> Place:
    """The folder `source` if it exists, else the Hub's data set of that name. An empty `source` means `hub`.

    Raises:
        UserError: `source` is a path, but not the path of a folder.
    """
    asked_for = bool(source)
    source = source or hub
    folder = user_path(source)
    if folder.is_dir():
        return Place(source, folder, wanted_by, config, asked_for, extra, content)
    if folder.exists() or folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise UserError(
            f"{wanted_by}: {source!r} is not a folder; give a folder of Parquet files or {content}, or a Hub name"
        )
    return Place(source, None, wanted_by, config, asked_for, extra, content)


@contextmanager
def opened(place: Place) -> Iterator[Mapping[str, Any]]:
    """The splits of a place by name. Each is a `datasets.Dataset`, readable until the end of the block.

    Parquet and image folders may name their splits in every way that `datasets` knows, in files or in folders. Files
    that `datasets` makes of a folder go into a temporary folder. Its downloads from the Hub stay in its own cache.

    Raises:
        UserError: The place has nothing that can be read, or the Hub cannot be reached or has no such set.
        MissingExtraError: `datasets` is not installed.
    """
    datasets = require("datasets", place.extra, f"the data set {place.wanted_by}")
    with scratch() as folder:
        try:
            if place.folder is None:
                splits = datasets.load_dataset(place.name, place.config or None)
            else:
                with _no_progress(datasets):
                    where = str(place.folder.resolve())
                    splits = datasets.load_dataset(where, place.config or None, cache_dir=str(folder))
        except Exception as error:  # `datasets` passes on what pyarrow, fsspec and the HTTP client raise
            raise UserError(_cannot_open(place, error)) from error
        yield splits


@contextmanager
def _no_progress(datasets: Any) -> Iterator[None]:
    """Switch off the progress bars of `datasets` inside the block: opening a folder takes about a second."""
    shown = not datasets.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _cannot_open(place: Place, error: Exception) -> str:
    innermost = error
    while innermost.__cause__ is not None and isinstance(innermost.__cause__, Exception):
        innermost = innermost.__cause__
    lines = str(error if place.folder is None else innermost).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if place.folder is None:
        problem, otherwise = f"cannot fetch {place.name!r}", f", or $REPLASTIC_DATA/{place.wanted_by}"
        if place.asked_for:
            problem, otherwise = f"{place.name!r} is not a folder here, and cannot be fetched", ""
        return (
            f"{place.wanted_by}: {problem} from the Hugging Face Hub: {reason}. Check the name and the network, or "
            f"give a folder of Parquet files or {place.content}: {place.wanted_by}:source=FOLDER{otherwise}"
        )
    return f"{place.wanted_by}: cannot read {place.name!r} as a folder of Parquet files or {place.content}: {reason}"
