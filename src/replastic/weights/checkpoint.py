"""A checkpoint on disk as a store of weights. It is read tensor by tensor, and a change makes a new checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from replastic._version import __version__
from replastic.disk import user_path
from replastic.errors import CheckpointError, UserError, did_you_mean, near_misses
from replastic.parallel.ahead import ReadAhead
from replastic.registry import plugin_hashes
from replastic.weights.archive import Archive
from replastic.weights.change import Proposal
from replastic.weights.config_layout import Described, describe
from replastic.weights.draft import Draft
from replastic.weights.entries import WeightEntry
from replastic.weights.layout import entries_from_shapes
from replastic.weights.naming import strip_prefixes
from replastic.weights.new_checkpoint import CheckpointTransaction, Source
from replastic.weights.output_layers import TIED
from replastic.weights.pickle_archive import SUFFIXES, PickleArchive
from replastic.weights.roles import refined
from replastic.weights.safetensors_archive import SafetensorsArchive
from replastic.weights.trainer_files import OptimizerFiles, TrainerFiles, drop, find

_TABLE_ROLES = ("embedding", "head")
_MOST_PAIRS = 1000
"""Tables of equal shape that are compared; a model has one or two, and a hostile file could have millions."""


class CheckpointStore:
    """A safetensors file, a folder of shards, or a file of `torch.save`, as a `WeightStore`.

    Names are those of the file, without the prefixes of `torch.compile` and data parallelism. The view of a weight
    comes from the layout of a recipe's rule, else from a ``config.json`` beside the file, else from names and shapes.
    The file itself is never changed: a transaction writes a new one to `destination`, which appears whole or not at
    all.

    Args:
        path: The checkpoint.
        destination: Place of the new checkpoint: a file of the same kind, or a folder if `path` is one. If `path` is a
            file and `destination` an existing folder, the new file has the same name in that folder.
        overwrite: Whether an existing output may be replaced. Other files are never deleted.
        optimizer: Whether the copy keeps or drops the state of a trainer's optimizer; see `trainer_files`.

    Raises:
        CheckpointError: The checkpoint cannot be read, or the destination cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        destination: str | Path | None = None,
        overwrite: bool = False,
        optimizer: OptimizerFiles = "keep",
    ) -> None:
        self.path = _as_path(path)
        self._optimizer: OptimizerFiles = optimizer
        self._archive = _open(self.path)
        self._draft = None if destination is None else self._make_draft(_as_path(destination), overwrite)
        self._ahead: ReadAhead[Tensor] | None = None
        self._work = ""
        self._transaction: CheckpointTransaction | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on how the checkpoint is read and copied."""
        kept = 0 if self._transaction is None else self._transaction.gone_on_from
        tensors = "1 tensor was" if kept == 1 else f"{kept} tensors were"
        resumed = (f"went on from a call that was stopped: {tensors} done already",) if kept else ()
        return (*((self._described[1],) if self._described[1] else ()), *self._archive.notes, *resumed)

    @cached_property
    def trainer(self) -> TrainerFiles:
        """The state of a trainer beside the weights, or around them."""
        return find(self.path, self._archive.file.content if isinstance(self._archive, PickleArchive) else None)

    @property
    def optimizer(self) -> str:
        """The fate of the optimizer's state in a copy, in words; empty if there is none."""
        return self.trainer.words(self._optimizer)

    def complete(self, copied: Path) -> None:
        """Do to a copy what is to be done beside its weights.

        Raises:
            CheckpointError: The optimizer's state cannot be dropped.
        """
        if self._optimizer == "drop":
            drop(copied, self.trainer)

    @property
    def destination(self) -> Path | None:
        """The place of the new checkpoint; None if it was not given."""
        return None if self._draft is None else self._draft.destination

    def entries(self) -> Sequence[WeightEntry]:
        """Every tensor of the checkpoint in its order; tied tensors are one entry."""
        return self._entries

    def read(self, name: str) -> Tensor:
        """One tensor, by its name or an alias.

        Raises:
            UserError: There is no such tensor; the message offers near misses.
        """
        stored = self._stored_names(name)[0]
        return self._archive.read(stored) if self._ahead is None else self._ahead.read(stored)

    def expect(self, order: Sequence[str], work: str) -> None:
        """Be told which tensors will be read, in this order, to make a new checkpoint by some work.

        A thread then reads the next tensor while one is in use, and a later call with the same work can go on after a
        kill.

        Args:
            order: Names of tensors.
            work: A text that two calls share only if they make the same of the same tensors.
        """
        self._ahead = ReadAhead([self._stored_names(name)[0] for name in order], self._archive.read)
        self._work = work

    def kept(self, name: str) -> Proposal | None:
        """The new value of a tensor, if the call that is being gone on with has put it into the new checkpoint."""
        return None if self._transaction is None else self._transaction.kept(name)

    def transaction(self, *, staging: str = "disk") -> CheckpointTransaction:
        """Begin a new checkpoint. New values go to its draft at once; `staging` has no effect."""
        entries = {entry.name: entry for entry in self._entries}
        source = Source(self.path, self._archive, entries, self.stored_names, self.complete)
        code = f"{__version__} {torch.__version__} {sorted(plugin_hashes().items())}"
        facts = f"{self.identity} {self._work} {code}" if self._work else ""
        self._transaction = CheckpointTransaction(source, self._draft, facts)
        return self._transaction

    @property
    def identity(self) -> str:
        """A text that tells this checkpoint and its content from others: its path, and the stamps of its files."""
        return f"{self.path.resolve()} {sorted(self._archive.stamps.items())}"

    def stored_names(self, entry: WeightEntry) -> list[str]:
        """The names under which the file holds a tensor: several if a tied tensor is stored twice."""
        return [raw for name in (entry.name, *entry.aliases) if (raw := self._raw.get(name)) is not None]

    def _stored_names(self, name: str) -> list[str]:
        entry = self._by_name.get(name)
        if entry is None:
            raise UserError(f"{self.path} has no weight {name!r}{did_you_mean(name, self._by_name)}")
        return self.stored_names(entry)

    def _make_draft(self, destination: Path, overwrite: bool) -> Draft:
        folder = self.path.is_dir()
        if not folder and destination.is_dir():
            destination = destination / self.path.name
        source, target = self.path.resolve(), destination.resolve()
        if source == target or source in target.parents or (folder and target in source.parents):
            raise CheckpointError(
                f"{destination} is, holds or lies inside the input, which is never altered; give another destination"
            )
        if not folder and destination.suffix != self.path.suffix:
            raise CheckpointError(
                f"the output of {self.path.name} must end in {self.path.suffix}, got {destination.name}"
            )
        draft = Draft(destination, overwrite=overwrite)
        if folder:
            draft.check_replaceable(set(self._archive.outputs))
        elif destination.is_dir():
            raise CheckpointError(f"{destination} is a folder, so no file can be put there")
        return draft

    @cached_property
    def _raw(self) -> dict[str, str]:
        """Names in the file, by the names used here."""
        raw = list(self._archive.tensors)
        names = [strip_prefixes(name) for name in raw]
        return dict(zip(names if len(set(names)) == len(names) else raw, raw, strict=True))

    @cached_property
    def _described(self) -> tuple[Described, str]:
        return describe(self.path if self.path.is_dir() else self.path.parent, self._raw)

    @cached_property
    def _entries(self) -> tuple[WeightEntry, ...]:
        stored = {name: self._archive.tensors[raw] for name, raw in self._raw.items()}
        guessed = entries_from_shapes(
            {name: s.shape for name, s in stored.items()}, {name: s.dtype for name, s in stored.items()}
        )
        described = self._described[0]
        entries = {e.name: _with_description(e, described.get(e.name)) for e in guessed}
        for name, raw in self._raw.items():
            if raw in self._archive.refusals:
                entries[name] = replace(entries[name], refusal=self._archive.refusals[raw])
        for names in self._ties(entries, described):
            _join(entries, names)
        known = {name: e.output for name, e in described.items() if e.output} if described else None
        return refined(tuple(entries.values()), known=known, ordered=list(entries) != sorted(entries))

    @property
    def tells_outputs(self) -> bool:
        """Whether the config beside the file told the output layers, or that there is none."""
        return bool(self._described[0])

    @cached_property
    def _by_name(self) -> dict[str, WeightEntry]:
        return {name: e for e in self._entries for name in (e.name, *e.aliases)}

    def _ties(self, entries: Mapping[str, WeightEntry], described: Described) -> Iterator[Sequence[str]]:
        """Groups of names that are one tensor, by the file or the config, or because a table is stored twice."""
        names = {raw: name for name, raw in self._raw.items()}
        for group in self._archive.ties:
            yield [names[raw] for raw in group]
        for name, entry in described.items():
            if entry.aliases:
                yield [name, *(a for a in entry.aliases if a in self._raw)]
        tables = [e for e in entries.values() if e.role in _TABLE_ROLES and e.view is not None]
        heads = [e for e in tables if e.role == "head"]
        pairs = ((a, b) for a in tables if a.role != "head" for b in heads if (a.shape, a.dtype) == (b.shape, b.dtype))
        for a, b in islice(pairs, _MOST_PAIRS):
            if self._archive.equal(self._raw[a.name], self._raw[b.name]):
                yield [name for name in entries if name in (a.name, b.name)]


