"""A new checkpoint while it is written: values go to its draft in a thread, and a journal says which are there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from replastic.errors import UserError
from replastic.weights.archive import Archive, ArchiveWriter, raw_bytes
from replastic.weights.change import LayerOutcome, Proposal
from replastic.weights.draft import Draft, writing
from replastic.weights.entries import WeightEntry
from replastic.weights.journal import Done


@dataclass(frozen=True)
class Source:
    """The checkpoint that is rewritten, as far as its copy needs to know it."""

    path: Path
    archive: Archive
    entries: Mapping[str, WeightEntry]
    stored_names: Callable[[WeightEntry], Sequence[str]]
    """The names under which a tensor is stored: several if a tied one is stored twice."""
    complete: Callable[[Path], None]
    """Does to the copy what is to be done beside its weights."""


class CheckpointTransaction:
    """A new checkpoint that is being written.

    A full disk or an error leaves nothing behind. Where `facts` say which work it is, a kill, Ctrl-C or SIGTERM leaves
    the draft with its journal, and the next call with the same facts goes on with it.

    Args:
        source: What is copied.
        draft: Where to; None refuses every write.
        facts: See `Work.facts`; empty if no later call could go on.
    """

    def __init__(self, source: Source, draft: Draft | None, facts: str = "") -> None:
        self._source = source
        self._draft = draft
        self._facts = facts
        self._writer: ArchiveWriter | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replastic-write")
        self._writing: Future[None] | None = None
        self.gone_on_from = 0
        """Tensors that did not have to be computed again."""

    def __enter__(self) -> CheckpointTransaction:
        return self

    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        self._thread.shutdown()
        if self._draft is None:
            return
        begun, self._writer = self._writer, None
        if begun is not None:
            begun.close()
        done = 0 if self._draft.journal is None or begun is None else len(self._draft.journal.done)
        if isinstance(error, KeyboardInterrupt) and done:
            tensors = "1 new tensor is" if done == 1 else f"{done} new tensors are"
            error.add_note(f"the same command goes on from here: {tensors} kept in {self._draft.keep()}")
        else:
            self._draft.discard()

    def prepare(self) -> None:
        """Take over the draft of a killed process, or begin one.

        Raises:
            UserError: There is no destination.
            CheckpointError: The disk has no room for the new checkpoint.
        """
        self._begun()

    def kept(self, name: str) -> Proposal | None:
        """The new value of a tensor that a killed process put into the draft; None if it has to be computed."""
        if self._draft is None or self._writer is None or self._draft.journal is None:
            return None
        done = self._draft.journal.done.get(name)
        if done is None:
            return None
        self._wait()
        value = self._writer.written(self._source.stored_names(self._source.entries[name])[0])
        if _digest(value) != done.digest:
            del self._draft.journal.done[name]
            return None
        self.gone_on_from += 1
        return Proposal(name, value, done.layers, kept=True)

    def stage(self, name: str, value: Tensor, layers: Sequence[LayerOutcome] = ()) -> None:
        """Cast a new value to the stored dtype, and let a thread put it into the draft under every name of the tensor.

        At most one value waits to be written while the next is made. An error of the disk is raised by the call that
        follows, at the latest by `commit`.

        Raises:
            UserError: There is no such tensor, its shape differs, it must not be written, or there is no destination.
            CheckpointError: The disk is full.
        """
        self._begun()
        entry = self._source.entries.get(name)
        if entry is None:
            raise UserError(f"{self._source.path} has no weight {name!r}")
        if entry.refusal:
            raise UserError(f"{name} cannot be written: {entry.refusal}")
        if tuple(value.shape) != entry.shape:
            raise UserError(f"{name} has shape {entry.shape}, but the new value has {tuple(value.shape)}")
        cast = value.detach().to(device="cpu", dtype=entry.dtype)
        self._wait()
        self._writing = self._thread.submit(self._put, entry, cast, tuple(layers))

    def commit(self) -> Callable[[], None]:
        """Complete the new checkpoint and put it in its place. The returned function removes it again.

        Raises:
            CheckpointError: The disk is full, something else has appeared in its place, or the input was replaced
                meanwhile. Nothing is left behind.
        """
        draft, writer = self._begun()
        self._wait()
        with writing(draft.destination):
            writer.finish()
            self._source.complete(draft.path)
        self._source.archive.check()
        undo = draft.publish()
        self._writer = None
        return undo

    def _put(self, entry: WeightEntry, value: Tensor, layers: tuple[LayerOutcome, ...]) -> None:
        """Write a value, unless the draft holds it already, and note it in the journal."""
        draft, writer = self._begun()
        names = self._source.stored_names(entry)
        with writing(draft.destination):
            if draft.journal is None:
                for name in names:
                    writer.put(name, value)
                return
            done = Done(_digest(value), layers)
            if draft.journal.done.get(entry.name) == done:
                for name in names:
                    writer.keep(name)
                return
            for name in names:
                writer.put(name, value)
            draft.journal.add(entry.name, done)

    def _wait(self) -> None:
        """Wait until the last value is written, and raise what went wrong with it."""
        waiting, self._writing = self._writing, None
        if waiting is not None:
            waiting.result()

    def _begun(self) -> tuple[Draft, ArchiveWriter]:
        """The draft and its writer. They begin at the first use, so that a dry run leaves no trace."""
        if self._draft is None:
            raise UserError("a checkpoint is never changed in place: give a destination")
        if self._writer is None:
            with writing(self._draft.destination):
                self._draft.begin(self._source.archive.size, self._facts)
                self._writer = self._source.archive.writer(self._draft.path)
        return self._draft, self._writer


def _digest(value: Tensor) -> str:
    return hashlib.sha256(raw_bytes(value)).hexdigest()
