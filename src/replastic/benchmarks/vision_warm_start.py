"""Warm start on images: a tenth of the data first, then all of it; how much of the test accuracy is lost for good?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from replastic.benchmarks._registry import register
from replastic.benchmarks._spec import BenchmarkSpec, Preset, every_method
from replastic.benchmarks._vision import PAIRS, TUNED, protocol
from replastic.streams.warm_start import WarmStart

SMALL = {
    "cifar10": ("train=10000,test=2000", WarmStart(first_epochs=100, epochs=12)),
    "cifar100": ("train=10000,test=2000", WarmStart(first_epochs=60, epochs=12)),
    "tiny_imagenet": ("train=8000,test=2000", WarmStart(first_epochs=60, epochs=10)),
}
"""Of each pair: how much of the data, and for how long: the first phase until 99% of its images are learned."""
SMOKE = {"cifar10": "train=200,test=100", "cifar100": "train=1000,test=100", "tiny_imagenet": "train=2000,test=200"}
"""Ten training images of each class at least, so that one is held out."""


@register("vision_warm_start", reference="https://arxiv.org/abs/2602.08040")
def vision_warm_start() -> BenchmarkSpec:
    """A network trained on 10% of the images, then on all of them; score: test accuracy after the last epoch."""
    presets = {name: _presets(name) for name in PAIRS}
    return BenchmarkSpec(
        name="vision_warm_start",
        presets=presets["cifar10"],
        others=presets,
        summary={
            "score": "metric/accuracy",
            "score_label": "test accuracy after the last epoch",
            "event": "phase_end",
            "higher_is_better": True,
            "phase_label": "phase",
            "curves": ["metric/dfi", "metric/dormant", "metric/effective_rank", "metric/weight_norm"],
        },
    )


def _presets(name: str) -> Mapping[str, Preset]:
    tuned = TUNED["warm_start", name].specs()
    data, stream = SMALL[name]
    small = protocol(name, "small", stream, data=data, methods_from=1, sharpness=True)
    everything = every_method(**tuned)
    few = ("base", "fire", "full_reset", tuned["interpolation"], "rescale")
    presets = {
        "small": Preset(
            protocol=small,
            methods=everything if name == "cifar10" else few,
            seeds=5 if name == "cifar10" else 3,
            help="a part of the data and a small network; minutes a run on one core",
        ),
        "paper": Preset(
            protocol=protocol(name, "paper", WarmStart(ratio=0.1, first_epochs=1000, epochs=100), methods_from=1),
            methods=everything,
            seeds=3,
            help="the FIRE paper's protocol at full size: every method and control; needs a GPU",
        ),
    }
    tiny = WarmStart(first_epochs=2, epochs=2)
    smoke = protocol(name, "smoke", tiny, data=SMOKE[name], methods_from=1)
    smoke = replace(smoke, trainer=replace(smoke.trainer, batch_size=32), probe_samples=100)
    presets["smoke"] = Preset(
        protocol=smoke, methods=("base", "fire"), seeds=2, help="a few tiny images: does it run? seconds"
    )
    return presets
