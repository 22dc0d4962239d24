"""A convolution's whole kernel as one matrix per group, from its taps and back."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.weights.entries import MatrixInfo


def joined_taps(w: Tensor, info: MatrixInfo) -> Tensor:
    """(taps * groups, d_out, d_in) -> (groups, d_out, d_in * taps): every row one filter. Linear layers stay as is."""
    return torch.unflatten(w, 0, (info.taps, -1)).movedim(0, -1).flatten(-2)


def split_taps(kernels: Tensor, info: MatrixInfo) -> Tensor:
    """The inverse of `joined_taps`."""
    return torch.unflatten(kernels, -1, (info.d_in, info.taps)).movedim(-1, 0).flatten(0, 1)
