"""The machinery of experiments: plans of runs, what they cost, searches, and the crews that carry them out."""

from replastic.experiments.experiment import Listener, Plan, plan, run

__all__ = ["Listener", "Plan", "plan", "run"]
