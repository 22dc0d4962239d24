"""Memorising random labels, one task after another: the plainest test of whether a network can still learn."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from replastic.data import Splits
from replastic.errors import UserError
from replastic.options import option
from replastic.seeds import generator
from replastic.streams._stream import Phase, Stream, register


@register("random_labels", reference="https://arxiv.org/abs/2606.09762")
@dataclass(frozen=True, kw_only=True)
class RandomLabels(Stream):
    """Each task draws some training images and gives each a fresh random label; scored on the same images."""

    tasks: int = option(30, help="number of tasks", low=1)
    images: int = option(600, help="images of a task, drawn without replacement", low=1)
    steps: int = option(300, help="optimizer updates per task", low=1)

    def __len__(self) -> int:
        """One phase per task."""
        return self.tasks

    def phase(self, splits: Splits, index: int, seed: int) -> Phase:
        """Task `index`: images and labels depend on the seed and the index alone."""
        pool = splits.train
        if self.images > len(pool):
            raise UserError(f"images must be at most {len(pool)}, the size of the training data; got {self.images}")
        draw = generator(seed, "random_labels", index)
        chosen = pool.take(torch.randperm(len(pool), generator=draw)[: self.images])
        labels = torch.randint(pool.classes, (self.images,), generator=draw).to(chosen.targets.device)
        task = replace(chosen, targets=labels)
        return Phase(index, task, {"": task}, steps=self.steps)
