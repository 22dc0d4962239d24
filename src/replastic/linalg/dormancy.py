"""How active each unit of a layer is beside the others."""

from __future__ import annotations

import torch
from torch import Tensor


def dormancy_scores(features: Tensor) -> Tensor:
    """The score E|h_i| / mean_k E|h_k| of each unit; 0 for all where no unit is active.

    Shapes: (samples, units) -> (units,), float64. The mean over the units is 1.

    Reference: Sokar et al. (2023), definition 3.1.
    """
    activity = features.abs().mean(0, dtype=torch.float64)
    mean = activity.mean()
    return activity / torch.where(mean > 0, mean, 1)
