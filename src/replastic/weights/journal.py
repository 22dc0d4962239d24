"""How far a new checkpoint has come: a line of JSON for each tensor that is in its draft, so that a kill loses one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from replastic.weights.change import LayerOutcome


@dataclass(frozen=True)
class Done:
    """A new tensor that is in the draft."""

    digest: str
    """SHA-256 of its bytes. A reader compares it: in a power cut the disk may lose bytes and keep the journal."""
    layers: tuple[LayerOutcome, ...]


@dataclass(frozen=True)
class Work:
    """The work that a journal belongs to."""

    destination: str
    """Absolute path of the output."""
    facts: str
    """A text that is equal for two calls only if they do the same: input, method, settings, versions."""


class Journal:
    """The file beside a draft that names the work and the tensors that are done.

    Args:
        path: Where it is, or will be.
        work: What is being done. A journal of other work is begun anew.
    """

    def __init__(self, path: Path, work: Work) -> None:
        self.path = path
        lines, size = _whole_lines(path)
        same = bool(lines) and lines[0] == asdict(work)
        self.done: dict[str, Done] = dict(map(_read, lines[1:])) if same else {}
        """The tensors that are in the draft, by name."""
        self._file: BinaryIO = path.open("r+b" if same else "wb")
        if same:
            self._file.truncate(size)  # a kill may have cut the last line off
            self._file.seek(size)
        else:
            self._append(asdict(work))

    def add(self, name: str, done: Done) -> None:
        """Note that a tensor is in the draft."""
        self.done[name] = done
        layers = [asdict(layer) for layer in done.layers]
        self._append({"name": name, "sha256": done.digest, "layers": layers})

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def remove(self) -> None:
        """Close and remove the file: nobody can go on from here."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _append(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content, default=str).encode() + b"\n")
        self._file.flush()


def work_of(path: Path) -> Work | None:
    """The work that a journal belongs to; None if there is no journal, or nothing whole in it."""
    lines, _ = _whole_lines(path)
    try:
        return Work(**lines[0]) if lines else None
    except TypeError:
        return None


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines up to the first that is cut off or damaged, and the bytes they take."""
    found: list[dict[str, Any]] = []
    size = 0
    try:
        content = path.read_bytes()
    except OSError:
        return found, size
    for line in content.splitlines(keepends=True):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            found.pop()
            break
        size += len(line)
    return found, size


def _read(line: Mapping[str, Any]) -> tuple[str, Done]:
    return line["name"], Done(line["sha256"], tuple(LayerOutcome(**layer) for layer in line["layers"]))
