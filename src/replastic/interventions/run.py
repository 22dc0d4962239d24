"""The view a method has of a run; it reads this and proposes a `Change`, and never writes weights itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from replastic.weights.entries import WeightStore
from replastic.weights.recipe import Recipe

Need = Literal["model", "init", "fresh", "batches", "loss", "units", "optimizer", "checkpoints", "replay"]
"""Names a method may ask of a run: the fields of `Run` (``loss`` is `loss_fn`), and ``units``, a live model whose units
it watches while it trains."""


@dataclass(frozen=True)
class Checkpoint:
    """The network as it was after some update."""

    step: int
    """Updates since training began."""
    load: Callable[[], Mapping[str, Tensor]]
    """Reads its state dict: parameters and buffers by name, tied ones at least once."""
    best: bool = False
    """Whether no other one of its phase has a better score."""


def _as_it_is(value: Tensor) -> Tensor:
    return value


@dataclass(kw_only=True)
class Run:
    """The view a method has of a run. Methods read it and propose a `Change`; they never write weights themselves.

    Fields that are None were not given; a method that cannot do without names them in `Method.needs`.
    """

    store: WeightStore
    """The weights, live or in a file."""
    recipe: Recipe
    """Which weights are touched, and how each is seen."""
    target_modules: str | Sequence[str] | None = None
    """Patterns that replace the recipe's choice of weights, or ``"all-linear"``."""
    exclude_modules: Sequence[str] = ()
    """Patterns of weights that are left alone whatever else says."""
    include: Sequence[str] = ()
    """Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
    ``adapter``."""
    among: frozenset[tuple[str, str]] | None = None
    """Weight and block of the matrices to touch among the chosen ones; None for all of them."""
    model: nn.Module | None = None
    """The live module; None when the weights are files."""
    optimizer: torch.optim.Optimizer | None = None
    """The optimizer that trains the model; its state is changed through `Change` and the run's policy alone."""
    init: Mapping[str, Tensor] | None = None
    """theta_0 by name, parameters and buffers; may read lazily."""
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None
    """A new random draw of every tensor, given a seed."""
    batches: Callable[[], Iterable[Any]] | None = None
    """One pass over the data of the upcoming phase (at a boundary) or of the current one."""
    past_batches: Callable[[], Iterable[Any]] | None = None
    """One pass over the data of the phase that has just ended; None before the first boundary."""
    checkpoints: Sequence[Checkpoint] | None = None
    """Those of the phase that has just ended (at a boundary), in their order; None if none are kept."""
    replay: Callable[[float], None] | None = None
    """Has a share of old data mixed into the batches of all phases after the first, from the next phase on; 0 ends it.
    None where batches are not the run's to choose."""
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None
    """Mean loss of the model on a batch."""
    seed: int = 0
    """Seed of everything a method draws; draws depend on it, the phase and the weight's name alone."""
    phase: int = 0
    """Index of the phase about to begin (at a boundary) or under way; -1 before the first."""
    step: int = 0
    """Optimizer updates since training began."""
    pass_steps: int = 0
    """Updates that make one pass over the data of the phase, rounded; 0 where nobody said."""
    average: Callable[[Tensor], Tensor] = field(default=_as_it_is)
    """Mean of a statistic over the processes of a data-parallel run, which all have to decide alike. Of what each saw
    of its portion of the training batches it makes that of the whole batches; what each took from all of the same data,
    as `batches` gives it, stays what it was but for rounding. Returns a new tensor or, alone, the same."""
