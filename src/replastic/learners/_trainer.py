"""How a phase is trained: the optimizer, its schedule, batches, precision; the same settings for every learner."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch

from replastic.errors import UserError

Precision = Literal["float32", "bfloat16"]
OptimizerPolicy = Literal["reset_all", "reset_touched", "keep"]
Schedule = Literal["constant", "linear", "cosine"]
OptimizerName = Literal["adam", "sgd"]
MOST_EVALUATIONS = 1_000_000
"""Of one phase."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How every phase is trained."""

    optimizer: OptimizerName = "adam"
    """Adam, or stochastic gradient descent."""
    learning_rate: float = 1e-3
    """Step size of the optimizer, after the warm-up."""
    momentum: float = 0.0
    """Momentum of sgd; no effect on adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and kernels: each update shrinks them by this times the learning rate."""
    batch_size: int = 64
    """Samples per update."""
    accumulate: int = 1
    """Parts into which each batch is cut, to be run one after the other: less memory, the same update."""
    warmup: float = 0.1
    """Share of each phase over which the learning rate rises linearly."""
    schedule: Schedule = "constant"
    """The learning rate after the warm-up: constant, or falling to final_rate by the end of the phase."""
    final_rate: float = 0.0
    """linear, cosine: share of the learning rate that is left at the end of a phase."""
    clip_norm: float = 0.5
    """Largest norm of the whole gradient; 0 clips nothing."""
    optimizer_policy: OptimizerPolicy = "reset_all"
    """Optimizer state at a boundary, for every method alike: all dropped (reset_all), dropped for rewritten weights
    (reset_touched), or kept."""
    evaluate_every: int = 0
    """Passes over the data between evaluations; 0 evaluates at the ends of phases alone."""
    precision: Precision = "float32"
    """Number format in which the network is run in training and evaluation. bfloat16 (autocast) keeps weights,
    optimizer, loss, penalties, what methods look at and measures in float32."""
    channels_last: bool = False
    """Keep images and 4-D weights with the channels innermost in memory: often faster for convolutions."""
    compiled: bool = False
    """Run the network through torch.compile: faster on a GPU, after minutes of compiling. A network that the method
    watches through hooks is run as it is."""
    save_seconds: float = 30.0
    """Within a phase, save what resuming needs at the first evaluation after so many seconds; no effect on numbers."""

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("warmup", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must lie in [0, 1), got {self.momentum}")
        for name, allowed in (("precision", Precision), ("optimizer", OptimizerName), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(allowed):
                words = " or ".join(get_args(allowed))
                raise UserError(f"{name} must be {words}, got {getattr(self, name)!r}")
        for name in ("clip_norm", "evaluate_every", "save_seconds", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        endless = [f.name for f in fields(self) if getattr(self, f.name) == math.inf]
        if endless:
            raise UserError(f"{endless[0]} must be finite, got inf")
        if self.momentum and self.optimizer != "sgd":
            raise UserError(f"momentum {self.momentum} has no effect on {self.optimizer}: give --optimizer sgd")
        if self.final_rate and self.schedule == "constant":
            raise UserError(f"final_rate {self.final_rate} has no effect on a constant schedule: give --schedule")

    @property
    def evaluation_chunk(self) -> int:
        """Samples in one forward pass of an evaluation: what fits in training fits; more would leave a CPU's caches."""
        return max(64, self.batch_size)

    def make_optimizer(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """A new optimizer for parameter groups of torch; a group's own settings go before those here."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(list(groups), lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.Adam(list(groups), lr=self.learning_rate, fused=True)

    def rate(self, step: int, steps: int) -> float:
        """Factor on the learning rate at update number `step` (from 0) of a phase of `steps`.

        It rises linearly to 1 over the first `warmup` share, and then stays, or falls to `final_rate` at the last one.
        """
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "constant":
            return 1.0
        done = (step - rising) / max(1, steps - 1 - rising)
        left = 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.final_rate + (1.0 - self.final_rate) * left

    def extent(self, samples: int, *, steps: int | None, epochs: int | None) -> tuple[int, tuple[int, ...]]:
        """How long a phase lasts, and after which of its updates to evaluate: the last one always.

        Args:
            samples: Samples of one pass over the phase's data.
            steps: Updates of the phase; None if `epochs` says how long it lasts.
            epochs: Passes over the data.

        Raises:
            UserError: It would be evaluated absurdly often.
        """
        size, every = min(self.batch_size, samples), self.evaluate_every
        updates = steps if epochs is None else -(-epochs * samples // size)
        assert updates is not None
        last = updates * size // samples if epochs is None else epochs - 1
        passes = range(every, last + 1, every) if every else range(0)
        if len(passes) > MOST_EVALUATIONS:
            raise UserError(f"a phase would be evaluated {len(passes):,} times: raise evaluate_every, or train shorter")
        marks = {mark for p in passes if (mark := round(p * samples / size)) < updates}
        return updates, tuple(sorted(marks | {updates}))
