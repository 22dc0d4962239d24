"""ReDo: now and then, units that are silent beside the others of their layer, or learn nothing, are drawn anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.method import register
from replastic.interventions.run import Run
from replastic.interventions.unit_method import UnitMethod
from replastic.interventions.units import Units
from replastic.options import option


@register("redo", reference="https://arxiv.org/abs/2302.12902")
@dataclass(kw_only=True)
class Redo(UnitMethod):
    """Resets the units whose mean |activation| is at most `dormancy_threshold` times the mean over their layer.

    With ``score=gradient`` it is the mean |gradient| of what goes into the unit's activation function. That is 0 where
    a dead ReLU lets nothing through, and also where nothing reads the unit. It finds units that no longer learn
    although they are not silent, as happens with GELU and with layer normalisation, which keep activations away from 0.

    Incoming weights, biases and what a norm keeps of the unit (gain, bias, running statistics) come from a fresh draw,
    outgoing weights become zero, the optimizer forgets both. In a layer that is silent as a whole every unit is
    dormant.

    Reference: Sokar et al. (2023), section 3 (definition 3.1) and section 4 (ReDo). Differs: activations are those of
    the last training batches before a check, each with the weights of its moment, instead of one batch drawn for it.
    FIRE (Han et al., 2026) checks once per pass over the data, with thresholds .5 (warm start), .05 and .01. The score
    of gradients is GraMa's (Liu et al., 2025, arXiv 2505.24061): the mean over samples, divided by the mean over the
    layer. Ours is that it is taken before the activation function, on the side of the unit's own weights.
    """

    score: str = option(
        "activation",
        help="whether the |activation| of a unit tells that it is dormant, or the |gradient| that comes to it",
        choices=("activation", "gradient"),
    )
    dormancy_threshold: float = option(
        0.1,
        help="share of the layer's mean activation, or gradient, up to which a unit is dormant (tau)",
        low=0,
        search=(0.5, 0.05, 0.01),
    )
    every: int = option(0, help="updates between two checks; 0 is one pass over the data", low=0)
    batches: int = option(10, help="training batches before a check whose activations or gradients count", low=1)

    def check(self, run: Run) -> None:
        """See that there is a unit to reset and a time to do so."""
        if not (self.every or run.pass_steps):
            raise UserError(
                f"{self.name}: nobody says how many updates a pass over the data takes; give every=<updates>"
            )
        super().check(run)

    @property
    def watches_gradients(self) -> bool:
        """Where the score is one of gradients."""
        return self.score == "gradient"

    def memory(self, units: Units) -> dict[str, Tensor]:
        """Updates since the last check, how many of them count for the next, and their activations or gradients."""
        zero = torch.zeros((), dtype=torch.int64)
        return {"since": zero, "counted": zero.clone(), "activity": units.zeros()}

    def wanted(self) -> bool:
        """The last batches before a check."""
        return int(self.kept["since"]) >= self._interval() - self.batches

    def statistic(self, run: Run, output: Tensor, over: tuple[int, ...], span: slice) -> Tensor:
        """Mean |activation| or |gradient|."""
        return output.abs().mean(over, dtype=self.units.dtype)

    def decide(self, run: Run, seen: Tensor | None) -> Tensor | None:
        """The dormant units, when it is time for a check.

        Raises:
            UserError: Nothing was seen of the units since the last check.
        """
        since, counted, activity = (self.kept[key] for key in ("since", "counted", "activity"))
        since += 1
        if seen is not None:
            activity += seen
            counted += 1
        if int(since) < self._interval():
            return None
        if not counted:
            raise UserError(
                f"{self.name}: no {self.score} of all hidden units was seen in {int(since)} updates; call the model "
                f"itself in training mode{', and backpropagate its loss' if self.watches_gradients else ''}"
            )
        scores = torch.cat([_relative(part) for part in self.units.parts(activity)])
        for kept in (since, counted, activity):
            kept.zero_()
        return torch.nonzero(scores <= self.dormancy_threshold).flatten()

    def _interval(self) -> int:
        return self.every or self._run.pass_steps


def _relative(activity: Tensor) -> Tensor:
    """Activities of a layer divided by their mean; 0 where that is 0."""
    mean = activity.mean()
    return activity / torch.where(mean > 0, mean, 1.0)
