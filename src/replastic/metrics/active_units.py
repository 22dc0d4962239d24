"""Active units: the share of units that a sample switches on."""

from __future__ import annotations

from torch import Tensor

from replastic.metrics._metric import register


@register(
    "active_units",
    on="features",
    label="share of active units",
    plastic="higher",
    bounds=(0.0, 1.0),
    reference="https://arxiv.org/abs/2310.07418",
)
def active_units(features: Tensor) -> Tensor:
    """Active units: share of the units whose output is above 0, as a mean over samples.

    Shapes: (samples, units) -> (units,), the share of samples in which each unit is active. About a half in a ReLU
    network at initialisation. Every position of a map counts as a sample. It is made for ReLU: of other activation
    functions it tells the sign.

    Reference: Ma et al. (2024), who call it the fraction of active units.
    """
    return (features > 0).double().mean(0)
