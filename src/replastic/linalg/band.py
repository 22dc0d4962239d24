"""Singular values clamped to a band, one for each matrix; the singular vectors stay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from replastic.linalg.completion import RANK_TOLERANCE, complete_


class Clamped(NamedTuple):
    """The result of `clamp_singular_values`."""

    weight: Tensor
    """The new matrices, in the shape and dtype of the old."""
    raised: Tensor
    """(*B,) int64: how many singular values lay below the band."""
    lowered: Tensor
    """(*B,) int64: how many lay above it."""


def clamp_singular_values(w: Tensor, low: Tensor, high: Tensor) -> Clamped:
    """U clamp(S, low, high) V^T of W = U S V^T, computed in float64.

    A matrix whose singular values all lie in its band stays what it is, to the bit. Where the band raises singular
    values that cannot be told from zero, W does not say in which directions: these are the ones with which the polar
    factor of W is completed (`completion.complete_`). So the result depends on the matrix alone.

    Args:
        w: (*B, m, n), finite.
        low: (*B,), at least 0.
        high: (*B,), at least `low`.
    """
    wide = w.shape[-2] < w.shape[-1]
    tall = (w.mT if wide else w).double()
    u, s, vh = torch.linalg.svd(tall, full_matrices=False)
    least, most = (end.to(s).unsqueeze(-1) for end in (low, high))
    known = (s >= least) | (s > RANK_TOLERANCE * s[..., :1])
    change = torch.where(known, torch.minimum(torch.maximum(s, least), most), 0.0) - s
    new = tall + (u * change.unsqueeze(-2)) @ vh
    for place in torch.nonzero(~known.all(-1)).tolist():
        at = tuple(place)
        factor = (u[at] * known[at]) @ vh[at]
        whole = factor.clone()
        complete_(whole, vh[at].mT[:, ~known[at]])
        new[at] += low[at].to(s) * (whole - factor)
    return Clamped((new.mT if wide else new).to(w.dtype), (s < least).sum(-1), (s > most).sum(-1))
