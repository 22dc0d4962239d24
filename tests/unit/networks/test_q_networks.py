"""The Q-networks: sizes by hand, block names, a LayerNorm before each ReLU, images that are too small."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from replastic import networks, recipes
from replastic.errors import UserError
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.networks.nature_cnn import NatureCnn
from replastic.weights.module_store import ModuleStore
from replastic.weights.targets import select


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_nature_cnn_has_the_published_size():
    model = networks.build(NatureCnn(), (4, 84, 84), 18, seed=0)
    convs = (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64
    assert count(model) == convs + (3136 + 1) * 512 + (512 + 1) * 18
    assert [(m.kernel_size[0], m.stride[0]) for m in model.modules() if isinstance(m, nn.Conv2d)] == [
        (8, 4),
        (4, 2),
        (3, 1),
    ]


def test_the_minatar_cnn_has_the_published_size():
    model = networks.build(MinAtarCnn(), (4, 10, 10), 6, seed=0)
    assert count(model) == (9 * 4 + 1) * 16 + (8 * 8 * 16 + 1) * 128 + (128 + 1) * 6


def test_outputs_are_those_of_the_layers_written_out():
    model, x = networks.build(MinAtarCnn(), (4, 10, 10), 6, seed=1), torch.rand(3, 4, 10, 10)
    p = dict(model.named_parameters())
    h = functional.conv2d(x, p["stage1.conv.weight"], p["stage1.conv.bias"]).relu().flatten(1)
    h = (h @ p["hidden1.linear.weight"].T + p["hidden1.linear.bias"]).relu()
    assert torch.allclose(model(x), h @ p["head.weight"].T + p["head.bias"], atol=1e-6)


@pytest.mark.parametrize("network", [NatureCnn(norm="layer"), MinAtarCnn(norm="layer")])
def test_the_norm_comes_before_each_relu_and_sees_all_of_a_sample(network):
    model, x = networks.build(network, (4, 40, 40), 6, seed=0), torch.randn(2, 4, 40, 40)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(1)))
    model(x)
    assert len(seen) == len(network.channels) + len(network.hidden)
    for features in seen:
        assert torch.allclose(features.mean(1), torch.zeros(2), atol=1e-5)
        assert torch.allclose(features.var(1, unbiased=False), torch.ones(2), atol=2e-2)


@pytest.mark.parametrize(("network", "least"), [(NatureCnn(), 36), (MinAtarCnn(channels=(4, 4)), 5)])
def test_the_smallest_image_is_one_pixel_in_the_end_and_a_smaller_one_is_refused(network, least):
    model = networks.build(network, (2, least, least), 3, seed=0)
    assert model(torch.zeros(1, 2, least, least)).shape == (1, 3)
    with pytest.raises(UserError, match=f"at least {least} pixels a side; the images have {least - 1}"):
        networks.build(network, (2, least - 1, least), 3, seed=0)


def test_the_nature_cnn_takes_three_channels_alone():
    with pytest.raises(UserError, match="channels must be 3 numbers"):
        NatureCnn(channels=(8, 8))


@pytest.mark.parametrize("network", [NatureCnn(), MinAtarCnn(norm="layer")])
def test_the_papers_recipe_projects_convolutions_and_resets_the_linear_layers(network):
    model = networks.build(network, (4, 84, 84), 6, seed=0)
    entries = ModuleStore(model).entries()
    assert next(e.role for e in entries if e.name == "head.weight") == "head"
    chosen = {t.entry.name: t.rule.action for t in select(entries, recipes.load("paper-dqn")).targets}
    convs = {f"stage{i + 1}.conv.weight" for i in range(len(network.channels))}
    linears = {f"{layer}.{part}" for layer in ("hidden1.linear", "head") for part in ("weight", "bias")}
    assert {name for name, action in chosen.items() if action == "apply"} == convs
    assert {name for name, action in chosen.items() if action == "full_reset"} == linears
