"""How a phase is trained: the optimizer, its schedule, batches, precision; the same settings for every learner."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from replastic.errors import UserError
from replastic.options import Settings, option

Precision = Literal["float32", "bfloat16"]
OptimizerPolicy = Literal["reset_all", "reset_touched", "keep"]
Schedule = Literal["constant", "linear", "cosine", "wsd"]
OptimizerName = Literal["adam", "sgd"]
MOST_EVALUATIONS = 1_000_000
"""Of one phase."""


@dataclass(frozen=True, kw_only=True)
class Trainer(Settings):
    """How every phase is trained."""

    optimizer: OptimizerName = option("adam", help="adam, or stochastic gradient descent")
    learning_rate: float = option(1e-3, help="step size of the optimizer after the warm-up", above=0)
    beta2: float = option(0.999, help="decay rate of adam's mean of squared gradients", low=0, below=1)
    momentum: float = option(0.0, help="momentum of sgd", low=0, below=1)
    weight_decay: float = option(
        0.0, help="decoupled weight decay: each update shrinks matrices and kernels by this times the step size", low=0
    )
    batch_size: int = option(64, help="samples per update", low=1)
    accumulate: int = option(
        1,
        help="parts of each batch that are run one after the other, for less memory; batch norm sees the parts",
        low=1,
    )
    warmup: float = option(0.1, help="share of each phase over which the step size rises linearly", low=0, high=1)
    most_warmup: int = option(0, help="most updates of a phase's warm-up; 0 sets no limit", low=0)
    schedule: Schedule = option(
        "constant",
        help="step size after the warm-up: constant, or falling to final_rate; wsd (warm-up, stable, decay) stays, and "
        "falls linearly over the last share `decay` of a phase",
    )
    final_rate: float = option(
        0.0, help="linear, cosine, wsd: share of the step size at the end of a phase", low=0, high=1
    )
    decay: float = option(0.2, help="wsd: share of a phase over which the step size falls", above=0, high=1)
    clip_norm: float = option(0.5, help="largest norm of the whole gradient; 0 clips nothing", low=0)
    optimizer_policy: OptimizerPolicy = option(
        "reset_all",
        help="optimizer state at a boundary, for every method alike: all dropped (reset_all), dropped for rewritten "
        "weights (reset_touched), or kept",
    )
    evaluate_every: int = option(
        0, help="passes over the data between evaluations; 0 evaluates at the ends of phases alone", low=0
    )
    precision: Precision = option(
        "float32",
        help="number format in which the network is run in training and evaluation; bfloat16 (autocast) keeps "
        "weights, optimizer, loss, penalties and measures in float32",
    )
    channels_last: bool = option(
        False, help="keep images and 4-D weights with the channels innermost: often faster for convolutions"
    )
    compiled: bool = option(
        False,
        help="run the network through torch.compile: faster on a GPU, after minutes of compiling; a network that a "
        "method watches through hooks is run as it is",
    )
    checkpoints: bool = option(
        False,
        help="keep the network at every evaluation, for methods that go back to one; in the last phase at its end",
    )
    save_seconds: float = option(
        30.0,
        help="save what resuming needs at the first evaluation after so many seconds; no effect on numbers",
        low=0,
    )

    def validate(self) -> None:
        """Settings that would have no effect are refused."""
        if self.momentum and self.optimizer != "sgd":
            raise UserError(f"momentum {self.momentum} has no effect on {self.optimizer}: give --optimizer sgd")
        if self.final_rate and self.schedule == "constant":
            raise UserError(f"final_rate {self.final_rate} has no effect on a constant schedule: give --schedule")
        if self.decay != 0.2 and self.schedule != "wsd":
            raise UserError(f"decay {self.decay} has no effect on the schedule {self.schedule}: give --schedule wsd")
        if self.beta2 != 0.999 and self.optimizer != "adam":
            raise UserError(f"beta2 {self.beta2} has no effect on {self.optimizer}: give --optimizer adam")

    @property
    def evaluation_chunk(self) -> int:
        """Samples in one forward pass of an evaluation: what fits in training fits; more would leave a CPU's caches."""
        return max(64, self.batch_size)

    def make_optimizer(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """A new optimizer for parameter groups of torch; a group's own settings go before those here."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(list(groups), lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.Adam(list(groups), lr=self.learning_rate, betas=(0.9, self.beta2), fused=True)

    def rate(self, step: int, steps: int) -> float:
        """Factor on the learning rate at update number `step` (from 0) of a phase of `steps`.

        It rises linearly to 1 over the first `warmup` share, or over `most_warmup` updates if these are fewer, and then
        stays, or falls to `final_rate` at the last one.
        """
        rising = round(self.warmup * steps)
        rising = min(rising, self.most_warmup or rising)
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "constant":
            return 1.0
        top = rising if self.schedule != "wsd" else max(rising, steps - 1 - max(1, round(self.decay * steps)))
        done = max(0.0, (step - top) / max(1, steps - 1 - top))
        left = 0.5 * (1.0 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1.0 - done
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
