"""Run directories: one format for every run, append-only, safe to kill at any moment.

A run is one method with one seed on one benchmark:

    run.json         the resolved configuration, seed, versions, git revision, hardware (see `RunInfo`)
    metrics.jsonl    one record a line, append-only (see `Record`)
    state/           everything that resuming needs; removed when the run has finished
    checkpoints/     the network at evaluations, where the run was asked to keep them; none is ever changed
    DONE             exists when the run has finished; says how many records there are, and their hash (see `Seal`)

An experiment is a folder of runs, ``<experiment>/<method>/seed-<n>/``; its runs are found by their `run.json`.
This file is the one home of these names, of the events of a run and of the keys of its measures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from replastic.disk import make_folder, not_written, write_bytes, write_text
from replastic.errors import UserError
from replastic.text import printable, shown

FORMAT = 1
RUN = "run.json"
RECORDS = "metrics.jsonl"
STATE = "state"
CHECKPOINTS = "checkpoints"
DONE = "DONE"


class Event(StrEnum):
    """The moments at which a run writes a record: first those around a boundary, in the order of time."""

    BEFORE_BOUNDARY = "before_boundary"
    """Just before the boundary: the new phase has begun, its method is not yet applied."""
    BOUNDARY = "boundary"
    """Just after the boundary: the method is applied, and no update of the new phase has been made."""
    PHASE_START = "phase_start"
    """Before the first update of a phase, after its boundary if there is one; only where measures are taken there."""
    EVALUATION = "evaluation"
    """Inside a phase, before its last update."""
    PHASE_END = "phase_end"
    """After the last update of a phase."""
    BEFORE_ACTING = "before_acting"
    """Inside a phase: a trigger found that it is time, and the method has not yet acted."""
    ACTED = "acted"
    """Right after that action: the method is applied. ``trigger`` and ``reason`` say in words why."""


Record = dict[str, Any]
"""One line of metrics.jsonl.

Keys: ``phase`` (int, from 0), ``step`` (optimizer updates since the run began), ``event`` (an `Event`), ``seconds``
(processor time since the run began, not reproducible), and measures (see `key`). A measure is a number, a list of
numbers (a spectrum), or null. A number in a list may be null, too.
"""
Measures = dict[str, Any]
"""Measures by their keys, as a record holds them: each a number, or a list of numbers."""
REQUIRED = {"phase": int, "step": int, "event": str}
"""Keys that every record must have, with the type of each."""
LARGEST = 2**1000
"""Whole numbers beyond this are no measure: floating point cannot hold them."""
LONGEST = 200
"""Characters of a name that a message quotes."""
METRIC = "metric/"
"""Beginning of the key of a measure."""
STATISTICS = ("iqm", "improvement", "profile")
"""Statistics over runs and tasks that a summary may ask for: interquartile mean, probability of improvement over the
reference, performance profile."""


def key(name: str, layer: str = "") -> str:
    """Record key of a measure: ``metric/<name>`` of the network, or ``metric/<name>/<layer>`` of one layer."""
    return f"{METRIC}{name}/{layer}" if layer else f"{METRIC}{name}"


def metric_name(key: str) -> str:
    """The inverse of `key`: ``<name>``, or ``<name>/<layer>``."""
    return key.removeprefix(METRIC)


@dataclass(frozen=True)
class RunInfo:
    """The content of run.json."""

    benchmark: str
    method: str
    seed: int
    config: Mapping[str, Any]
    """Every resolved setting, of the benchmark and of the method (`config["method"]`)."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """How to present the run: ``score`` (metric key), ``score_label``, ``event`` (the score is read there),
    ``higher_is_better``, ``score_bounds`` (least and largest value, null where there is none), ``phase_label``,
    ``curves`` (metric keys to draw), ``axis`` (record key of how far training has come), ``axis_label``.

    For runs that are compared over several tasks: ``statistics`` (those of `STATISTICS` to show), ``tasks`` (``last``:
    a run's one task is its last phase; ``phases``: each phase with its method is a task), ``game`` (dotted name of the
    setting that names the task of a run, such as its environment: a report may hold runs of several, each with a panel
    of its own), ``phase_names`` (names of the phases, where each is a task of another kind). ``further`` has the labels
    of further scores by metric key, such as returns in training: these are shown apart from the score."""
    command: str = ""
    """The command line that began the run."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions, hardware, plug-ins and facts of the data with which the run began."""
    format: int = FORMAT
    """Version of this format."""


@dataclass(frozen=True)
class Seal:
    """How many records there are and what they say. A line that is lost or changed makes another seal."""

    records: int
    sha256: str
    """Of the lines, each with its end."""

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> Seal:
        """The seal of lines of metrics.jsonl."""
        return cls(len(lines), hashlib.sha256(b"".join(lines)).hexdigest())


