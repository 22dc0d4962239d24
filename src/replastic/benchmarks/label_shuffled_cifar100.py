"""CIFAR-100 whose classes exchange their names in every task: are the new names learned as well as the first?"""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.streams.label_shuffle import LabelShuffle

PUBLISHED = (
    "a task of AdamO's paper at full size, with the network and step size that a third party reports for its random "
    "labels; the number and length of its tasks are not known"
)


@register("label_shuffled_cifar100", reference="https://arxiv.org/abs/2606.09762")
def label_shuffled_cifar100() -> BenchmarkSpec:
    """Tasks of CIFAR-100 with shuffled names of classes; score: accuracy on the task's own images at its end."""
    network = Mlp(hidden=(128, 128, 128))
    stream = LabelShuffle(tasks=25, steps=400, scored_on="train")
    task = Classification(data="cifar100:train=2000,test=1000", stream=stream, network=network)
    paper = replace(
        task,
        data="cifar100",
        stream=replace(stream, tasks=50, steps=14_000),
        network=Mlp(hidden=(512, 512, 512, 512), weights="orthonormal_start"),
    )
    short = replace(task, data="cifar100:train=1000,test=100", network=Mlp(hidden=(16, 16)))
    found = tasks.presets(
        tasks.protocol(task),
        tasks.protocol(paper, learning_rate=1e-4),
        tasks.protocol(replace(short, stream=replace(stream, tasks=3, steps=20))),
        seeds=3,
        networks=tasks.variants(network),
        published=PUBLISHED,
    )
    label = "accuracy on the task's own images at its end"
    return BenchmarkSpec(name="label_shuffled_cifar100", presets=found, summary=tasks.summary(label))
