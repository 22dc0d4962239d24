"""EWC: weights that the past data depend on are held where they are, by their Fisher information."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from replastic.interventions.aim import choose
from replastic.interventions.fisher import squared_gradients
from replastic.interventions.method import Method, register
from replastic.interventions.penalties import total
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.change import Change
from replastic.weights.entries import LiveStore


@register("ewc", reference="https://arxiv.org/abs/1612.00796")
@dataclass(kw_only=True)
class Ewc(Method):
    """Elastic weight consolidation: adds strength/2 sum_i F_i (theta_i - anchor_i)^2 to the loss.

    At every boundary the anchor becomes the weights as they are then, and F the diagonal of the Fisher information on
    the data of the phase that ended plus `decay` times the F before: the squared gradient of every sample's own loss,
    averaged over samples, in evaluation mode. In ``ewc+fire`` both are taken at the old weights, in ``fire+ewc`` at the
    projected ones. In the first phase there is no past and no penalty. Weights are left as they are at boundaries.

    Reference: Kirkpatrick et al. (2017), equation 3. Differs in one point: they keep a penalty for each past task, here
    there is one, with the sum of the F around the newest weights (Huszar 2018; with decay < 1 Schwarz et al. 2018,
    online EWC), so that memory does not grow.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "loss"})

    strength: float = option(
        100.0, help="weight of the pull (lambda): 0 turns it off", low=0, search=(1.0, 10.0, 100.0, 1000.0, 10000.0)
    )
    decay: float = option(
        1.0, help="factor on the Fisher information of earlier phases at a boundary (gamma)", low=0, high=1
    )
    fisher: str = option(
        "empirical",
        help="gradients of the loss at the labels of the data, or at labels drawn from the network's own outputs",
        choices=("empirical", "true"),
    )
    samples: int = option(16, help="samples of each batch of the past data that are used; 0 uses all", low=0)

    @property
    def draws(self) -> bool:
        """Labels are drawn for the true Fisher information."""
        return self.fisher == "true"

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        choose("parameters", run)

    def setup(self, run: Run) -> None:
        """Look up the parameters."""
        assert isinstance(run.store, LiveStore)
        names = [target.entry.name for target in choose("parameters", run)[0]]
        self._parameters = {name: run.store.tensor(name) for name in names}
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}

    def on_boundary(self, run: Run) -> Change:
        """Take Fisher information and anchor from the past data, and leave the weights; an empty change."""
        if run.past_batches is not None:
            found = squared_gradients(run, self._parameters, self.samples, sampled=self.fisher == "true")
            for name, value in found.items():
                value = run.average(value)
                if name in self._fisher:
                    value = value + self.decay * self._fisher[name]
                self._fisher[name] = value
                self._anchor[name] = self._parameters[name].detach().clone()
        return Change()

    def penalty(self, run: Run) -> Tensor | None:
        """The weighted squared distance to the anchor; None before the first boundary."""
        terms = [
            (fisher * (self._parameters[name] - self._anchor[name]).square()).sum()
            for name, fisher in self._fisher.items()
        ]
        return total(terms, 0.5 * self.strength)

    def state_dict(self) -> dict[str, Tensor]:
        """Fisher information and anchors."""
        pairs = (("fisher", self._fisher), ("anchor", self._anchor))
        return {f"{kind}/{name}": value for kind, values in pairs for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them, on the devices of the parameters."""
        self._fisher, self._anchor = {}, {}
        for key, value in state.items():
            kind, name = key.split("/", 1)
            values = self._fisher if kind == "fisher" else self._anchor
            values[name] = value.to(self._parameters[name].device)

    def close(self) -> None:
        """Let go of the parameters."""
        self._parameters, self._fisher, self._anchor = {}, {}, {}
