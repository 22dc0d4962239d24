"""Largest singular value of the input-output Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from replastic.metrics._kernel import JacobianOptions, Outputs
from replastic.metrics._metric import register


@dataclass(frozen=True, kw_only=True)
class Options(JacobianOptions):
    """Options of `jacobian_top`."""

    name = "jacobian_top"


@register(
    "jacobian_top",
    on="loss",
    gradients=10,
    label="largest singular value of the Jacobian",
    logarithmic=True,
    bounds=(0.0, None),
    prepare=Outputs,
    options=Options,
    reference="https://arxiv.org/abs/1711.04735",
)
def jacobian_top(found: Outputs, options: Options = Options()) -> Tensor:
    """Largest singular value of the input-output Jacobian: the most that a small change of an input is amplified.

    One value for each of the first 64 samples; the record is their mean.

    Reference: Pennington et al. (2017), section 2.
    """
    return found.jacobian(options).top()
