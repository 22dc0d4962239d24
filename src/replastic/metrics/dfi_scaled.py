"""Deviation from isometry after dividing out the scale that fire gives a layer."""

from __future__ import annotations

import math

from torch import Tensor

from replastic import linalg
from replastic.metrics._metric import register
from replastic.weights.entries import MatrixInfo


@register(
    "dfi_scaled",
    on="weight",
    label="DfI of W / scale, sum over matrices",
    better="lower",
    total="sum",
    reference="https://arxiv.org/abs/2602.08040",
)
def dfi_scaled(w: Tensor, info: MatrixInfo) -> Tensor:
    """Deviation from isometry of W / scale, with fire's default scale sqrt(d_out/d_in) / taps.

    Ours: with it, a layer that fire has just written is at 0 (at d_out - d_in where d_out > d_in) whatever its shape.
    """
    return linalg.dfi_scaled(w, math.sqrt(info.d_out / info.d_in) / info.taps)
