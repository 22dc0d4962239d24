"""The same images with their pixels in another order in every task, as in permuted MNIST."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from replastic.data import Dataset
from replastic.streams._repeated import Repeated
from replastic.streams._stream import register


@register("permuted_pixels", reference="https://arxiv.org/abs/1312.6211")
@dataclass(frozen=True, kw_only=True)
class PermutedPixels(Repeated):
    """Each task draws one order of the pixels for all images; the colours of a pixel stay together.

    As used to measure lost plasticity by Dohare et al. (2024) and by He et al. (2025, arXiv 2509.22335).
    """

    def changed(self, data: Dataset, draw: torch.Generator) -> Dataset:
        """(N, C, H, W) with the H W places of every channel in the drawn order; (N, D) with its D values in it."""
        flat = data.inputs.flatten(2) if data.inputs.dim() > 2 else data.inputs
        order = torch.randperm(flat.shape[-1], generator=draw).to(flat.device)
        return replace(data, inputs=flat[..., order].view(data.inputs.shape))
