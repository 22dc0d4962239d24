"""Images that arrive in ten stages: does a network that has grown with its data still learn as well as a new one?"""

from __future__ import annotations

from replastic.experiments import vision
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.streams.continual import Continual

SMALL = {
    "cifar10": ("train=3000,test=1000", Continual(epochs=8)),
    "cifar100": ("train=3000,test=1000", Continual(epochs=8)),
    "tiny_imagenet": ("train=2000,test=1000", Continual(epochs=8)),
}
"""Of each pair: how much of the data, and for how long."""


@register("vision_continual", reference="https://arxiv.org/abs/2602.08040")
def vision_continual() -> BenchmarkSpec:
    """Ten stages show 10%, 20%, ... 100% of the images; score: test accuracy at the end of each."""
    paper, smoke = Continual(stages=10, epochs=100), Continual(stages=3, epochs=2)
    presets = {name: vision.growing_presets("continual", name, *SMALL[name], paper, smoke) for name in SMALL}
    summary = vision.summary(score_label="test accuracy at the end of the stage", phase_label="stage")
    return BenchmarkSpec(name="vision_continual", presets=presets["cifar10"], others=presets, summary=summary)
