"""One run in memory: the learner, the method at work on it, and where the run stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from replastic import methods, recipes, triggers
from replastic.interventions.attached import Attached
from replastic.learners import Learner
from replastic.methods import Checkpoint, Method
from replastic.parallel import distributed
from replastic.seeds import derive
from replastic.training.descent import Descent
from replastic.training.protocol import Protocol
from replastic.triggers import Trigger
from replastic.weights.module_store import ModuleStore


@dataclass
class Position:
    """Where a run stands; with the tensors of `resume` this is all that is needed to go on."""

    phase: int = 0
    step_in_phase: int = 0
    """Updates made in this phase."""
    step: int = 0
    """Updates made since the run began."""
    crossed: bool = False
    """Whether the boundary before `phase` lies behind."""
    acted_in: int = 0
    """Phase in which the method acted last, or in the beginning of which."""


class Session:
    """A learner and a method at work on it. Use it as a context manager, so that the method's hooks are removed."""

    def __init__(self, protocol: Protocol, source: Any, method: Method, seed: int, device: str = "cpu") -> None:
        self.protocol = protocol
        self.seed = seed
        self.position = Position()
        self.learner: Learner = protocol.task.learner(source, seed, protocol.trainer, device)
        self.model = self.learner.model
        run = methods.Run(
            store=ModuleStore(self.model),
            recipe=recipes.load(protocol.recipe),
            model=self.model,
            init={name: value.detach().clone() for name, value in self.model.state_dict().items()},
            fresh=self.learner.draw,
            loss_fn=self.learner.loss,
            replay=self.learner.replay if type(self.learner).replay is not Learner.replay else None,
            seed=derive(seed, "method"),
        )
        optimizers = {name: protocol.trainer.make_optimizer(g) for name, g in self.learner.groups().items()}
        if protocol.trainer.checkpoints:
            run.checkpoints = ()
        self.attached = Attached(
            method,
            run,
            optimizers,
            policy=protocol.trainer.optimizer_policy,
            followers=self.learner.followers(),
            renew=self.learner.renew if type(self.learner).renew is not Learner.renew else None,
            agree="between phases",  # within one, `Run.average` keeps the processes alike
        )
        self.descent = Descent(self.attached, protocol.trainer)
        self.kept: Callable[[int], Sequence[Checkpoint]] = lambda phase: ()
        """Gives the checkpoints of a phase, where the trainer has any kept."""
        self.trigger: Trigger | None = triggers.from_spec(protocol.trigger) if protocol.trigger else None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.attached.close()

    def inform(self, phase: int, past: int | None = None) -> None:
        """Tell the method what it may know of a phase and its data.

        Args:
            phase: The phase.
            past: The one whose data came before; where phases begin with a boundary that is the one before it.
        """
        if past is None and phase and self.trigger is None:
            past = phase - 1
        run, learner, extent = self.attached.run, self.learner, self.learner.extent(phase)
        run.pass_steps = extent.pass_updates
        run.batches = lambda: learner.batches(phase)
        run.past_batches = None if past is None else lambda: learner.batches(past)
        if self.protocol.trainer.checkpoints:
            run.checkpoints = () if past is None else self.kept(past)
        run.average = distributed.averager(extent.batch)

    def begin(self, phase: int) -> None:
        """Enter a phase: turn the method on if this is its first. That is all there is to do before the first phase."""
        self.inform(phase)
        if self.trigger is None:
            self.attached.run.phase = phase
        if phase >= self.protocol.methods_from:
            self.attached.begin()

    def update(self, step: int, steps: int) -> Tensor:
        """Make update number `step` (from 0) of a schedule of `steps`, and let the method act after it.

        Returns:
            The loss before the update, without the method's penalty; detached, on the device.
        """
        self.descent.rate = self.protocol.trainer.rate(step, steps)
        loss = self.learner.update(self.descent)
        self.note_update()
        return loss

    def note_update(self) -> None:
        """Count an update that was made, and let the method act after it."""
        self.position.step += 1
        self.position.step_in_phase += 1
        self.attached.after_update()
