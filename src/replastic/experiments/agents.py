"""Shared by the benchmarks of agents with a replay: methods with their settings, measures, curves, and the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from replastic.experiments.spec import every_method
from replastic.learners import Trainer

CONTROLS: Final = ("base", "full_reset", "optimizer_reset", "head_reset")
"""The reference; a network that is new again; and the two controls that every table has."""
INTERPOLATION: Final = "interpolation:strength=0.8,toward=fresh"
WITHOUT_RESET: Final = "fire:targets=kind:conv"
"""By the recipe of FIRE's DQN, `fire` and `interpolation` reset the Linear layers. With targets of its own `fire` does
not, and projects the convolutions alone."""
AT_BOUNDARIES: Final = ("fire", WITHOUT_RESET, INTERPOLATION, "plasticity_injection")
TUNED: Final[Mapping[str, str]] = {
    "interpolation": INTERPOLATION,
    "redo": "redo:every=1000,dormancy_threshold=0.025",
    "l2_init": "l2_init:strength=0.001",
    "isometry": "isometry:strength=0.0001",
    "adamo": "adamo:strength=0.0001",
}
"""Settings by name of the method; none of them was searched. Methods that are not here have their defaults."""
IN_TRAINING: Final = (
    TUNED["redo"],
    "c_chain",
    TUNED["l2_init"],
    "l2_er",
    TUNED["isometry"],
    TUNED["adamo"],
    "trac",
)
"""Methods that act while the agent trains."""
EVERY: Final = every_method(WITHOUT_RESET, **TUNED)
MEASURES: Final = ("dormant", "feature_srank", "dfi", "weight_norm", "churn")
BOUNDARY_MEASURES: Final = ("sfe", "dfi", "dormant")


def trainer(learning_rate: float, **changes: Any) -> Trainer:
    """Constant step size, no clipping, batches of 32; the optimizer's state is kept at boundaries for every method."""
    settings = {"batch_size": 32, "warmup": 0.0, "clip_norm": 0.0, "optimizer_policy": "keep", "save_seconds": 60.0}
    return Trainer(learning_rate=learning_rate, **{**settings, **changes})


def summary(**changes: Any) -> dict[str, Any]:
    """How to present the runs: return in evaluation; while it trains also that of training, measures and |Q|."""
    curves = [f"metric/{name}" for name in ("training_return", *MEASURES, "q_magnitude")]
    return {"score_label": "return of the evaluation episodes", "curves": curves, **changes}
