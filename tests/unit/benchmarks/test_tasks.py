"""The benchmarks of many short tasks: what is published is in their paper presets, and a reset is a new network."""

import pytest
import torch

from replastic import benchmarks, methods
from replastic.experiments import tasks
from replastic.training.session import Session

NAMES = (
    "mnist_random_labels",
    "permuted_mnist",
    "permuted_cifar10",
    "label_shuffled_cifar100",
    "cifar10_random_labels",
)


def presets(name):
    return benchmarks.get(name)().presets


@pytest.mark.parametrize("name", NAMES)
def test_networks_differ_in_nothing_but_the_network(name):
    found = presets(name)
    small = found["small"].protocol.config()
    for other in ("layernorm", "crelu", "maxmin"):
        config = found[other].protocol.config()
        assert {key for key in small if small[key] != config[key]} == {"network"}
        assert config["network"]["hidden"] == small["network"]["hidden"]
        assert found[other].seeds == found["small"].seeds
    assert found["layernorm"].protocol.config()["network"]["norm"] == "layer"
    assert found["crelu"].protocol.config()["network"]["activation"] == "crelu"
    maxmin = found["maxmin"].protocol.config()["network"]
    assert (maxmin["activation"], maxmin["weights"]) == ("maxmin", "orthonormal")


@pytest.mark.parametrize("name", NAMES)
def test_every_small_preset_compares_the_methods_of_the_question(name):
    small = presets(name)["small"]
    assert {"base", "full_reset", "fire", "isometry", "nap", "redo", "l2_init", "spectral"} <= set(small.methods)
    assert small.seeds == (8 if name == "mnist_random_labels" else 3)
    for spec in small.methods:
        methods.from_spec(spec)


def test_adamos_setting_is_in_the_paper_preset():
    config = presets("mnist_random_labels")["paper"].protocol.config()
    assert config["network"]["hidden"] == (512, 512, 512, 512)
    assert config["network"]["weights"] == "orthonormal_start"
    assert config["trainer"]["optimizer"] == "adam"
    assert config["trainer"]["learning_rate"] == 1e-4
    assert presets("mnist_random_labels")["paper"].seeds == 8


def test_l2_ers_setting_is_in_the_paper_preset():
    config = presets("permuted_mnist")["paper"].protocol.config()
    assert config["stream"]["tasks"] == 800
    assert config["network"]["hidden"] == (1000, 1000, 1000)
    assert (config["trainer"]["optimizer"], config["trainer"]["batch_size"]) == ("sgd", 100)


def test_a_reset_at_a_boundary_is_a_new_network_with_a_new_optimizer_and_base_keeps_all(protocol, splits):
    small = tasks.protocol(protocol.task)
    for spec, new in (("full_reset", True), ("base", False)):
        with Session(small, splits, methods.from_spec(spec), seed=0) as session:
            start = {name: value.clone() for name, value in session.model.state_dict().items()}
            session.begin(0)
            session.learner.begin(0, 0)
            for step in range(3):
                session.update(step, 3)
            trained = {name: value.clone() for name, value in session.model.state_dict().items()}
            session.inform(1)
            session.attached.cross(1, begin=True)
            (optimizer,) = session.attached.optimizers.values()
            wanted = start if new else trained
            assert all(torch.equal(value, wanted[name]) for name, value in session.model.state_dict().items())
            assert (not optimizer.state) == new
            assert not all(torch.equal(start[name], trained[name]) for name in start)
