"""MNIST with its pixels in another order in every task: does the network learn the last order as it did the first?"""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.streams.permuted_pixels import PermutedPixels

PUBLISHED = (
    "L2-ER's setting (arXiv 2509.22335): 800 tasks, one pass each, 3 layers of 1000, SGD, 100 images an update; its "
    "step size is not known here, and AdamO's setting is not known"
)


@register("permuted_mnist", reference="https://arxiv.org/abs/2509.22335")
def permuted_mnist() -> BenchmarkSpec:
    """Tasks of MNIST with permuted pixels; score: test accuracy at the end of the task."""
    network = Mlp(hidden=(128, 128, 128))
    stream = PermutedPixels(tasks=80, steps=200)
    task = Classification(data="mnist:train=4000,test=1000", stream=stream, network=network)
    paper = replace(
        task,
        data="mnist",
        stream=PermutedPixels(tasks=800, steps=540),
        network=Mlp(hidden=(1000, 1000, 1000)),
    )
    short = replace(task, data="mnist:train=400,test=100", network=Mlp(hidden=(16, 16)))
    found = tasks.presets(
        tasks.protocol(task, learning_rate=3e-3),
        tasks.protocol(paper, optimizer="sgd", learning_rate=1e-2, batch_size=100),
        tasks.protocol(replace(short, stream=PermutedPixels(tasks=3, steps=20))),
        seeds=3,
        networks=tasks.variants(network),
        published=PUBLISHED,
    )
    label = "test accuracy at the end of the task"
    return BenchmarkSpec(name="permuted_mnist", presets=found, summary=tasks.summary(label))
