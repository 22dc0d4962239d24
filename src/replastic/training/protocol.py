"""The settings of a run: everything but the method and the seed, equal for all methods that are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from replastic import recipes
from replastic.learners import Task, Trainer


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything of a run but the method and the seed."""

    task: Task
    """The task that is learned."""
    trainer: Trainer = field(default_factory=Trainer)
    """How."""
    recipe: str = recipes.DEFAULT
    """Which weights boundary methods rewrite, and which weights the measures are taken of."""
    methods_from: int = 0
    """First phase in which methods are on. Phases before it are plain training, trained once per seed and shared."""
    metrics: tuple[str, ...] = ()
    """Measures taken at the end of every phase."""
    boundary_metrics: tuple[str, ...] = ()
    """Measures taken right after every boundary, of what the method did among others."""
    trigger: str = ""
    """The trigger that decides when methods act, by spec, in place of the starts of the phases; empty for these."""
    probe_samples: int = 600
    """Samples on which measures of features and of the loss are taken; see `Learner.probe`."""
    start_metrics: tuple[str, ...] = ()
    """Measures taken at the start of a phase, the first too: after the boundary, before the first update."""
    start_samples: int = 100
    """Samples on which they are taken: few, as the costly ones grow with the square of this or faster."""
    start_every: int = 1
    """Phases from one start at which they are taken to the next; the first phase is always one."""

    def on(self, data: str) -> Protocol:
        """The same on other data."""
        return replace(self, task=self.task.on(data))

    def with_network(self, name: str) -> Protocol:
        """The same with another network, and the recipe made for that where the one here was made for this."""
        task = self.task.with_network(name)
        made_for_this = bool(self.task.recipe) and self.recipe == self.task.recipe
        recipe = task.recipe or (recipes.DEFAULT if made_for_this else self.recipe)
        other = task.architecture != self.task.architecture
        return replace(self, task=task, recipe=recipe if other else self.recipe)

    def config(self) -> dict[str, Any]:
        """Every setting as it goes into run.json; what has no effect on numbers is left out."""
        trainer = asdict(self.trainer)
        del trainer["save_seconds"]
        if not self.trainer.checkpoints:
            del trainer["checkpoints"]
        start = {
            "start_metrics": list(self.start_metrics),
            "start_samples": self.start_samples,
            "start_every": self.start_every,
        }
        return {
            **self.task.config(),
            "trainer": trainer,
            "recipe": self.recipe,
            "methods_from": self.methods_from,
            "metrics": list(self.metrics),
            "boundary_metrics": list(self.boundary_metrics),
            "probe_samples": self.probe_samples,
            **(start if self.start_metrics else {}),
            **({"trigger": self.trigger} if self.trigger else {}),
        }
