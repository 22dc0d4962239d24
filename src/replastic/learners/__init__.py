"""Networks in training, one kind of learning a file: all that the phase loop asks of them is in `_learner.py`."""

from replastic.learners._learner import Descend, Extent, Learner, Pieces
from replastic.learners._task import Score, Task, entry, get, names, register
from replastic.learners._trainer import Trainer

__all__ = ["Descend", "Extent", "Learner", "Pieces", "Score", "Task", "Trainer", "entry", "get", "names", "register"]
