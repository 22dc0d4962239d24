"""Largest eigenvalue of the empirical neural tangent kernel."""

from __future__ import annotations

from torch import Tensor

from replastic.metrics._kernel import kernel
from replastic.metrics._metric import register
from replastic.probes import Ntk


@register(
    "ntk_top",
    on="loss",
    label="largest eigenvalue of the NTK",
    logarithmic=True,
    bounds=(0.0, None),
    prepare=kernel,
    reference="https://arxiv.org/abs/1806.07572",
)
def ntk_top(found: Ntk) -> Tensor:
    """Largest eigenvalue of the empirical NTK: the speed of its fastest direction under gradient descent.

    The kernel is that of `ntk_condition`, summed over samples and not divided by their number: gradient flow on half
    the squared error, summed over samples, moves the outputs along its top eigenvector at this rate.

    Reference: Jacot et al. (2018), section 5.
    """
    return found.eigenvalues[0]
