"""Mean squared singular value of the input-output Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from replastic.metrics._kernel import JacobianOptions, Outputs
from replastic.metrics._metric import register


@dataclass(frozen=True, kw_only=True)
class Options(JacobianOptions):
    """Options of `jacobian_mean_square`."""

    name = "jacobian_mean_square"


@register(
    "jacobian_mean_square",
    on="loss",
    gradients=10,
    label="mean squared singular value of the Jacobian",
    logarithmic=True,
    bounds=(0.0, None),
    prepare=Outputs,
    options=Options,
    reference="https://arxiv.org/abs/1711.04735",
)
def jacobian_mean_square(found: Outputs, options: Options = Options()) -> Tensor:
    """Mean squared singular value of the input-output Jacobian: 1 for an isometry, and where signals keep their size.

    One value for each of the first 64 samples; the record is their mean. It is ||J||_F^2 / min(outputs, inputs).

    Reference: Pennington et al. (2017), section 2.
    """
    return found.jacobian(options).mean_square()
