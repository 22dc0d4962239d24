"""Random labels on CIFAR-10: can the network still memorise its last task?"""

from __future__ import annotations

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.networks.mlp import Mlp


@register("cifar10_random_labels", reference="https://arxiv.org/abs/2606.09762")
def cifar10_random_labels() -> BenchmarkSpec:
    """Tasks of CIFAR-10 images with fresh random labels; score: accuracy on the task at its end."""
    network = Mlp(hidden=(128, 128, 128))
    return tasks.random_labels("cifar10_random_labels", short="cifar10:train=200,test=100", network=network, seeds=3)
