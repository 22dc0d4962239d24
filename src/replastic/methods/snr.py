"""Self-normalised resets: a unit is drawn anew when it is silent for longer than nearly ever before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.interventions.method import register
from replastic.interventions.run import Run
from replastic.interventions.unit_method import UnitMethod
from replastic.interventions.units import Units
from replastic.options import option


@register("snr", reference="https://arxiv.org/abs/2410.20098")
@dataclass(kw_only=True)
class SelfNormalisedResets(UnitMethod):
    """Resets a unit whose present silence is longer than the `percentile` of its own past gaps between firings.

    Time is counted in updates. A unit fires in an update if its activation is above zero for some sample of the batch
    at some position; this is meant for ReLU and its smooth relatives (GELU, SiLU), which are above zero where their
    input is. Every unit has a histogram of the gaps it has lived through, exact up to `max_gap`; it is used once it
    holds 1 / (1 - percentile) gaps. A unit silent for longer than `max_gap` is reset whatever its past. New units
    come as in `redo`, with an empty history.

    Reference: Farias and Jozefiak (2024), algorithm 1. Differs from the authors' code: time is in updates, not samples;
    thresholds follow the histogram at once instead of now and then; a reset empties the histogram. FIRE (Han et al.,
    2026) has percentiles .92 to .99.
    """

    percentile: float = option(
        0.99,
        help="share of its past gaps that a silence must exceed",
        above=0,
        below=1,
        search=(0.92, 0.96, 0.98, 0.99),
    )
    max_gap: int = option(100, help="updates of silence after which any unit is reset", low=1)

    def memory(self, units: Units) -> dict[str, Tensor]:
        """By unit: updates since it fired, past gaps by length, how many, and how many the silence has outlived."""
        whole = torch.zeros(units.total, dtype=torch.int32, device=units.device)
        gaps = torch.zeros(units.total, self.max_gap + 1, dtype=torch.int32, device=units.device)
        return {"silence": whole, "gaps": gaps, "count": whole.clone(), "outlived": whole.clone()}

    def statistic(self, run: Run, output: Tensor, over: tuple[int, ...], span: slice) -> Tensor:
        """1 for a unit that fires."""
        return output.amax(over) > 0

    def decide(self, run: Run, seen: Tensor | None) -> Tensor | None:
        """The units that have been silent for too long."""
        if seen is None:
            return None
        silence, gaps, count, outlived = (self.kept[key] for key in ("silence", "gaps", "count", "outlived"))
        fired = (seen > 0).int()
        column = silence.long().unsqueeze(1)  # a gap of silence + 1 ends; the silence outlives gaps as long as it was
        outlived += gaps.gather(1, (column - 1).clamp_min(0)).squeeze(1) * (column.squeeze(1) > 0)
        gaps.scatter_add_(1, column, fired.unsqueeze(1))
        count += fired
        silence += 1
        for value in (silence, outlived):
            value *= 1 - fired
        enough = math.ceil(1.0 / (1.0 - self.percentile) - 1e-9)
        late = (count >= enough) & (outlived >= self.percentile * count)
        return torch.nonzero(late | (silence > self.max_gap)).flatten()

    def forget(self, chosen: Tensor) -> None:
        """An empty history."""
        for value in self.kept.values():
            value[chosen] = 0
