"""Continual backprop: at every update a small share of the least useful mature units is drawn anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.interventions.method import register
from replastic.interventions.run import Run
from replastic.interventions.unit_method import UnitMethod
from replastic.interventions.units import Units
from replastic.options import option

_TINY = 1e-30
"""Keeps the utility of a unit without incoming weights finite."""


@register("cbp", reference="https://doi.org/10.1038/s41586-024-07711-7")
@dataclass(kw_only=True)
class ContinualBackprop(UnitMethod):
    """Replaces, in each layer, `replacement_rate` of the units older than `maturity_threshold`, least useful first.

    Utility: the decayed mean of |h - mean of h| * sum |outgoing weights| / sum |incoming weights|, where the mean of h
    is itself a decayed one, both corrected for their start as Adam's moments are. Fractions of a unit add up, layer by
    layer. A new unit has incoming weights from a fresh draw (bias and norm included), outgoing weights zero, age and
    utility zero; what its predecessor gave on average is added to the biases of the layers that read it.

    Reference: Dohare et al. (2024), Methods, "Continual backpropagation" (mean-corrected, adaptable utility). Differs
    from the authors' code: the mean activation is moved into the bias as the text says (the code sets it to zero just
    before); biases come from the fresh draw instead of being zero; the step count of Adam is one per tensor, so that
    the first updates of a new unit are up to (1 - beta1) / sqrt(1 - beta2) learning rates long. Moving the mean is
    exact where a Linear reads the unit, an approximation behind max-pooling and at the borders of a padded map. FIRE
    (Han et al., 2026) has rates 1e-4 and 1e-5, and maturity 1000 and 100.
    """

    replacement_rate: float = option(
        1e-4,
        help="share of the mature units of a layer that is replaced per update",
        low=0,
        high=1,
        search=(1e-4, 1e-5),
    )
    maturity_threshold: int = option(1000, help="updates for which a new unit is left alone", low=0, search=(1000, 100))
    decay: float = option(0.99, help="decay of utilities and mean activations per update", low=0, below=1)

    def memory(self, units: Units) -> dict[str, Tensor]:
        """Decayed sums by unit; ages, and fractions of units to replace by group, on the CPU: nobody waits for them."""
        return {
            "utility": units.zeros(),
            "mean": units.zeros(),
            "age": torch.zeros(units.total, dtype=torch.int64),
            "due": torch.zeros(len(units.groups), dtype=torch.float64),
        }

    def statistic(self, run: Run, output: Tensor, over: tuple[int, ...], span: slice) -> Tensor:
        """Mean activation, and mean distance from the running mean with this batch in it: (2, units of the group)."""
        mean = output.mean(over, dtype=self.units.dtype)
        running = self.decay * self.kept["mean"][span] + (1.0 - self.decay) * run.average(mean)
        centre = running / self._started(self.kept["age"][span] + 1)
        shape = [1] * output.dim()
        shape[next(axis for axis in range(output.dim()) if axis not in over)] = -1
        distance = (output - centre.view(shape)).abs_().mean(over, dtype=self.units.dtype)
        return torch.stack([mean, distance])

    def decide(self, run: Run, seen: Tensor | None) -> Tensor | None:
        """The least useful mature units, as many as are due in each group."""
        if seen is None:
            return None
        utility, mean, age, due = (self.kept[key] for key in ("utility", "mean", "age", "due"))
        activation, distance = seen
        fed, read = self.units.magnitudes(run)
        mean.mul_(self.decay).add_(activation, alpha=1.0 - self.decay)
        utility.mul_(self.decay).add_(distance * read / fed.clamp_min(_TINY), alpha=1.0 - self.decay)
        age += 1
        mature = age > self.maturity_threshold
        due += self.replacement_rate * torch.stack([part.sum() for part in self.units.parts(mature)])
        counts = due.floor()
        due -= counts
        if not counts.any():
            return None
        found = (utility / self._started(age)).masked_fill(~mature.to(self.units.device), torch.inf)
        chosen = [
            span.start + found[span].topk(int(count), largest=False).indices.sort().values
            for span, count in zip(self.units.spans, counts, strict=True)
            if count
        ]
        return torch.cat(chosen)

    def moved(self) -> Tensor:
        """Mean activations."""
        return self.kept["mean"] / self._started(self.kept["age"])

    def forget(self, chosen: Tensor) -> None:
        """Age, utility and mean begin anew."""
        self.kept["utility"][chosen] = 0.0
        self.kept["mean"][chosen] = 0.0
        self.kept["age"][chosen.cpu()] = 0

    def _started(self, age: Tensor) -> Tensor:
        """What a decayed sum has reached of its weight at some age."""
        return (1.0 - self.decay ** age.double()).to(self.units.device, self.units.dtype)
