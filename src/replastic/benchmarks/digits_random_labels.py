"""Random labels on digits: can the network still memorise its thirtieth task as it did its first?"""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments.spec import INTERPOLATION, BenchmarkSpec, Preset, every_method, register
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol

FIRE_VARIANTS = (
    "fire:solver=newton_schulz,num_iters=5",
    "fire:solver=newton_schulz,num_iters=10",
    "fire:scale=preserve",
    "fire:scale=procrustes",
    "fire:scale=init",
)
"""Beside `fire`, the library's default: an exact factor at the paper's scale."""


@register("digits_random_labels", reference="https://arxiv.org/abs/2606.09762")
def digits_random_labels() -> BenchmarkSpec:
    """Thirty tasks of 600 digits with fresh random labels; score: accuracy on the task at its end."""
    task = Classification(
        data="digits",
        stream=RandomLabels(tasks=30, images=600, steps=300),
        network=Mlp(hidden=(256, 256, 256)),
    )
    protocol = Protocol(
        task=task,
        trainer=Trainer(learning_rate=1e-3, batch_size=64, warmup=0.1, clip_norm=0.5),
        recipe="all",
        metrics=("dfi", "effective_rank", "feature_srank", "dormant", "weight_norm"),
        boundary_metrics=("sfe", "dfi"),
    )
    short = replace(task, stream=RandomLabels(tasks=3, images=64, steps=20), network=Mlp(hidden=(32, 32)))
    tiny = replace(protocol, task=short)
    return BenchmarkSpec(
        name="digits_random_labels",
        presets={
            "demo": Preset(
                protocol=protocol,
                methods=("base", "fire", INTERPOLATION, "full_reset"),
                seeds=3,
                help="the four methods of the first picture; about two minutes on two cores",
            ),
            "full": Preset(
                protocol=protocol,
                methods=every_method(*FIRE_VARIANTS, interpolation=INTERPOLATION),
                seeds=5,
                help="every method and control, and fire with other solvers and scales",
            ),
            "smoke": Preset(
                protocol=tiny, methods=("base", "fire"), seeds=2, help="three tiny tasks: does it run? seconds"
            ),
        },
        summary={
            "score_label": "accuracy on the task at its end",
            "phase_label": "task",
            "curves": [
                "metric/dfi",
                "metric/dormant",
                "metric/effective_rank",
                "metric/feature_srank",
                "metric/weight_norm",
            ],
        },
    )
