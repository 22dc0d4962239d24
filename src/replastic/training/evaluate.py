"""Scores on whole data sets, in evaluation mode and without a trace."""

from __future__ import annotations

import torch

from replastic.data import Dataset
from replastic.parallel import distributed
from replastic.probes import undisturbed
from replastic.streams import Phase
from replastic.training.forward import Forward
from replastic.training.supervised import one_pass

TRAIN_SAMPLES = 5000
"""Most samples of a phase's training data that are scored at its end."""


@torch.no_grad()
def accuracy(forward: Forward, data: Dataset) -> float:
    """Share of samples whose largest output is the target's; several processes share the work.

    Returns:
        A number in [0, 1], the same on every process.

    Raises:
        LostProcessError: Another process has gone.
    """
    correct = torch.zeros((), dtype=torch.int64, device=data.targets.device)
    mine = one_pass(data, forward.chunk, distributed.rank(), distributed.world_size())
    with undisturbed(forward.model):
        for inputs, targets in mine:
            correct += (forward(inputs).argmax(1) == targets).sum()
    return int(distributed.total(correct)) / len(data)


def scores(forward: Forward, phase: Phase) -> dict[str, float]:
    """Accuracy on each of the phase's evaluation sets, as records name it."""
    return {
        f"metric/accuracy_{name}" if name else "metric/accuracy": accuracy(forward, data)
        for name, data in phase.evaluations.items()
    }


def train_score(forward: Forward, phase: Phase) -> dict[str, float]:
    """Accuracy on the phase's training data: all of it, or `TRAIN_SAMPLES` spread evenly over its order."""
    count = len(phase.train)
    some = phase.train
    if count > TRAIN_SAMPLES:
        some = some.take(torch.arange(TRAIN_SAMPLES) * count // TRAIN_SAMPLES)
    return {"metric/train_accuracy": accuracy(forward, some)}
