"""Classes that arrive phase by phase: does a network that knows the old ones learn the new ones like a new one?"""

from __future__ import annotations

from replastic.experiments import vision
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.streams.class_incremental import ClassIncremental

SMALL = {
    "cifar100": ("train=3000,test=1000,first_classes=20", ClassIncremental(phases=10, epochs=6)),
    "tiny_imagenet": ("train=1200,test=400,first_classes=20", ClassIncremental(phases=10, epochs=6)),
}
"""Of each pair: how much of the data, and for how long. CIFAR-10 has too few classes."""


@register("vision_class_incremental", reference="https://arxiv.org/abs/2602.08040")
def vision_class_incremental() -> BenchmarkSpec:
    """Phases, twenty in the paper, each with new classes; score: test accuracy on the classes seen so far."""
    paper, smoke = ClassIncremental(phases=20, epochs=100), ClassIncremental(phases=4, epochs=1)
    presets = {name: vision.growing_presets("class_incremental", name, *SMALL[name], paper, smoke) for name in SMALL}
    label = "test accuracy on the classes seen so far"
    curves = ["metric/accuracy_all", "metric/dfi", "metric/dormant", "metric/effective_rank", "metric/feature_srank"]
    summary = vision.summary(score_label=label, curves=curves)
    return BenchmarkSpec(name="vision_class_incremental", presets=presets["cifar100"], others=presets, summary=summary)
