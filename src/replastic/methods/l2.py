"""L2: training is pulled, at every step, toward zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.penalties import total
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.entries import LiveStore


@register("l2", reference="https://arxiv.org/abs/1711.05101")
@dataclass(kw_only=True)
class L2(Method):
    """Adds strength/2 ||theta||^2 to the loss, over all trainable parameters.

    The pull goes through the optimizer, which with Adam differs from decoupled weight decay (`Trainer.weight_decay`).

    Reference: Loshchilov and Hutter (2019), section 2, "L2 regularization"; strengths 1e-5 to 1e-3 in He et al. (2025).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    strength: float = option(1e-4, help="weight of the pull: 0 turns it off", low=0.0, search=(1e-3, 1e-4, 1e-5))

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        choose("parameters", run)

    def setup(self, run: Run) -> None:
        """Look up the parameters."""
        assert isinstance(run.store, LiveStore)
        self._parameters = [run.store.tensor(target.entry.name) for target in choose("parameters", run)[0]]

    def penalty(self, run: Run) -> Tensor | None:
        """Half the squared norm of the weights, times `strength`."""
        return total([p.square().sum() for p in self._parameters], 0.5 * self.strength)

    def close(self) -> None:
        """Let go of the parameters."""
        self._parameters = []
