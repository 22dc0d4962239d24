"""Effective rank of the empirical neural tangent kernel."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.metrics._kernel import KernelOptions, Outputs
from replastic.metrics._metric import register


@dataclass(frozen=True, kw_only=True)
class Options(KernelOptions):
    """Options of `ntk_effective_rank`."""

    name = "ntk_effective_rank"


@register(
    "ntk_effective_rank",
    on="loss",
    gradients=20,
    label="effective rank of the NTK",
    better="higher",
    bounds=(0.0, None),
    prepare=Outputs,
    options=Options,
    reference="https://arxiv.org/abs/2606.09762",
)
def ntk_effective_rank(found: Outputs, options: Options = Options()) -> float:
    """Effective rank of the empirical NTK: exp of the entropy of its eigenvalues over their sum, from 1 to n.

    The kernel and its size n are those of `ntk_condition`. A kernel of zeros has 0.

    Reference: Rosseau et al. (2026), appendix; the rank of Roy and Vetterli (2007) applied to a kernel (ours).
    """
    return found.kernel(options).effective_rank
