"""Mean squared singular value of the input-output Jacobian."""

from __future__ import annotations

from torch import Tensor

from replastic.metrics._kernel import jacobian
from replastic.metrics._metric import register
from replastic.probes import JacobianSpectrum


@register(
    "jacobian_mean_square",
    on="loss",
    label="mean squared singular value of the Jacobian",
    logarithmic=True,
    bounds=(0.0, None),
    prepare=jacobian,
    reference="https://arxiv.org/abs/1711.04735",
)
def jacobian_mean_square(found: JacobianSpectrum) -> Tensor:
    """Mean squared singular value of the input-output Jacobian: 1 for an isometry, and where signals keep their size.

    One value for each of the first 64 samples; the record is their mean. It is ||J||_F^2 / min(outputs, inputs).

    Reference: Pennington et al. (2017), section 2.
    """
    return found.mean_square()
