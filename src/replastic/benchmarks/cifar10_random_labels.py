"""Random labels on CIFAR-10: can the network still memorise its last task?"""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.streams.random_labels import RandomLabels

PUBLISHED = (
    "AdamO's setting as a third party reports it (4 layers of 512, orthogonal start, 1e-4, 8 seeds); the number and "
    "length of its tasks are not known"
)


@register("cifar10_random_labels", reference="https://arxiv.org/abs/2606.09762")
def cifar10_random_labels() -> BenchmarkSpec:
    """Tasks of CIFAR-10 images with fresh random labels; score: accuracy on the task at its end."""
    network = Mlp(hidden=(128, 128, 128))
    task = Classification(data="cifar10", stream=RandomLabels(tasks=40, images=600, steps=300), network=network)
    paper = replace(
        task,
        stream=RandomLabels(tasks=50, images=1200, steps=7500),
        network=Mlp(hidden=(512, 512, 512, 512), weights="orthonormal_start"),
    )
    short = replace(task, data="cifar10:train=200,test=100", network=Mlp(hidden=(16, 16)))
    smoke = replace(short, stream=RandomLabels(tasks=3, images=64, steps=20))
    found = tasks.presets(
        tasks.protocol(task),
        tasks.protocol(paper, learning_rate=1e-4, batch_size=64),
        tasks.protocol(smoke),
        seeds=3,
        networks=tasks.variants(network),
        published=PUBLISHED,
    )
    return BenchmarkSpec(
        name="cifar10_random_labels", presets=found, summary=tasks.summary("accuracy on the task at its end")
    )
