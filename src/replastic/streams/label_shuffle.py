"""The same images with the names of their classes exchanged in every task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from replastic.data import Dataset
from replastic.streams._repeated import Repeated
from replastic.streams._stream import register


@register("label_shuffle", reference="https://arxiv.org/abs/2606.09762")
@dataclass(frozen=True, kw_only=True)
class LabelShuffle(Repeated):
    """Each task gives every class the number of another one, by a permutation: images that were together stay so."""

    def changed(self, data: Dataset, draw: torch.Generator) -> Dataset:
        """The same inputs; label c becomes the c-th entry of the permutation."""
        names = torch.randperm(data.classes, generator=draw).to(data.targets.device)
        return replace(data, targets=names[data.targets])
