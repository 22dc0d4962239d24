"""Largest singular value of the input-output Jacobian."""

from __future__ import annotations

from torch import Tensor

from replastic.metrics._kernel import jacobian
from replastic.metrics._metric import register
from replastic.probes import JacobianSpectrum


@register(
    "jacobian_top",
    on="loss",
    label="largest singular value of the Jacobian",
    logarithmic=True,
    bounds=(0.0, None),
    prepare=jacobian,
    reference="https://arxiv.org/abs/1711.04735",
)
def jacobian_top(found: JacobianSpectrum) -> Tensor:
    """Largest singular value of the input-output Jacobian: the most that a small change of an input is amplified.

    One value for each of the first 64 samples; the record is their mean.

    Reference: Pennington et al. (2017), section 2.
    """
    return found.top()
