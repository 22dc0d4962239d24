"""Largest singular value of the weights: what spectral regularisation acts on."""

from __future__ import annotations

from torch import Tensor

from replastic import linalg
from replastic.metrics._metric import register
from replastic.weights.entries import MatrixInfo


@register(
    "singular_top",
    on="weight",
    label="largest singular value, mean over matrices",
    logarithmic=True,
    bounds=(0.0, None),
    reference="https://arxiv.org/abs/2606.09762",
)
def singular_top(w: Tensor, info: MatrixInfo) -> Tensor:
    """Largest singular value (spectral norm) of each weight matrix: 1 for an isometry.

    It bounds a spectrum from above and leaves all other singular values free; `spectral` drives it towards 1.

    Reference: Rosseau et al. (2026), section 5.
    """
    return linalg.Spectrum(linalg.singular_values(w)).largest()
