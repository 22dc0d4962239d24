"""Dead units: the share of units that give 0 for every sample."""

from __future__ import annotations

from torch import Tensor

from replastic.metrics._metric import register


@register(
    "dead",
    on="features",
    label="share of dead units",
    better="lower",
    bounds=(0.0, 1.0),
    reference="https://arxiv.org/abs/1903.06733",
)
def dead(features: Tensor) -> Tensor:
    """Dead units: those whose output is exactly 0 for every sample, as that of a ReLU which is never above 0.

    Shapes: (samples, units) -> (units,), 1 for a dead unit and 0 for any other. No gradient reaches the incoming
    weights of a dead ReLU. Every position of a map counts as a sample. Units with another activation function are
    hardly ever exactly 0: `dormant` speaks of those.

    Reference: Lu et al. (2019), section 2.
    """
    return (features == 0).all(0).double()
