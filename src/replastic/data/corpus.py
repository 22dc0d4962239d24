"""Corpora before they are read: their place, their documents, and the documents that are held out for validation."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from replastic.data.cache import fingerprint
from replastic.data.source import Place, find, opened
from replastic.errors import UserError
from replastic.options import Settings, option, read
from replastic.registry import Registry

FOLDER: Final = "REPLASTIC_DATA"
"""Environment variable: a folder that holds one folder for each corpus, with the corpus's name."""
VALIDATION: Final = ("validation", "valid", "val", "dev")
Part = Literal["train", "validation"]
_TEXT: Final = "text"


@dataclass(kw_only=True, frozen=True)
class Corpus(Settings, ABC):
    """Text in documents. Subclasses are keyword-only frozen dataclasses, each field an `option`.

    A document is never cut in two between training and validation.
    """

    whereabouts: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that say where the text lies and not what it is."""

    def identity(self) -> str:
        """The shortest spec that says what the text is: fields that differ from their defaults, no `whereabouts`."""
        given = [(f.name, getattr(self, f.name), f.default) for f in fields(self) if f.name not in self.whereabouts]
        parts = [f"{name}={value}" for name, value, default in given if value != default]
        return f"{self.name}:{','.join(parts)}" if parts else self.name

    def key(self) -> list[Any]:
        """Everything that the documents depend on, the state of files included."""
        return [self.name, *(getattr(self, f.name) for f in fields(self))]

    @abstractmethod
    def documents(self, part: Part) -> AbstractContextManager[Iterator[str]]:
        """The documents of a part, within a block.

        Raises:
            UserError: There are none, or they cannot be read.
            MissingExtraError: What reads them is not installed.
        """


@dataclass(kw_only=True, frozen=True)
class StoredCorpus(Corpus):
    """A corpus in files or on the Hub.

    Where the source has no validation split, a document is held out if a hash of its text says so: whatever the order,
    a text that stands twice is on one side.
    """

    whereabouts: ClassVar[frozenset[str]] = frozenset({"source"})

    source: str = option("", help="folder of Parquet or text files, or a Hub name; empty: see $REPLASTIC_DATA")
    characters: int = option(
        0, help="use the first training documents that together have about so many characters; 0: all", low=0
    )
    held_out: float = option(
        0.01, help="share of the documents that is held out, where the source has no validation split", above=0, below=1
    )

    hub: ClassVar[str] = ""
    """Name on the Hub of an empty `source`, if there is no folder of the corpus's name either."""
    config: ClassVar[str] = ""
    """Its configuration on the Hub."""

    def rows(self, rows: Iterable[str]) -> Iterator[str]:
        """The documents in the rows of a split; one a row unless overridden."""
        return iter(rows)

    def key(self) -> list[Any]:
        """With the state of the files."""
        return [*super().key(), fingerprint(self.found())]

    def found(self) -> Place:
        """The folder, or the Hub's name.

        Raises:
            UserError: `source` is a path, but not the path of a folder.
        """
        source, root = self.source, os.environ.get(FOLDER)
        if not source and root and (Path(root) / self.name).is_dir():
            source = str(Path(root) / self.name)
        if not source and not self.hub:
            raise UserError(f"{self.name} needs a source: {self.name}:source=FOLDER")
        place = find(source, self.name, self.config, hub=self.hub, extra="language", content="text files")
        return place if place.folder is None else replace(place, config="")

    @contextmanager
    def documents(self, part: Part) -> Iterator[Iterator[str]]:
        """Of the source's own split, or of the side on which their hash puts them."""
        place = self.found()
        with _splits(place) as splits:
            own = next((splits[name] for name in VALIDATION if name in splits), None)
            train = splits.get("train") or next(iter(splits.values()))
            if part == "train":
                kept = self.rows(train) if own is not None else self.side(self.rows(train), held_out=False)
                yield self._first(kept)
                return
            held = self.rows(own) if own is not None else self.side(self.rows(train), held_out=True)
            first = next((text for text in held if text.strip()), None)
            if first is None:
                raise UserError(
                    f"{self.name}: {place} has no document to hold out for validation: raise held_out={self.held_out}, "
                    "or give it a split called validation"
                )
            yield chain([first], held)

    def side(self, documents: Iterable[str], *, held_out: bool) -> Iterator[str]:
        """The documents on one side, where the source has no validation split: those whose hash puts them there."""
        edge = int(self.held_out * 2**32)
        for text in documents:
            draw = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")
            if (draw < edge) == held_out:
                yield text

    def _first(self, documents: Iterable[str]) -> Iterator[str]:
        seen = 0
        for text in documents:
            if self.characters and seen >= self.characters:
                return
            seen += len(text)
            yield text


REGISTRY: Registry[type[Corpus]] = Registry("corpus", "replastic.corpora")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry


def from_spec(spec: str) -> Corpus:
    """The corpus a text describes, not yet read: ``name`` or ``name:field=value,field=value``.

    Raises:
        UserError: No such corpus or field, a value that is not allowed, or a text that cannot be read.
    """
    kind, given = read(spec, get)
    return kind(**given)


@contextmanager
def _splits(place: Place) -> Iterator[Mapping[str, Iterable[str]]]:
    """The rows of each split: of text files one a file, of tables their column ``text``."""
    files = sorted(place.folder.rglob("*.txt")) if place.folder is not None else []
    if files:
        yield _of_files(files)
        return
    with opened(place) as splits:
        for name, split in splits.items():
            if _TEXT not in split.column_names:
                raise UserError(f"{place}: split {name} has no column {_TEXT}; it has {', '.join(split.column_names)}")
        yield {name: _Column(split) for name, split in splits.items()}


class _Column:
    """The texts of a table, read as they are asked for."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __iter__(self) -> Iterator[str]:
        return (row[_TEXT] or "" for row in self._table.select_columns([_TEXT]))


def _of_files(files: Iterable[Path]) -> dict[str, Iterable[str]]:
    """Text files by split: validation are those whose name, or whose folder's, begins as that of such a split."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        held = any(part.lower().startswith(VALIDATION) for part in (file.stem, file.parent.name))
        splits.setdefault("validation" if held else "train", []).append(file)
    return {name: _Texts(found) for name, found in splits.items()}


class _Texts:
    """The contents of text files, read as they are asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __iter__(self) -> Iterator[str]:
        for file in self._files:
            try:
                yield file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read {file} as UTF-8 text: {error}") from error
