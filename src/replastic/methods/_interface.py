"""The smallest interface that covers every method: what it may see (`Run`), when it is asked, what it proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from replastic.weights.change import Change
from replastic.weights.entries import MatrixInfo, WeightStore
from replastic.weights.recipe import Recipe

Need = Literal["model", "init", "fresh", "batches", "loss", "units", "optimizer"]

Scope = Literal["matrices", "layers", "parameters", "state"]


def option(default: Any, *, help: str, choices: Sequence[Any] = ()) -> Any:
    """A hyperparameter of a method: a dataclass field with a default, help text and, if closed, its choices."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclass(kw_only=True)
class Run:
    """What a method may see. Methods read it and propose a `Change`; they never write weights themselves."""

    store: WeightStore
    recipe: Recipe
    target_modules: str | Sequence[str] | None = None
    """Patterns that replace the recipe's choice of weights, or ``"all-linear"``."""
    exclude_modules: Sequence[str] = ()
    include: Sequence[str] = ()
    """Roles the recipe leaves alone that are to be touched all the same: ``head``, ``embedding``."""
    model: nn.Module | None = None
    """The live module; None when the weights are files."""
    optimizer: torch.optim.Optimizer | None = None
    init: Mapping[str, Tensor] | None = None
    """theta_0 by name, parameters and buffers; may read lazily."""
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None
    """A new random draw of every tensor, given a seed."""
    batches: Callable[[], Iterable[Any]] | None = None
    """One pass over the data of the upcoming phase (at a boundary) or of the current one."""
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None
    """Mean loss of the model on a batch."""
    seed: int = 0
    """Seed of everything a method draws; draws depend on it, the phase and the weight's name alone."""
    phase: int = 0
    """Index of the phase about to begin (at a boundary) or under way."""
    step: int = 0


class Solution(NamedTuple):
    """New matrices with what the method reports of them: values are numbers, strings or tensors over the batch."""

    weight: Tensor
    facts: Mapping[str, Any] = {}


@dataclass(kw_only=True)
class Method:
    """An intervention. Subclasses are keyword-only dataclasses whose fields are the hyperparameters."""

    name: ClassVar[str] = ""
    """Public name; set by `register`."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What must be in the run; checked before `setup`, with a message that says how to give it."""
    changes_structure: ClassVar[bool] = False
    """Whether it adds or replaces modules."""
    draws: ClassVar[bool] = False
    """Whether the run's seed decides what it does."""

    def __post_init__(self) -> None:
        """Note in `explicit` the fields the caller set by hand: those that differ from their defaults; see `make`."""
        self.explicit = frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def validate(self) -> None:
        """Raise `UserError` naming the field, its value and what is allowed."""

    def required(self) -> frozenset[Need]:
        """What must be in the run with these hyperparameters; `needs` unless a field asks for more."""
        return self.needs

    def idle(self) -> frozenset[str]:
        """Names of the fields that have no effect beside the values of the others."""
        return frozenset()

    def check(self, run: Run) -> None:
        """Look at the run without touching it: raise `UserError` for what would fail later."""

    def setup(self, run: Run) -> None:
        """Called once, before the first phase in which the method is on."""

    def make_optimizer(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """The optimizer of a phase; `build` makes the run's own from parameter groups."""
        return build(groups)

    def penalty(self, run: Run) -> Tensor | None:
        """A term to add to the loss of every step, or None."""
        return None

    def after_step(self, run: Run) -> Change | None:
        """Called after every optimizer update."""
        return None

    def on_boundary(self, run: Run) -> Change | None:
        """Called between two phases, before the new phase's first step."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What resuming needs beside the fields; tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""

    def close(self) -> None:
        """Remove hooks; called once, at the end of the run or on an error."""


@dataclass(kw_only=True)
class WeightMethod(Method):
    """A method that is a function of the weights alone, one batch of matrices at a time: it also runs on files."""

    scope: ClassVar[Scope] = "matrices"
    """Which tensors `solve` gets, and how. ``matrices``: the weights the recipe chose, as (batch, d_out, d_in).
    ``parameters``: every trainable parameter, recipe or not, in its own shape. ``state``: buffers as well. ``layers``:
    every trainable parameter, as (batch, d_out, d_in) where it is a matrix, in its own shape where not."""
    batched: ClassVar[bool] = False
    """Whether matrices of several weights with equal shape and taps may come in one call; `info` is then the first's.
    For methods that treat every matrix alike and draw nothing: `generator` is then the first's, too."""

    def narrowed(self, run: Run) -> Run:
        """The run with the choice of weights that the method makes itself, if it makes one."""
        return run

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor | Solution:
        """New matrices for old ones.

        Args:
            w: (batch, d_out, d_in), float32 or wider, read only; the tensor itself with the other scopes.
            info: What they are.
            w0: The same matrices at initialisation, or None when the run has no `init`.
            generator: On the device of `w`, seeded from the run's seed, its phase, the weight's name and the block, so
                that a draw depends neither on the order of the weights nor on where they are stored.
        """
        raise NotImplementedError

    def check(self, run: Run) -> None:
        """Choose the weights, so that a pattern without match or a setting without effect shows before training."""
        from replastic.methods._needs import require
        from replastic.methods._plan import plan

        for method in {id(job.method): job.method for job in plan(self, run).jobs}.values():
            require(method, run)

    def on_boundary(self, run: Run) -> Change | None:
        """Propose `solve` of every chosen weight."""
        from replastic.methods._propose import propose

        return propose(self, run)
