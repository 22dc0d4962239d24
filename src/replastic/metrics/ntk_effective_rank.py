"""Effective rank of the empirical neural tangent kernel."""

from __future__ import annotations

from replastic.metrics._kernel import kernel
from replastic.metrics._metric import register
from replastic.probes import Ntk


@register(
    "ntk_effective_rank",
    on="loss",
    label="effective rank of the NTK",
    better="higher",
    bounds=(0.0, None),
    prepare=kernel,
    reference="https://arxiv.org/abs/2606.09762",
)
def ntk_effective_rank(found: Ntk) -> float:
    """Effective rank of the empirical NTK: exp of the entropy of its eigenvalues over their sum, from 1 to n.

    The kernel and its size n are those of `ntk_condition`. A kernel of zeros has 0.

    Reference: Rosseau et al. (2026), appendix; the rank of Roy and Vetterli (2007) applied to a kernel (ours).
    """
    return found.effective_rank
