"""Mean squared singular value of the weights: what Normalize-and-Project keeps."""

from __future__ import annotations

from torch import Tensor

from replastic import linalg
from replastic.metrics._metric import register
from replastic.weights.entries import MatrixInfo


@register(
    "singular_mean_square",
    on="weight",
    label="mean squared singular value, mean over matrices",
    logarithmic=True,
    bounds=(0.0, None),
    reference="https://arxiv.org/abs/2606.09762",
)
def singular_mean_square(w: Tensor, info: MatrixInfo) -> Tensor:
    """Mean squared singular value ||W||_F^2 / min(d_out, d_in): 1 for an isometry.

    It fixes the scale of a spectrum and leaves its shape free; `nap` keeps it where it was at initialisation.

    Reference: Rosseau et al. (2026), section 5.
    """
    return linalg.Spectrum(linalg.singular_values(w)).mean_square()
