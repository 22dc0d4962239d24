"""The phase loop, what happens at a boundary, evaluation and resuming; nothing here knows a method by name."""

from replastic.training.loop import train
from replastic.training.protocol import Protocol, Trainer

__all__ = ["Protocol", "Trainer", "train"]
