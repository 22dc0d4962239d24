"""Regression on a target that changes slowly: now and then one of the inputs that stay the same flips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from replastic import networks
from replastic.errors import UserError
from replastic.learners._batches import Batch
from replastic.learners._learner import Extent
from replastic.learners._supervised import SupervisedLearner
from replastic.learners._task import Score, Task, register
from replastic.learners._trainer import Trainer
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.options import option
from replastic.probes import undisturbed
from replastic.records import key
from replastic.seeds import derive, generator

BLOCK = 64
"""Updates whose examples are drawn together."""
MOST_INPUTS = 4096
"""Inputs of a phase that are scored; all of them if there are no more."""
ERROR, RECENT, ONLINE = key("error"), key("recent_error"), key("online_error")


@register("bit_flipping", reference="https://doi.org/10.1038/s41586-024-07711-7")
@dataclass(frozen=True, kw_only=True)
class BitFlipping(Task):
    """Trains a network to follow a fixed random target whose input has bits that flip one by one.

    The target is a network of `target_units` linear threshold units, weights and output weights +-1. Of its `bits`
    input bits the first `slow_bits` are constant within a phase, and one of them flips between two phases; the others
    are drawn anew for every example. All errors are divided by the variance of the target in the phase, so 1 is the
    error of the best constant.

    Reference: Dohare et al. (2024), Methods, slowly-changing regression; thresholds (bits + 1) beta - S with S the
    number of negative input weights. Differs: examples come in batches, the learner is told where phases begin, and
    sizes are chosen so that a run takes a minute (see docs/results/regression.md).
    """

    score: ClassVar[Score] = Score(
        RECENT, "error, a share of the target's variance", higher_is_better=False, bounds=(0.0, None)
    )

    bits: int = option(20, help="bits of an input", low=1)
    slow_bits: int = option(15, help="bits that are constant within a phase; one of them flips between phases", low=1)
    flips: int = option(200, help="number of phases: each begins with a flip", low=1)
    updates: int = option(500, help="optimizer updates of a phase", low=1)
    target_units: int = option(100, help="hidden units of the target", low=1)
    beta: float = option(0.7, help="share of the input bits at which a unit of the target switches", above=0, below=1)
    window: int = option(50, help="phases over whose ends the score is averaged", low=1)
    network: Network = field(default_factory=lambda: Mlp(hidden=(20, 20)))
    """The network that is trained."""

    def validate(self) -> None:
        """There are no more slow bits than bits."""
        if self.slow_bits > self.bits:
            raise UserError(f"slow_bits must be at most bits, {self.bits}, got {self.slow_bits}")

    @property
    def phases(self) -> int:
        """One for each flip."""
        return self.flips

    @property
    def architecture(self) -> str:
        """The network's kind."""
        return type(self.network).__name__

    def in_words(self) -> str:
        """Network and bits."""
        return f"{self.architecture} on {self.bits} bits, {self.slow_bits} of them slow"

    def open(self, device: str = "cpu") -> str:
        """Nothing but the device: examples are drawn where they are needed."""
        return device

    def learner(self, source: Any, seed: int, trainer: Trainer, device: str = "cpu") -> BitFollower:
        """A new network and a new target."""
        return BitFollower(self, seed, trainer, device)

    def with_network(self, name: str) -> BitFlipping:
        """The network of that name at its reduced size."""
        return replace(self, network=networks.get(name).reduced())


