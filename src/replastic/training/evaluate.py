"""Scores on whole data sets, in evaluation mode and without a trace."""

from __future__ import annotations

import torch
from torch import nn

from replastic.data import Dataset
from replastic.probes import undisturbed
from replastic.streams import Phase
from replastic.training.supervised import one_pass

CHUNK = 2048
"""Samples in one forward pass."""


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of samples whose largest output is the target's."""
    with undisturbed(model):
        correct = [(model(inputs).argmax(1) == targets).sum() for inputs, targets in one_pass(data, CHUNK)]
    return float(torch.stack(correct).sum()) / len(data)


def scores(model: nn.Module, phase: Phase) -> dict[str, float]:
    """Accuracy on each of the phase's evaluation sets, as records name it."""
    return {
        f"metric/accuracy_{name}" if name else "metric/accuracy": accuracy(model, data)
        for name, data in phase.evaluations.items()
    }
