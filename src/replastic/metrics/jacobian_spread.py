"""Spread of the singular values of the input-output Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.metrics._kernel import JacobianOptions, Outputs
from replastic.metrics._metric import register


@dataclass(frozen=True, kw_only=True)
class Options(JacobianOptions):
    """Options of `jacobian_spread`."""

    name = "jacobian_spread"


@register(
    "jacobian_spread",
    on="loss",
    gradients=10,
    label="log10 of the Jacobian's condition number",
    better="lower",
    bounds=(0.0, None),
    prepare=Outputs,
    options=Options,
    reference="https://arxiv.org/abs/2606.09762",
)
def jacobian_spread(found: Outputs, options: Options = Options()) -> Tensor:
    """log10 of the largest over the smallest singular value of the input-output Jacobian; 0 if all are equal.

    One value for each of the first 64 samples; the record is their mean. It does not see the scale of the network, and
    it is 0 for every network with one output. Singular values that cannot be told from 0 count as the rounding of the
    Jacobian, so a value is at most log10(1 / (n eps)), n the larger side: 12.8 for 784 inputs. A Jacobian of zeros has
    that value.

    Reference: Rosseau et al. (2026), section 4; the logarithm is ours.
    """
    spectrum = found.jacobian(options)
    return torch.log10(spectrum.condition_number().clamp_max(1 / spectrum.rounding))