class BitFollower(SupervisedLearner):
    """A network that follows the target. Inputs (B, bits) of 0 and 1, targets (B,), outputs (B, 1)."""

    def __init__(self, task: BitFlipping, seed: int, trainer: Trainer, device: str) -> None:
        super().__init__(task.network, (task.bits,), 1, seed, trainer, device)
        self._task = task
        self._target = _Target(task, derive(seed, "stream"), device)
        self._history = {name: torch.zeros(task.flips, dtype=torch.float64) for name in ("error", "variance")}
        self._online = torch.zeros(2, dtype=torch.float64)

    def extent(self, phase: int) -> Extent:
        """`updates` updates; scored on all inputs of the phase."""
        task, trainer = self._task, self.trainer
        updates, marks = trainer.extent(task.updates * trainer.batch_size, steps=task.updates, epochs=None)
        inputs = min(MOST_INPUTS, 2 ** min(30, task.bits - task.slow_bits))
        return Extent(
            updates=updates,
            marks=marks,
            pass_updates=updates,
            batch=trainer.batch_size,
            scores=(ERROR,),
            scored=inputs,
        )

    def begin(self, phase: int, done: int) -> None:
        """Seek the example after `done` updates."""
        super().begin(phase, done)
        self._variance = float(self._target.variance(phase))
        if not done:
            self._online.zero_()

    def note(self, loss: Tensor) -> None:
        """Count the error on a batch before its update: it is that of examples never seen."""
        self._online += torch.stack([loss.double().cpu(), torch.ones((), dtype=torch.float64)])

    def stream(self, phase: int, first: int) -> Iterator[Batch]:
        """Examples of a phase, drawn by their number."""
        block, skipped = divmod(first, BLOCK)
        while True:
            drawn = self._target.examples(phase, BLOCK * self.trainer.batch_size, block)
            for inputs in torch.split(drawn, self.trainer.batch_size)[skipped:]:
                yield inputs, self._target(inputs)
            block, skipped = block + 1, 0

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return functional.mse_loss(outputs.squeeze(-1), targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error of each example."""
        return (outputs.squeeze(-1) - targets).square()

    @torch.no_grad()
    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """The error on the inputs of the phase; at its end that over the last phases, and that of training, too."""
        inputs = self._target.inputs(phase)
        with undisturbed(self.model):
            error = float(self.criterion(self.forward(inputs).double(), self._target(inputs).double()))
        variance = float(self._target.variance(phase))
        found = {ERROR: error / variance}
        if last:
            self._history["error"][phase], self._history["variance"][phase] = error, variance
            recent = slice(max(0, phase + 1 - self._task.window), phase + 1)
            sums = {name: float(values[recent].sum()) for name, values in self._history.items()}
            total, count = self._online.tolist()
            found |= {RECENT: sums["error"] / sums["variance"], ONLINE: total / count / variance}
        return found

    def batches(self, phase: int) -> Iterable[Batch]:
        """As many examples as a phase has updates, those of training."""
        stream = self.stream(phase, 0)
        return (next(stream) for _ in range(self._task.updates))

    def probe(self, phase: int, samples: int) -> Batch:
        """The first examples of the phase."""
        inputs = self._target.examples(phase, samples, 0)
        return inputs, self._target(inputs)

    def rehearse(self) -> int:
        """Score one phase's inputs."""
        self.evaluate(0)
        return self.extent(0).scored

    def state_dict(self) -> dict[str, Tensor]:
        """Errors of the phases so far, and those of the training under way."""
        return {**self._history, "online": self._online}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


class _Target:
    """The fixed random network that is to be followed, and the inputs of each phase."""

    def __init__(self, task: BitFlipping, seed: int, device: str) -> None:
        self._task, self._seed, self._device = task, seed, device
        draw = generator(seed, "target")
        weights = _signs((task.target_units, task.bits + 1), draw)
        negative = (weights < 0).sum(1)
        self._thresholds = ((task.bits + 1) * task.beta - negative).to(device)
        self._weights = weights.to(device)
        self._outputs = _signs((task.target_units,), draw).to(device)
        first = torch.randint(2, (task.slow_bits,), generator=draw)
        flips = functional.one_hot(torch.randint(task.slow_bits, (task.flips,), generator=draw), task.slow_bits)
        self._slow = ((first + flips.cumsum(0)) % 2).float()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Inputs (B, bits) to targets (B,): threshold units see a constant 1 beside the bits."""
        sums = functional.linear(inputs, self._weights[:, :-1], self._weights[:, -1])
        return (sums > self._thresholds).float() @ self._outputs

    def examples(self, phase: int, count: int, number: int) -> Tensor:
        """Block number `number` of examples of a phase, (count, bits)."""
        task = self._task
        draw = generator(self._seed, "examples", phase, number)
        fast = torch.randint(2, (count, task.bits - task.slow_bits), generator=draw).float()
        return self._joined(phase, fast)

    def inputs(self, phase: int) -> Tensor:
        """Every input of a phase, or so many of them, (N, bits)."""
        fast = self._task.bits - self._task.slow_bits
        if 2 ** min(30, fast) > MOST_INPUTS:
            return self.examples(phase, MOST_INPUTS, -1)
        numbers = torch.arange(2**fast).unsqueeze(1)
        return self._joined(phase, ((numbers >> torch.arange(fast)) % 2).float())

    def variance(self, phase: int) -> Tensor:
        """Variance of the target over the inputs of a phase; 1 where it is constant."""
        variance = self(self.inputs(phase)).double().var(unbiased=False)
        return torch.where(variance > 0, variance, 1.0)

    def _joined(self, phase: int, fast: Tensor) -> Tensor:
        return torch.cat([self._slow[phase].expand(len(fast), -1), fast], 1).to(self._device)


def _signs(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=draw).float() - 1.0
