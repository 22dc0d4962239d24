"""Networks in training: the only things the phase loop asks of what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from replastic.errors import UserError
from replastic.weights.followers import Followers


@dataclass(frozen=True)
class Extent:
    """How long a phase lasts, and what is scored in it."""

    updates: int
    """Updates of the weights."""
    marks: tuple[int, ...]
    """Updates after which the network is scored, ascending; the last one is `updates`."""
    pass_updates: int = 0
    """Updates that make one pass over the phase's data; 0 where that has no meaning."""
    batch: int = 1
    """Samples of one update."""
    scores: tuple[str, ...] = ()
    """Record keys that `Learner.evaluate` gives at every mark."""
    announced: bool = True
    """Whether whoever trains is told that the phase begins; triggers are told."""
    scored: int = 0
    """Samples (or steps) that one evaluation takes."""
    schedule: int = 0
    """Updates over which the schedule of the step size is laid out; 0 is `updates`. More of them end the phase while
    the step size is still high."""
    weight_decay: float | None = None
    """Weight decay of the phase; None is the trainer's."""
    scored_last: int = 0
    """Samples (or steps) that the phase's last evaluation takes beyond those."""
    examined: int = 0
    """Samples (or steps) that `Learner.examine` takes, at the end of the phase and after the boundary before it."""


class Descend(Protocol):
    """One step of one optimizer, as the loop makes it for every learner."""

    def __call__(self, losses: Callable[[], Iterable[Tensor]], optimizer: str = "") -> Tensor:
        """Make one step.

        The loop takes the losses one after the other, as each is computed, and differentiates them. It adds what the
        method adds, sums the gradients over the processes, clips them, sets the learning rate and steps. A method that
        wants the loss at other weights as well has it computed again, of the same data.

        Args:
            losses: Gives the parts of the loss, as often as it is called: of several micro-batches, each weighted by
                its share of the batch.
            optimizer: Name of the optimizer, one of `Learner.groups`.

        Returns:
            The loss before the step, summed over parts and processes, without what the method adds. Detached.
        """


@dataclass(frozen=True)
class Pieces:
    """An update taken to pieces: one network, one optimizer over all its parameters, one batch, a mean over samples.

    A loop that has them can make the updates of several learners at once.
    """

    take: Callable[[], tuple[Tensor, Tensor]]
    """Gives the next batch, inputs and targets."""
    losses: Callable[[Tensor, Tensor], Tensor]
    """The loss of each sample from outputs and targets, (B,); what is descended is their mean."""
    note: Callable[[Tensor], None]
    """Told the loss of every update, a scalar."""


class Learner(ABC):
    """One network, or several, in training. The loop, boundaries, resuming and records know nothing else of it.

    A learner draws from seeds alone: two learners with one seed that were brought to the same place go on alike.
    """

    model: nn.Module
    """All that methods may change and measures look at: where there are several networks, with these as children."""

    def groups(self) -> Mapping[str, list[dict[str, Any]]]:
        """Parameter groups of torch by name of the optimizer; one optimizer, named ``""``, has all by default.

        A group may bring settings of its own, such as ``lr``.
        """
        return {"": [{"params": list(self.model.parameters())}]}

    def followers(self) -> Followers:
        """Copies that follow what a method rewrites: target networks, moving averages.

        A copy of a part of the model, such as the target of a critic, is a `weights.followers.PartCopy`.
        """
        return {}

    def renew(self, written: Collection[str]) -> None:
        """Make the followers anew: a method has put other modules into the model.

        Args:
            written: Names of the tensors that it has given new values besides; followers take these over.
        """
        raise NotImplementedError

    @abstractmethod
    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """A new random draw of every tensor of the model, by name; the model itself stays."""

    @abstractmethod
    def extent(self, phase: int) -> Extent:
        """How long a phase lasts.

        Raises:
            UserError: The settings do not fit the data.
        """

    @abstractmethod
    def begin(self, phase: int, done: int) -> None:
        """Get ready to train phase number `phase`, of which `done` updates lie behind."""

    @abstractmethod
    def update(self, descend: Descend) -> Tensor:
        """Make one update of the weights, by one call of `descend` for each optimizer.

        Returns:
            The loss to record, a scalar; detached, so that nobody waits for it.
        """

    def pieces(self) -> Pieces | None:
        """The same update taken to pieces; None if it is not made of these."""
        return None

    @abstractmethod
    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """Scores by record key, in evaluation mode and without a trace.

        Args:
            phase: The phase under way, or about to begin.
            last: Whether the phase ends here: scores that are taken once a phase come with the others.
        """

    @abstractmethod
    def batches(self, phase: int) -> Iterable[Any]:
        """One pass over the data of a phase, for methods that look at data; each batch is what `loss` takes.

        Where the order could matter it is an object with a method ``shuffled``, see `interventions.passes.Reorderable`.
        """

    @abstractmethod
    def probe(self, phase: int, samples: int) -> Any:
        """One batch of about so many samples of a phase, always the same, for measures."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss of a model like this learner's on a batch, a scalar; differentiable."""

    def replay(self, share: float) -> None:
        """Mix a share of old data into the batches of all phases after the first, from the next `begin` on.

        Args:
            share: Of the samples, from 0, which mixes in none, to below 1.

        Raises:
            UserError: There is no old data that it could mix in.
        """
        raise UserError(f"{type(self).__name__} has no old data to mix in: replay is for learners that keep theirs")

    def examine(self, phase: int) -> dict[str, float]:
        """Scores too costly for every evaluation, by record key: taken right after a boundary and at the phase's end.

        Nothing of them leaves a trace.
        """
        return {}

    def rehearse(self) -> int:
        """Score a little, to be timed; returns how many samples (or steps) that took, as `Extent.scored` counts."""
        return 0

    def position(self) -> dict[str, int]:
        """Where it stands beside the number of updates: tokens, frames; they go into every record."""
        return {}

    def saved_bytes(self) -> int:
        """Most bytes that `state_dict` will take, for a look whether the disk has room; 0 where it is little."""
        return 0

    def record(self, file: Path) -> None:
        """Write a film of what it does; only learners of tasks with `Task.films` are asked."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """State for going on, beside weights, optimizers and method: replay, environments, counters, normalisers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave; called after the weights were loaded and before `begin`."""
        assert not state, "a learner with a state of its own loads it itself"
