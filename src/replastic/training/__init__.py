"""The phase loop, the boundary and resuming, for any learner and any method."""

from replastic.training.loop import train
from replastic.training.protocol import Protocol

__all__ = ["Protocol", "train"]