class RunDirectory:
    """One run's folder: writes and reads the files described in this module's docstring."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def create(self, info: RunInfo) -> None:
        """Write run.json, and make the folder if it is missing. The caller compares an existing run.json first."""
        make_folder(self.path)
        write_text(self.path / RUN, json.dumps(asdict(info), indent=2, default=str) + "\n")

    @property
    def exists(self) -> bool:
        """Whether a run.json is there."""
        return (self.path / RUN).is_file()

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return (self.path / DONE).is_file()

    @property
    def sealed(self) -> bool:
        """Whether the run has finished, and said what its records were. Older versions did not say it."""
        return self.done and (self.path / DONE).stat().st_size > 0

    def finish(self) -> None:
        """Mark the run as finished, with the seal of its records."""
        write_text(self.path / DONE, json.dumps(asdict(self.seal())) + "\n")

    def seal(self, count: int | None = None) -> Seal:
        """The seal of the first `count` records, or of all.

        Raises:
            UserError: There are fewer.
        """
        lines, _ = self._lines()
        if count is not None and len(lines) < count:
            raise damaged(self.path / RECORDS, f"it holds {len(lines)} of {count} records")
        return Seal.of(lines[:count])

    def info(self) -> RunInfo:
        """Read run.json.

        Raises:
            UserError: The file is missing, is not JSON, or was written by a newer format.
        """
        file = self.path / RUN
        if not self.exists:
            raise UserError(f"{self.path} is not a run: it has no {RUN}")
        content = read_object(file)
        if type(content.get("format", 0)) is not int:
            raise damaged(file, f"format must be int, got {shown(content['format'])}")
        if content.get("format", 0) > FORMAT:
            raise UserError(f"{file} was written by a newer version of replastic; upgrade to read it")
        try:
            info = RunInfo(**content)
        except TypeError as error:
            said = printable(str(error).removeprefix("RunInfo.__init__() "))
            raise damaged(file, said[:LONGEST]) from None
        kinds = {"benchmark": str, "method": str, "seed": int, "command": str}
        for name, kind in {**kinds, "config": dict, "summary": dict, "environment": dict}.items():
            if type(getattr(info, name)) is not kind:
                raise damaged(file, f"{name} must be {kind.__name__}, got {shown(getattr(info, name))}")
        return info

    def append(self, *records: Record) -> None:
        """Append records to metrics.jsonl and flush them to disk.

        Raises:
            UserError: The disk is full or the folder cannot be written.
        """
        text = "".join(json.dumps(r) + "\n" for r in records)
        path = self.path / RECORDS
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(path, error) from error

    def records(self) -> list[Record]:
        """Every complete record. Of an unfinished run, a last line that a kill cut short is left out.

        Raises:
            UserError: A complete line is not a record; or the run has finished, and its records are not the ones with
                which it did, or there are none.
        """
        file = self.path / RECORDS
        lines, rest = self._lines()
        records = [_parsed(file, line) for line in lines if line != b"\n"]
        for record in records:
            if problem := _problem(record):
                raise damaged(file, problem)
        if self.done and not records:
            raise damaged(file, "it has no records, though the run has finished")
        if self.sealed:
            self._check_whole(lines, rest)
        return records

    def keep_records(self, count: int) -> None:
        """Drop every record after the first `count`: a resumed run will write those again. It has not finished then."""
        self.records()
        lines, _ = self._lines()
        (self.path / DONE).unlink(missing_ok=True)
        write_bytes(self.path / RECORDS, b"".join(lines[:count]))

    def _lines(self) -> tuple[list[bytes], bytes]:
        """The complete lines of metrics.jsonl, each with its end, and what comes after the last."""
        file = self.path / RECORDS
        *lines, rest = _bytes(file).split(b"\n") if file.is_file() else [b""]
        return [line + b"\n" for line in lines], rest

    def _check_whole(self, lines: Sequence[bytes], rest: bytes) -> None:
        """Compare the records with the seal in DONE."""
        file = self.path / RECORDS
        try:
            seal = Seal(**read_object(self.path / DONE))
        except TypeError:
            raise damaged(self.path / DONE, "it does not say how many records there are") from None
        if len(lines) != seal.records:
            raise damaged(file, f"it holds {len(lines)} records, and the run finished with {seal.records}")
        if rest or Seal.of(lines) != seal:
            raise damaged(file, "a record is not what it was when the run finished")


def find_runs(path: str | Path) -> list[RunDirectory]:
    """The runs at or below `path`, sorted by path.

    Raises:
        UserError: There is no run, or a folder may not be read.
    """
    root = Path(path)

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise UserError(f"cannot read {error.filename}: {error.strerror}; runs in it would be missed") from error

    found = [RunDirectory(folder) for folder, _, files in sorted(os.walk(root, onerror=refuse)) if RUN in files]
    if not found:
        raise UserError(f"no runs found in {str(path)!r}: give a folder that `replastic run` wrote")
    return found


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: The file holds anything else.
    """
    content = _parsed(file, _bytes(file))
    if not isinstance(content, dict):
        raise damaged(file, f"it holds {type(content).__name__}, not an object")
    return content


def damaged(file: Path, problem: str) -> UserError:
    """The error for a file of a run that does not hold what it should."""
    return UserError(f"{file} is damaged: {problem}; move {file.parent} away to go on without it")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def _parsed(file: Path, text: bytes) -> Any:
    """The value of a JSON text, which holds no half of a character: no file and no page could hold that."""
    try:
        value = json.loads(text.decode("utf-8"))
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        raise damaged(file, "it holds half of a character (a surrogate)") from None
    except UnicodeDecodeError:
        raise damaged(file, "it is not UTF-8 text") from None
    except ValueError as error:
        raise damaged(file, str(error)) from None
    except RecursionError:
        raise damaged(file, "it is nested too deeply") from None


def _problem(record: Any) -> str:
    """The reason why a line of metrics.jsonl is not a record; empty if it is one."""
    if not isinstance(record, dict) or not all(type(record.get(k)) is kind for k, kind in REQUIRED.items()):
        return "a line lacks its phase, step or event"
    if record["phase"] < 0 or record["step"] < 0:
        return "phase and step must be 0 or more in every line"
    if not isinstance(record.get("seconds", 0.0), int | float):
        return "seconds is not a number in one of its lines"
    for name, value in record.items():
        numbers = value if isinstance(value, list) else [value]
        if name.startswith(METRIC) and not all(isinstance(number, int | float | None) for number in numbers):
            return f"{printable(name)[:LONGEST]} is neither a number nor a list of numbers in one of its lines"
        if any(isinstance(number, int) and abs(number) > LARGEST for number in numbers):
            return f"{printable(name)[:LONGEST]} is too large in one of its lines"
    return ""
