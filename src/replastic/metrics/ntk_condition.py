"""Condition number of the empirical neural tangent kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.metrics._kernel import KernelOptions, Outputs
from replastic.metrics._metric import register


@dataclass(frozen=True, kw_only=True)
class Options(KernelOptions):
    """Options of `ntk_condition`."""

    name = "ntk_condition"


@register(
    "ntk_condition",
    on="loss",
    gradients=20,
    label="condition number of the NTK",
    better="lower",
    bounds=(1.0, None),
    logarithmic=True,
    prepare=Outputs,
    options=Options,
    reference="https://arxiv.org/abs/2606.09762",
)
def ntk_condition(found: Outputs, options: Options = Options()) -> Tensor:
    """Largest over smallest eigenvalue of the empirical NTK: 1 if all directions of the outputs learn equally fast.

    The kernel is that of every pair (sample, output), for the first 64 samples; where that is more than 1024 pairs, of
    fewer samples. The options change that. So compare networks with equally many outputs only. Eigenvalues that cannot
    be told from 0 count as the rounding of the kernel, so the value stays finite: at most 1 / (n eps), 7e12 for n = 640
    in float64. A kernel of zeros has that value.

    Reference: Rosseau et al. (2026), sections 3 and 4.
    """
    kernel = found.kernel(options)
    values = kernel.eigenvalues
    least = (kernel.rounding * values[0]).clamp_min(torch.finfo(values.dtype).tiny)
    limit = torch.tensor(1 / kernel.rounding, dtype=values.dtype, device=values.device)
    return torch.where(values[-1] > least, values[0] / values[-1].clamp_min(least), limit)
