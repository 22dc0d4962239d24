"""Networks: their size by hand, their draw from the seed alone, and images that do not fit."""

from dataclasses import fields

import pytest
import torch

from replastic import networks
from replastic.errors import UserError
from replastic.networks.convnet import ConvNet
from replastic.networks.mlp import Mlp
from replastic.weights.redraw import redraw


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_mlp_has_the_hand_computed_number_of_parameters():
    model = networks.build(Mlp(hidden=(256, 256, 256)), (1, 8, 8), 10, seed=0)
    assert count(model) == (64 + 1) * 256 + 2 * (256 + 1) * 256 + (256 + 1) * 10
    assert [n for n, _ in model.named_parameters()][::2] == [
        "hidden1.linear.weight",
        "hidden2.linear.weight",
        "hidden3.linear.weight",
        "head.weight",
    ]


def test_convnet_has_the_hand_computed_number_of_parameters_and_halves_the_image():
    model = networks.build(ConvNet(channels=(32, 64, 64)), (1, 8, 8), 10, seed=0)
    convs = 9 * (1 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (32 + 64 + 64)
    assert count(model) == convs + norms + (64 + 1) * 10
    features = model.stage3(model.stage2(model.stage1(torch.zeros(2, 1, 8, 8))))
    assert features.shape == (2, 64, 2, 2)


@pytest.mark.parametrize("name", networks.names())
def test_every_network_is_drawn_from_its_seed_alone(name):
    network = networks.get(name).reduced()
    shape = (1, 64, 64) if network.inputs == "numbers" else (16,)
    state = torch.get_rng_state()
    first = networks.build(network, shape, 10, seed=3)
    torch.rand(5)
    second = networks.build(network, shape, 10, seed=3)
    other = networks.build(network, shape, 10, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    torch.set_rng_state(state)
    networks.build(network, shape, 10, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    kind, answers = (torch.float32, (2, 10)) if network.inputs == "numbers" else (torch.int64, (2, 16, 10))
    assert first(torch.zeros(2, *shape, dtype=kind)).shape == answers


def test_building_a_network_leaves_the_generators_of_gpus_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    model = networks.build(Mlp(), (1, 8, 8), 10, seed=3)
    again = redraw(model, seed=3)
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert seeded == []


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (ConvNet(channels=(8, 8, 8, 8, 8)), (1, 8, 8), "16 pixels a side; the images have 8"),
        (ConvNet(), (64,), "got samples of shape"),
    ],
)
def test_a_network_that_does_not_fit_the_image_says_so(network, shape, words):
    with pytest.raises(UserError, match=words):
        networks.build(network, shape, 10, seed=0)


@pytest.mark.parametrize("kind", [Mlp, ConvNet])
def test_empty_sizes_are_refused(kind):
    name = fields(kind)[0].name
    with pytest.raises(UserError, match=name):
        kind(**{name: ()})


def test_orthonormal_start_draws_every_matrix_so_and_leaves_it_free():
    model = networks.build(Mlp(hidden=(40, 12), weights="orthonormal_start"), (1, 4, 4), 10, seed=0)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    assert [tuple(p.shape) for p in matrices] == [(40, 16), (12, 40), (10, 12)]
    for p in matrices:
        s = torch.linalg.svdvals(p.detach().double())
        assert torch.allclose(s, torch.ones_like(s), atol=1e-5)
    assert all((p == 0).all() for p in model.parameters() if p.dim() == 1)
    model(torch.randn(3, 1, 4, 4)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert torch.linalg.svdvals(model.hidden1.linear.weight.detach()).std() > 1e-4
