"""Distance of the layer-wise Jacobian singular values from 1: how far the network is from dynamical isometry."""

from __future__ import annotations

from torch import Tensor

from replastic.metrics._kernel import layers
from replastic.metrics._metric import register
from replastic.probes import LayerJacobians


@register(
    "layer_jacobian_gap",
    on="loss",
    label="distance of layer-wise Jacobian singular values from 1",
    better="lower",
    bounds=(0.0, None),
    prepare=layers,
    reference="https://arxiv.org/abs/2606.09762",
)
def layer_jacobian_gap(found: LayerJacobians) -> dict[str, Tensor]:
    """Root mean square distance from 1 of the singular values of each block's Jacobian; 0 for dynamical isometry.

    One value for each block and each of the first 4 samples; records are means. The head is a block, too. A layer whose
    Jacobians take more than 0.25 GB, as on large maps of an image, is left out. A Linear of 512 units takes about a
    second on one core.

    Reference: Rosseau et al. (2026), section 4; the root mean square is ours.
    """
    return {name: spectrum.gap() for name, spectrum in found.spectra.items()}
