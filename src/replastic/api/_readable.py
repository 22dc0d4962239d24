"""Which weights a report looks at: those that a rewrite with the recipe would touch, and frozen ones too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from replastic.errors import UserError
from replastic.weights.change import Skipped
from replastic.weights.entries import Transaction, WeightEntry, WeightStore
from replastic.weights.patterns import matches_any
from replastic.weights.recipe import Recipe
from replastic.weights.targets import Selection, select


def readable(
    store: WeightStore,
    recipe: Recipe,
    *,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
) -> Selection:
    """Choose the weights to measure; the arguments are those of `select`.

    Raises:
        UserError: A pattern matches nothing, or nothing is chosen.
    """
    entries = store.entries()
    unclear = [s for s in (_unclear(e, recipe) for e in entries) if s is not None]
    known = {s.weight for s in unclear}
    measurable = [replace(e, trainable=True) for e in entries if e.name not in known]  # frozen ones can be measured
    if unclear and not measurable:
        raise UserError(f"nothing can be measured: {unclear[0].weight}: {unclear[0].reason}")
    selection = select(
        measurable,
        recipe,
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
    )
    return replace(selection, skipped=(*selection.skipped, *unclear))


class Readable:
    """A store whose frozen weights count as others do: they can be measured, if not rewritten."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store

    def entries(self) -> Sequence[WeightEntry]:
        """The entries, each as if it were trained."""
        return [replace(entry, trainable=True) for entry in self._store.entries()]

    @property
    def tells_outputs(self) -> bool:
        """As the store says."""
        return self._store.tells_outputs

    def read(self, name: str) -> Tensor:
        """As the store gives it."""
        return self._store.read(name)

    def transaction(self, *, staging: str = "memory") -> Transaction:
        """Of the store."""
        return self._store.transaction(staging=staging)


def _unclear(entry: WeightEntry, recipe: Recipe) -> Skipped | None:
    """Why the matrices of an entry cannot be told, if they cannot; a rule that gives a layout may tell them."""
    if entry.refusal:
        return Skipped(entry.name, entry.refusal)
    told = next((rule for rule in recipe.rules if matches_any(entry, rule.match)), None)
    by_caller = matches_any(entry, (pattern for pattern, _ in recipe.layouts))
    if entry.view is None or by_caller or (told is not None and told.layout):
        return None
    try:
        entry.view.infos(entry.name, entry.shape)
    except UserError as error:
        return Skipped(entry.name, str(error))
    return None
