"""When to act: random labels on MNIST whose changes nobody announces; triggers, a fixed rhythm, knowing, and never."""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, Preset, every_method, register
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.streams.hidden_changes import HiddenChanges

WHEN = (
    "base",
    "fire",
    "full_reset",
    "fire@every:steps=300",
    "fire@dataset_change:by=loss",
    "fire@plateau",
    "fire@rank_drop",
    "fire@dfi",
    "fire@readiness",
)
"""Never; at every change, as if it were known, with two methods; a fixed rhythm, the mean length of a task; triggers at
their defaults."""


@register("hidden_random_labels")
def hidden_random_labels() -> BenchmarkSpec:
    """Tasks of random labels, each for a random and hidden time; score: accuracy on the task when it ends."""
    stream = HiddenChanges(changes="random_labels:tasks=40,images=600", shortest=100, longest=500)
    task = Classification(data="mnist", stream=stream, network=Mlp(hidden=(128, 128, 128, 128)))
    small = replace(tasks.protocol(task), start_metrics=tasks.CURVES, start_every=1)
    short = replace(
        task,
        data="mnist:train=400,test=100",
        stream=HiddenChanges(changes="random_labels:tasks=3,images=64", shortest=10, longest=30),
        network=Mlp(hidden=(16, 16)),
    )
    return BenchmarkSpec(
        name="hidden_random_labels",
        presets={
            "small": Preset(protocol=small, methods=WHEN, seeds=5, help="under a minute a run on one core"),
            "full": Preset(
                protocol=small,
                methods=every_method(),
                seeds=5,
                help="as small, with every method and control, each as if it knew the changes",
                folder="small",
            ),
            "smoke": Preset(
                protocol=replace(small, task=short),
                methods=("base", "fire", "fire@every:steps=20"),
                seeds=2,
                help="tiny tasks and network: does it run? seconds",
            ),
        },
        summary={**tasks.summary("accuracy on the task when it ends"), "curves": [f"metric/{n}" for n in tasks.CURVES]},
    )
