"""CIFAR-100 whose classes exchange their names in every task: are the new names learned as well as the first?"""

from __future__ import annotations

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.streams.label_shuffle import LabelShuffle


@register("label_shuffled_cifar100", reference="https://arxiv.org/abs/2606.09762")
def label_shuffled_cifar100() -> BenchmarkSpec:
    """Tasks of CIFAR-100 with shuffled names of classes; score: accuracy on the task's own images at its end."""
    return tasks.scored_on_own_images(
        "label_shuffled_cifar100",
        LabelShuffle(tasks=25, steps=400, scored_on="train"),
        data="cifar100",
        small="cifar100:train=2000,test=1000",
        short="cifar100:train=1000,test=100",
    )
