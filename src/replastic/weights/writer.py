"""The one writer: it checks the proposals of a method, then writes all of them or nothing, and can undo the write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor

from replastic.errors import UserError, did_you_mean
from replastic.parallel.agreement import Agreement
from replastic.weights.change import Change, LayerOutcome, Proposal, Skipped, UnitReset
from replastic.weights.entries import LiveStore, Transaction, UndoStep, WeightEntry, WeightStore
from replastic.weights.followers import Copy, CopyPlace, Followers, FollowerSet, follow
from replastic.weights.optimizer_state import Optimizers, OptimizerState, Policy, check_policy
from replastic.weights.outcome import Outcome, Undo
from replastic.weights.shards import alike, is_sharded, local
from replastic.weights.tables import check_finite
from replastic.weights.witness import Witness

_ALL_ZERO = "is all zero, and on_zero='skip' leaves it so"


def write(
    store: WeightStore,
    change: Change,
    *,
    optimizer: Optimizers = None,
    policy: Policy = "reset_touched",
    followers: Followers | None = None,
    dry_run: bool = False,
    staging: str = "memory",
    thorough: bool = True,
    agree: bool = False,
) -> Outcome:
    """Apply a change to a store: every tensor of it, or, after any error, none.

    Live tensors are written in place and keep identity, dtype, device, strides and `requires_grad`. One extra copy of
    the touched weights is held while and after writing, so that the write can be undone; with ``staging="disk"`` it is
    in a temporary file, and memory grows by about one layer. Of a sharded weight (DTensor) each process keeps its part.

    Args:
        store: Where the weights live.
        change: What a method proposes; its proposals are read once, one at a time.
        optimizer: The optimizer (or several) that trains a live model. Its parameter groups are left alone.
        policy: ``reset_touched`` forgets the state of rewritten weights, ``reset_all`` all state, ``keep`` none. Rows
            of replaced units are cleared under every policy, but only those rows.
        followers: Copies to bring up to date for the touched weights: modules or mappings of tensors, by name. They
            take over new values; where units are reset only their rows and columns, as a copy may be an average.
        dry_run: Compute, check and report everything, write nothing.
        staging: ``memory`` or ``disk``.
        thorough: Whether checksums of all weights may be taken: an undo then says what else has changed in the model by
            then, and processes see whether they hold the same weights.
        agree: Whether the processes of a group, each with a copy of a live model, have to write the same; see
            `replastic.parallel.agreement`.

    Raises:
        UserError: A value is not finite in the stored dtype, a weight is refused or unknown, the optimizer or a
            follower does not fit; nothing was written.
    """
    check_policy(policy)
    wanted = agree and not dry_run and isinstance(store, LiveStore)
    with Agreement(wanted=wanted) as agreement, store.transaction(staging=staging) as transaction:
        job = _Write(store, change, OptimizerState(optimizer), FollowerSet(followers), agreement)
        job.stage(None if dry_run else transaction)
        steps = job.steps(policy, staging)
        if dry_run:
            return job.outcome(policy, undo=None)
        agreement.conclude(job.weights() if thorough else (), job.exactly)
        taken_back: list[UndoStep] = job.watch() if thorough else []
        try:
            for step in (transaction.commit, *steps):
                taken_back.append(step())
        except BaseException:
            Undo(taken_back)()
            raise
    return job.outcome(policy, Undo(taken_back))


class _Write:
    """One change on its way into a store."""

    def __init__(
        self,
        store: WeightStore,
        change: Change,
        optimizer: OptimizerState,
        followers: FollowerSet,
        agreement: Agreement,
    ) -> None:
        self._store = store
        self._live = store if isinstance(store, LiveStore) else None
        self._change = change
        self._optimizer = optimizer
        self._followers = followers
        self._agreement = agreement
        self._entries = {name: e for e in store.entries() for name in (e.name, *e.aliases)}
        self._touched: dict[str, WeightEntry] = {}
        self._units: dict[str, list[UnitReset]] = defaultdict(list)
        self._rewritten: set[str] = set()
        self._shifted: set[str] = set()
        self._layers: dict[str, tuple[LayerOutcome, ...]] = {}
        self._passed_over: list[Skipped] = []
        self._followers.check(self._entries)
        self._check_fit()

    def stage(self, transaction: Transaction | None) -> None:
        """Read the proposals once, check each new value and hand it over; without a transaction only check.

        Where a sharded weight cannot be staged, the proposals are read to their end first: the other processes need
        this one for making them.
        """
        if transaction is not None:
            transaction.prepare()
        for unit in self._change.units:
            self._units[self._entry(unit.name).name].append(unit)
        failed: UserError | None = None
        for proposal in self._change.proposals:
            try:
                if failed is None:
                    self._take(transaction, proposal)
            except UserError as error:
                if not is_sharded(proposal.value):
                    raise
                failed = error
            del proposal  # else it would stay in memory while the next one is made
        if failed is not None:
            raise failed
        for name in self._units:
            if name not in self._touched:
                self._put(transaction, self._entries[name], self._store.read(name))

    def _take(self, transaction: Transaction | None, proposal: Proposal) -> None:
        entry = self._entry(proposal.name)
        if entry.name in self._touched:
            raise UserError(f"{entry.name} was given two new values")
        layers = tuple(layer for layer in proposal.layers if not layer.passed_over)
        self._passed_over += [Skipped(layer.label, _ALL_ZERO) for layer in proposal.layers if layer.passed_over]
        if layers or not proposal.layers:
            self._rewritten.add(entry.name)
            if proposal.shift:
                self._shifted.add(entry.name)
            self._layers[entry.name] = layers
            self._put(transaction, entry, proposal.value, proposal.layers)

    @property
    def exactly(self) -> list[object]:
        """The parts of the change that are no numbers to be rounded: names, and the places of units."""
        units = [(u.name, u.dim, u.index.tolist()) for units in self._units.values() for u in units]
        return [sorted(self._rewritten), sorted(self._change.modules), units]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter that each process has whole, but no buffers: those may be statistics of its own share."""
        for name, entry in self._entries.items():
            copied = entry.role != "buffer" and not entry.sharded
            if name == entry.name and copied and not entry.refusal and not entry.derived:
                yield name, self._store.read(name)

    def watch(self) -> list[UndoStep]:
        """The step of the undo that says what has changed since in what is not written."""
        return [Witness(self._live, self._touched, self._optimizer).lost] if self._live else []

    def steps(self, policy: Policy, staging: str) -> list[Callable[[], UndoStep]]:
        """The steps after the commit, checked beforehand. Each is a function that returns its own undo."""
        if self._live is None:
            return []
        live, copies, held, known = self._live, list[Copy](), dict[str, list[Tensor]](), set[int]()
        for name, entry in self._touched.items():
            tensor = live.tensor(name)
            mine = self._followers.copies(entry)
            tensors = [t for place in mine for t in place.tensors()]
            held[name] = self._optimizer.held(name, [tensor, *tensors])
            known.update(map(id, tensors))
            slow = [place for t in held[name] for place in self._optimizer.copies(name, t)]
            _check_cuts(name, tensor, (*mine, *slow))
            copies.extend(self._copy(name, place, tensor) for place in (*mine, *slow))
        self._optimizer.check([t for tensors in held.values() for t in tensors], known)
        steps: list[Callable[[], UndoStep]] = [partial(follow, copies, staging)] if copies else []
        if self._change.modules:
            steps.append(partial(live.replace_modules, self._change.modules))
        return steps + self._optimizer_steps(policy, held)

    def outcome(self, policy: Policy, undo: Undo | None) -> Outcome:
        """The outcome of the write, done or proposed, in the order of the store, not in that of the proposals."""
        ordered = [name for name, entry in self._entries.items() if name == entry.name and name in self._touched]
        return Outcome(
            layers=tuple(layer for name in ordered for layer in self._layers.get(name, ())),
            skipped=(*self._change.skipped, *self._passed_over),
            written=tuple(ordered),
            modules=tuple(self._change.modules),
            followers=self._followers.names if self._touched else (),
            optimizer=self._optimizer_words(policy),
            dry_run=undo is None,
            notes=self._change.notes,
            _undo=undo,
        )

    def _copy(self, name: str, copy: CopyPlace, live: Tensor) -> Copy:
        """The way in which a copy follows a tensor that will be written."""
        if name in self._rewritten - self._shifted:
            return Copy(copy, live)
        before = local(live).clone() if name in self._shifted else None
        return Copy(copy, live, self._units.get(name, ()), before)

    def _check_fit(self) -> None:
        change = self._change
        if self._live is None and (self._optimizer or self._followers.names or change.modules):
            raise UserError("an optimizer, followers and replaced modules need a live model; these weights are files")
        if change.reset_optimizer and not self._optimizer:
            raise UserError("this method drops the optimizer's state: pass optimizer=")
        if change.modules and self._followers.names:
            raise UserError(
                f"followers ({', '.join(self._followers.names)}) cannot follow a change of modules "
                f"({', '.join(change.modules)}): make new copies of the model after it"
            )

    def _entry(self, name: str) -> WeightEntry:
        entry = self._entries.get(name)
        if entry is None:
            hint = did_you_mean(name, self._entries)
            raise UserError(f"a new value was proposed for {name}, which does not exist{hint}")
        if entry.refusal:
            raise UserError(f"{name} cannot be written: {entry.refusal}")
        return entry

    def _put(
        self,
        transaction: Transaction | None,
        entry: WeightEntry,
        value: Tensor,
        layers: Sequence[LayerOutcome] = (),
    ) -> None:
        if tuple(value.shape) != entry.shape:
            raise UserError(f"{entry.name} has shape {entry.shape}, but its new value has {tuple(value.shape)}")
        units = self._units.get(entry.name, ())
        if units and entry.sharded:
            raise UserError(
                f"units of {entry.name} cannot be replaced, since it is sharded over processes: rewrite the full "
                "checkpoint, or take a method that rewrites whole weights, such as fire"
            )
        value = value.detach().to(entry.dtype, copy=bool(units))
        for unit in units:
            _put_rows(value, unit)
        check_finite(entry.name, local(value))
        if not is_sharded(value):
            self._agreement.note(entry.name, value)
        self._touched[entry.name] = entry
        if transaction is not None:
            transaction.stage(entry.name, value, layers)

    def _optimizer_steps(self, policy: Policy, held: Mapping[str, Sequence[Tensor]]) -> list[Callable[[], UndoStep]]:
        if policy == "reset_all" or self._change.reset_optimizer:
            return [self._optimizer.drop_all]
        steps: list[Callable[[], UndoStep]] = [
            partial(self._optimizer.clear_rows, tensor, unit.dim, unit.index)
            for name, units in self._units.items()
            for unit in units
            for tensor in held[name]
        ]
        if policy == "reset_touched":
            steps.append(partial(self._optimizer.drop, [t for name in self._rewritten for t in held[name]]))
        return steps

    def _optimizer_words(self, policy: Policy) -> str:
        if not self._optimizer:
            return ""
        if policy == "reset_all" or self._change.reset_optimizer:
            return "all state dropped"
        words = ["state of rewritten weights dropped" if policy == "reset_touched" else "state kept"]
        if self._units:
            words.append("rows of replaced units cleared")
        return ", ".join(words)


def _check_cuts(name: str, tensor: Tensor, copies: Sequence[CopyPlace]) -> None:
    """Refuse copies that are whole where the weight is sharded, or the other way round."""
    for copy in copies:
        if not all(alike(found, tensor) for found in copy.tensors()):
            raise UserError(
                f"{copy.label} is not sharded over the processes as {name} of the model is, so it cannot follow: shard "
                "it in the same way, or leave it out and update it yourself"
            )


def _put_rows(value: Tensor, unit: UnitReset) -> None:
    """Write the new values of the units into `value`, in place."""
    try:
        index = unit.index.to(value.device)
        value.index_copy_(unit.dim, index, unit.values.to(value.device, value.dtype))
    except (IndexError, RuntimeError) as error:
        raise UserError(
            f"{unit.name}: cannot reset {unit.index.numel()} units along axis {unit.dim} of shape "
            f"{tuple(value.shape)} with values of shape {tuple(unit.values.shape)}: {error}"
        ) from error
