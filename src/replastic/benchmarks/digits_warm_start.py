"""Warm start on digits: a tenth of the data first, then all of it; how much of the test accuracy is lost for good?"""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments.spec import INTERPOLATION, BenchmarkSpec, Preset, every_method, register
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.networks.convnet import ConvNet
from replastic.streams.warm_start import WarmStart
from replastic.training import Protocol


@register("digits_warm_start", reference="https://arxiv.org/abs/2602.08040")
def digits_warm_start() -> BenchmarkSpec:
    """A small convnet trained on 10% of the digits, then on all; score: test accuracy after the last epoch."""
    task = Classification(
        data="digits",
        stream=WarmStart(ratio=0.1, first_epochs=200, epochs=30),
        network=ConvNet(channels=(32, 64, 64)),
    )
    protocol = Protocol(
        task=task,
        trainer=Trainer(learning_rate=1e-3, batch_size=64, warmup=0.1, clip_norm=0.5, evaluate_every=1),
        recipe="all",
        methods_from=1,
        metrics=("dfi", "effective_rank", "feature_srank", "dormant", "weight_norm"),
        boundary_metrics=("sfe", "dfi"),
    )
    short = replace(task, stream=WarmStart(ratio=0.1, first_epochs=2, epochs=2), network=ConvNet(channels=(8, 8)))
    tiny = replace(protocol, task=short)
    return BenchmarkSpec(
        name="digits_warm_start",
        presets={
            "demo": Preset(
                protocol=protocol,
                methods=(
                    "base",
                    "fire",
                    "full_reset",
                    INTERPOLATION,
                    "shrink_perturb",
                    "dash",
                    "rescale",
                    "random_isometry",
                ),
                seeds=5,
                help="the paper's boundary methods and two controls; about four minutes on two cores",
            ),
            "full": Preset(
                protocol=protocol,
                methods=every_method(interpolation=INTERPOLATION),
                seeds=5,
                help="every method and control",
            ),
            "smoke": Preset(
                protocol=tiny, methods=("base", "fire"), seeds=2, help="two tiny phases: does it run? seconds"
            ),
        },
        summary={
            "score_label": "test accuracy after the last epoch",
            "curves": ["metric/dfi", "metric/dormant", "metric/effective_rank", "metric/weight_norm"],
        },
    )
