"""What a run trains, on what and how: everything but the method and the seed, equal for all that are compared."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from replastic import data
from replastic.errors import UserError
from replastic.networks import Network
from replastic.streams import Phase, Stream

Precision = Literal["float32", "bfloat16"]
MOST_EVALUATIONS = 1_000_000
"""Of one phase."""
OptimizerPolicy = Literal["reset_all", "reset_touched", "keep"]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How every phase is trained: Adam with a linear warm-up and gradient clipping."""

    learning_rate: float = 1e-3
    """Adam's step size after the warm-up."""
    batch_size: int = 64
    """Samples per update."""
    warmup: float = 0.1
    """Share of each phase over which the learning rate rises linearly."""
    clip_norm: float = 0.5
    """Largest norm of the whole gradient; 0 clips nothing."""
    optimizer_policy: OptimizerPolicy = "reset_all"
    """Optimizer state at a boundary, for every method alike: a new optimizer (reset_all), dropped for rewritten
    weights (reset_touched), or kept."""
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
        if self.batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {self.batch_size}")
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup must lie in [0, 1], got {self.warmup}")
        if self.precision not in get_args(Precision):
            raise UserError(f"precision must be float32 or bfloat16, got {self.precision!r}")
        for name in ("clip_norm", "evaluate_every", "save_seconds"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        endless = [f.name for f in fields(self) if getattr(self, f.name) == math.inf]
        if endless:
            raise UserError(f"{endless[0]} must be finite, got inf")

    @property
    def evaluation_chunk(self) -> int:
        """Samples in one forward pass of an evaluation: what fits in training fits; more would leave a CPU's caches."""
        return max(64, self.batch_size)

    def schedule(self, phase: Phase) -> tuple[int, list[int]]:
        """Updates of a phase, and after which of them to evaluate: the last one always."""
        count = len(phase.train)
        size = min(self.batch_size, count)
        steps = phase.steps if phase.epochs is None else -(-phase.epochs * count // size)
        assert steps is not None
        every = self.evaluate_every
        last = steps * size // count if phase.epochs is None else phase.epochs - 1
        passes = range(every, last + 1, every) if every else range(0)
        if len(passes) > MOST_EVALUATIONS:
            raise UserError(f"a phase would be evaluated {len(passes):,} times: raise evaluate_every, or train shorter")
        return steps, sorted({mark for p in passes if (mark := round(p * count / size)) < steps} | {steps})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything of a run but the method and the seed."""

    data: str
    stream: Stream
    network: Network
    trainer: Trainer = field(default_factory=Trainer)
    recipe: str = "default"
    """Which weights boundary methods rewrite, and which weights the measures are taken of."""
    methods_from: int = 0
    """First phase in which methods are on. Phases before it are plain training, trained once per seed and shared."""
    metrics: tuple[str, ...] = ()
    """Measures taken at the end of every phase."""
    boundary_metrics: tuple[str, ...] = ()
    """Measures taken right after every boundary, of what the method did among others."""
    probe_samples: int = 600
    """Samples on which measures of features and of the loss are taken: the first ones of the phase's training data."""

    def with_network(self, network: Network) -> Protocol:
        """The same with another network, and the recipe made for that where the one here was made for this."""
        made_for_this = bool(self.network.recipe) and self.recipe == self.network.recipe
        other = type(network) is not type(self.network)
        recipe = network.recipe or ("default" if made_for_this else self.recipe)
        return replace(self, network=network, recipe=recipe if other else self.recipe)

    def config(self) -> dict[str, Any]:
        """Every setting as it goes into run.json; what has no effect on numbers is left out."""
        trainer = asdict(self.trainer)
        del trainer["save_seconds"]
        return {
            "data": data.identity(self.data),
            "stream": {"type": type(self.stream).__name__, **asdict(self.stream)},
            "network": {"type": type(self.network).__name__, **asdict(self.network)},
            "trainer": trainer,
            "recipe": self.recipe,
            "methods_from": self.methods_from,
            "metrics": list(self.metrics),
            "boundary_metrics": list(self.boundary_metrics),
            "probe_samples": self.probe_samples,
        }
