"""Distance of the layer-wise Jacobian singular values from 1: how far the network is from dynamical isometry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._metric import register
from replastic.options import Settings, option
from replastic.probes import layer_jacobians


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    """Options of `layer_jacobian_gap`."""

    name = "layer_jacobian_gap"

    samples: int = option(4, help="only so many first samples are used", low=1)
    memory_gb: float = option(0.25, help="a layer whose Jacobian takes more is left out", above=0)


@register(
    "layer_jacobian_gap",
    on="loss",
    label="distance of layer-wise Jacobian singular values from 1",
    better="lower",
    bounds=(0.0, None),
    options=Options,
    reference="https://arxiv.org/abs/2606.09762",
)
def layer_jacobian_gap(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    options: Options = Options(),
) -> dict[str, Tensor]:
    """Root mean square distance from 1 of the singular values of each block's Jacobian; 0 for dynamical isometry.

    One value for each block and each of the first 4 samples; records are means. The head is a block, too. A layer whose
    Jacobian takes more than 0.25 GB, as on large maps of an image, is left out. A Linear of 512 units takes about a
    second on one core.

    Reference: Rosseau et al. (2026), section 4; the root mean square is ours.
    """
    found = layer_jacobians(model, next(iter(batches)), loss_fn, samples=options.samples, memory_gb=options.memory_gb)
    return {name: spectrum.gap() for name, spectrum in found.spectra.items()}
