"""A measure of your own, in one file outside the package: how far apart the singular values of a matrix lie."""

import torch
from torch import Tensor

from replastic import metrics
from replastic.weights.entries import MatrixInfo


@metrics.register("log_condition", on="weight", label="log10 of the condition number", better="lower")
def log_condition(w: Tensor, info: MatrixInfo) -> Tensor:
    """log10 of the largest singular value over the smallest: 0 if all are equal; (batch, d_out, d_in) -> (batch,)."""
    s = torch.linalg.svdvals(w)  # in descending order
    return torch.log10(s[..., 0] / s[..., -1].clamp(min=torch.finfo(s.dtype).tiny))
