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
    """Replaces the least useful units of each layer at every update, a share `replacement_rate` of the mature ones.

    A unit is mature once it is older than `maturity_threshold` updates. Its utility is the decayed mean of
    |h - mean of h| * sum |outgoing weights| / sum |incoming weights|. The mean of h is decayed, too, and both means are
    corrected for their start as Adam's moments are. Fractions of a unit add up, layer by layer, until they make one. A
    new unit has incoming weights from a fresh draw (bias and norm included), outgoing weights of zero, and age and
    utility of zero. The mean activation of the unit it replaces is added to the biases of the layers that read it.

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
    decay: float = option(
        0.99, help="share of the old utilities and mean activations that each update keeps", low=0, below=1
    )

    def memory(self, units: Units) -> dict[str, Tensor]:
        """Decayed sums by unit; ages by unit and fractions by group, on the CPU, where no read waits for the device."""
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
        """Total weight of a decayed sum of that age: divided by it, the sum is a mean."""
        return (1.0 - self.decay ** age.double()).to(self.units.device, self.units.dtype)