class LazyWeights(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, each read when it is needed. So initial weights may have any size."""

    def __repr__(self) -> str:
        return f"LazyWeights({self._store.identity})"

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._names = [n for e in store.entries() for n in (e.name, *e.aliases) if store.stored_names(e)]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._store.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _as_path(given: object) -> Path:
    """The path, checked to be one that the system can look up."""
    if not isinstance(given, str | Path) or not str(given):
        got = repr(given) if isinstance(given, str) else type(given).__name__
        raise CheckpointError(f"a checkpoint must be given by its path, got {got}")
    path = user_path(given)
    try:
        path.exists()
    except OSError as error:
        raise CheckpointError(f"cannot look up {path}: {error.strerror}") from None
    return path


def _open(path: Path) -> Archive:
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to a file or folder that does not exist")
    if not path.exists():
        close = near_misses(path.name, _siblings(path.parent))
        hint = f"; did you mean {' or '.join(str(path.parent / c) for c in close)}?" if close else ""
        raise CheckpointError(f"no checkpoint at {path}{hint}")
    if path.is_dir() or path.suffix == ".safetensors":
        return SafetensorsArchive(path)
    if path.suffix in SUFFIXES:
        return PickleArchive(path)
    if path.name.endswith(".safetensors.index.json"):
        raise CheckpointError(f"{path} is an index, not weights: give its folder, {path.parent}")
    raise CheckpointError(
        f"{path} is not a checkpoint that can be read: give a .safetensors file, a folder that holds one, "
        f"or a {', '.join(SUFFIXES)} file"
    )


def _siblings(folder: Path) -> list[str]:
    """Names of checkpoints in a folder, if it can be listed."""
    with suppress(OSError):
        return [p.name for p in folder.iterdir() if p.is_dir() or p.suffix in (".safetensors", *SUFFIXES)]
    return []


def _with_description(guessed: WeightEntry, described: WeightEntry | None) -> WeightEntry:
    """The entry guessed from names and shapes, corrected by the one from the config."""
    if described is None or described.shape != guessed.shape or not guessed.dtype.is_floating_point:
        return guessed
    refusal = guessed.refusal if guessed.dtype.itemsize < 2 else ""
    return replace(
        guessed,
        role=described.role,
        view=described.view,
        output=described.output,
        aliases=described.aliases,
        refusal=refusal,
    )


def _join(entries: dict[str, WeightEntry], names: Sequence[str]) -> None:
    """Make tied tensors one entry under the first name. If one of them is an embedding, the entry is an embedding."""
    members = [entries[name] for name in names if name in entries]
    if len(members) < 2 or len({(m.shape, m.dtype) for m in members}) > 1:
        return
    first = members[0]
    aliases = dict.fromkeys(n for m in members for n in (m.name, *m.aliases) if n != first.name)
    roles = {m.role for m in members}
    role = "embedding" if "embedding" in roles else first.role
    output = next(
        (m.output for m in members if m.output), TIED if roles & {"head", "matrix"} and len(roles) > 1 else ""
    )
    entries[first.name] = replace(first, role=role, output=output, aliases=tuple(aliases))
    for member in members[1:]:
        del entries[member.name]
