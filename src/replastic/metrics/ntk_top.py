"""Largest eigenvalue of the empirical neural tangent kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from replastic.metrics._kernel import KernelOptions, Outputs
from replastic.metrics._metric import register


@dataclass(frozen=True, kw_only=True)
class Options(KernelOptions):
    """Options of `ntk_top`."""

    name = "ntk_top"


@register(
    "ntk_top",
    on="loss",
    gradients=20,
    label="largest eigenvalue of the NTK",
    logarithmic=True,
    bounds=(0.0, None),
    prepare=Outputs,
    options=Options,
    reference="https://arxiv.org/abs/1806.07572",
)
def ntk_top(found: Outputs, options: Options = Options()) -> Tensor:
    """Largest eigenvalue of the empirical NTK: the speed of its fastest direction under gradient descent.

    The kernel is that of `ntk_condition`, summed over samples and not divided by their number: gradient flow on half
    the squared error, summed over samples, moves the outputs along its top eigenvector at this rate.

    Reference: Jacot et al. (2018), section 5.
    """
    return found.kernel(options).eigenvalues[0]
