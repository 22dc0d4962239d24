"""Random labels on MNIST, the plainest task of AdamO's paper: can the network still memorise its last task?"""

from __future__ import annotations

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.networks.mlp import Mlp


@register("mnist_random_labels", reference="https://arxiv.org/abs/2606.09762")
def mnist_random_labels() -> BenchmarkSpec:
    """Tasks of MNIST images with fresh random labels; score: accuracy on the task at its end."""
    network = Mlp(hidden=(128, 128, 128, 128))
    return tasks.random_labels("mnist_random_labels", short="mnist:train=400,test=100", network=network, seeds=8)
