"""Which matrices a regulariser acts on: every hidden one, whatever the recipe rewrites at boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.aim import aimed_matrices, choose
from replastic.interventions.kernels import joined_taps
from replastic.interventions.run import Run
from replastic.weights.entries import LiveStore, MatrixInfo
from replastic.weights.recipe import Target

REGULARISED_HELP = (
    "patterns joined by | that replace every hidden matrix as what is regularised, as in attention.q|attention.k"
)
"""Of the option `targets` of regularisers."""

KERNELS: Final = ("taps", "joined")
KERNELS_HELP = (
    "how the kernel of a convolution is seen: one matrix for each tap, as a rewrite does, or one C_out x (C_in kh kw) "
    "(joined)"
)
"""Of the option `kernels`. With the same `targets` and `kernels` the regularisers act on identical matrices."""


def regularised(name: str, targets: str, run: Run, *, head: bool) -> tuple[Target, ...]:
    """The weights that a regulariser acts on, seen as matrices.

    A recipe says what a method like fire rewrites, which may be queries and keys alone. A regulariser is meant for the
    whole network. So it takes every hidden matrix and kernel, unless the caller (`Run.target_modules`) or its own
    option `targets` names others; of the recipe it uses layouts.

    Args:
        name: Of the method, for messages.
        targets: Its option.
        run: The run.
        head: Whether to take the head as well, if the network has one.

    Raises:
        UserError: A pattern matches nothing, both name targets, or there is no hidden matrix.
    """
    if targets or run.target_modules is not None:
        return aimed_matrices(name, targets, run)
    there = {entry.role for entry in run.store.entries() if entry.view is not None}
    wanted = {"matrix", *run.include, *(["head"] if head else [])} & there
    if not wanted:
        raise UserError(f"{name} regularises hidden matrices, but this model has none; name its weights with targets")
    return choose("matrices", replace(run, target_modules=[f"role:{role}" for role in sorted(wanted)]))[0]


class Matrices:
    """The matrices of live weights that a regulariser acts on, looked up once and read at every update.

    Args:
        store: The live weights.
        targets: The chosen ones.
        kernels: One of `KERNELS`.
    """

    def __init__(self, store: LiveStore, targets: Iterable[Target], kernels: str) -> None:
        self._pairs = [(store.tensor(target.entry.name), target) for target in targets]
        self._joined = kernels == "joined"

    def __iter__(self) -> Iterator[tuple[MatrixInfo, Tensor]]:
        """Each batch with its info: (taps * groups, d_out, d_in), or (groups, d_out, d_in * taps) where joined."""
        for weight, target in self._pairs:
            for info, part in target.matrices(weight):
                yield info, joined_taps(part, info) if self._joined else part
