"""The machinery of experiments: plans of runs, what they cost, searches, and the crews that carry them out."""

from replastic.experiments.experiment import Plan, plan, run
from replastic.experiments.listener import Listener

__all__ = ["Listener", "Plan", "plan", "run"]
