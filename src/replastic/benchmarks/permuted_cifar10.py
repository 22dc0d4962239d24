"""CIFAR-10 with its pixels in another order in every task: does the network learn the last order as the first?"""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.streams.permuted_pixels import PermutedPixels

PUBLISHED = (
    "a task of AdamO's paper at full size, with the network and step size that a third party reports for its random "
    "labels; the number and length of its tasks are not known"
)


@register("permuted_cifar10", reference="https://arxiv.org/abs/2606.09762")
def permuted_cifar10() -> BenchmarkSpec:
    """Tasks of CIFAR-10 with permuted pixels; score: accuracy on the task's own images at its end."""
    network = Mlp(hidden=(128, 128, 128))
    stream = PermutedPixels(tasks=40, steps=300, scored_on="train")
    task = Classification(data="cifar10:train=1200,test=1000", stream=stream, network=network)
    paper = replace(
        task,
        data="cifar10",
        stream=replace(stream, tasks=50, steps=14_000),
        network=Mlp(hidden=(512, 512, 512, 512), weights="orthonormal_start"),
    )
    short = replace(task, data="cifar10:train=200,test=100", network=Mlp(hidden=(16, 16)))
    found = tasks.presets(
        tasks.protocol(task),
        tasks.protocol(paper, learning_rate=1e-4),
        tasks.protocol(replace(short, stream=replace(stream, tasks=3, steps=20))),
        seeds=3,
        networks=tasks.variants(network),
        published=PUBLISHED,
    )
    label = "accuracy on the task's own images at its end"
    return BenchmarkSpec(name="permuted_cifar10", presets=found, summary=tasks.summary(label))
