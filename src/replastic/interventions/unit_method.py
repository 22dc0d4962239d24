"""Base of the methods that watch hidden units in training and draw some of them anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.method import Method
from replastic.interventions.run import Need, Run
from replastic.interventions.units import Units
from replastic.probes.activations import TrainingWatch
from replastic.weights.change import Change


@dataclass(kw_only=True)
class UnitMethod(Method):
    """Takes a statistic of every unit's activations from the batches that are trained on, and acts after updates.

    Units are those that `probes.units.unit_groups` finds: channels that feed a weight through one activation function
    and nothing else. A subclass gives the tensors it remembers (`memory`), the statistic of a pass (`statistic`), and
    the units to draw anew (`decide`). Evaluation and probes are never watched. With `watches_gradients` the statistic
    is one of the gradients of what goes into the activation functions.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"units", "fresh", "batches", "loss"})
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Nothing is watched yet."""
        super().__post_init__()
        self._watch: TrainingWatch | None = None

    @property
    def watches_gradients(self) -> bool:
        """Whether `statistic` gets gradients, from the backward pass, in place of activations."""
        return False

    def memory(self, units: Units) -> dict[str, Tensor]:
        """The tensors to remember from update to update, at their first values; they are saved and restored."""
        raise NotImplementedError

    def statistic(self, run: Run, output: Tensor, over: tuple[int, ...], span: slice) -> Tensor:
        """The statistic of one pass, as means over its samples: (units of the group,), or several of them as rows.

        Args:
            run: The run under way.
            output: Of the activation function, detached; units on the axis that `over` lacks. With
                `watches_gradients` the gradient of its input, in the same shape.
            over: Every other axis.
            span: Where the group is in the flat order.
        """
        raise NotImplementedError

    def wanted(self) -> bool:
        """Whether the coming update needs the statistic."""
        return True

    def decide(self, run: Run, seen: Tensor | None) -> Tensor | None:
        """The units to draw anew after this update, as positions in the flat order, ascending; None for none.

        Args:
            run: The run under way.
            seen: The statistic over all processes, (units,) or (rows, units); None where it was not wanted.
        """
        raise NotImplementedError

    def moved(self) -> Tensor | None:
        """Activations of the units, (units,), that are to be moved into the next layer's bias when units are reset."""
        return None

    def forget(self, chosen: Tensor) -> None:
        """Begin anew for units that were reset, `chosen` as positions."""

    def check(self, run: Run) -> None:
        """See that there is a unit to reset."""
        Units(run, self.name)

    def setup(self, run: Run) -> None:
        """Find the units and watch them from now on."""
        assert run.model is not None
        self.close()
        self.units = Units(run, self.name)
        self.kept = self.memory(self.units)
        self._run = run
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._spans = {group.name: span for group, span in zip(self.units.groups, self.units.spans, strict=True)}
        self._watch = TrainingWatch(run.model, self._visit, self.wanted, gradients=self.watches_gradients)

    def after_step(self, run: Run) -> Change | None:
        """Take what was seen, decide, and propose the new units."""
        chosen = self.decide(run, self._seen(run))
        if chosen is None or not len(chosen):
            return None
        change = self.units.reset(run, chosen, moved=self.moved())
        self.forget(chosen)
        return change

    def state_dict(self) -> dict[str, Tensor]:
        """The remembered tensors, and the number of new units of each group."""
        return {name: value.clone() for name, value in {**self.kept, "drawn": self.units.drawn}.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            UserError: It belongs to other units.
        """
        for name, value in {**self.kept, "drawn": self.units.drawn}.items():
            if state[name].shape != value.shape:
                raise UserError(
                    f"{self.name}: the saved {name} is of shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
                )
            value.copy_(state[name])

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    def _visit(self, layer: str, output: Tensor, axis: int) -> None:
        span = self._spans.get(layer)
        if span is None:
            return
        over = tuple(d for d in range(output.dim()) if d != axis)
        samples = output.numel() // output.shape[axis]
        value = self.statistic(self._run, output, over, span).to(self.units.dtype) * samples
        before, count = self._sums.get(layer, (None, 0))
        self._sums[layer] = (value if before is None else before + value, count + samples)

    def _seen(self, run: Run) -> Tensor | None:
        """The statistic of this update, over its passes and over all processes; None if a layer did not run."""
        sums, self._sums = self._sums, {}
        if len(sums) < len(self._spans):
            return None
        return run.average(torch.cat([sums[name][0] / sums[name][1] for name in self._spans], dim=-1))
