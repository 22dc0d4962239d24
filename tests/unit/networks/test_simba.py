"""SimBa against the authors' public code, its first values, and policies against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import networks
from replastic.errors import UserError
from replastic.networks._policies import LOG_STD, GaussianHead, TanhGaussian, policy
from replastic.networks.mlp import Mlp
from replastic.networks.simba import Simba
from replastic.weights.module_store import ModuleStore

OBSERVATIONS = torch.sin(0.7 * torch.arange(15.0, dtype=torch.float64)).view(3, 5)
ACTIONS = torch.cos(1.3 * torch.arange(6.0, dtype=torch.float64)).view(3, 2)
# Computed by SACCritic (2 blocks) and SACActor (1 block), width 6, of github.com/SonyResearch/simba at 7d0358b with
# flax 0.12.8 in float64; every tensor filled as by `fill`. The standard deviations are rounded to float32 there.
CRITIC = [-0.2808631360530853, -0.2620026767253876, -0.42545631527900696]
MEANS = [
    [-0.04805660992860794, -0.32032614946365356],
    [-0.45597532391548157, -0.7463051080703735],
    [-0.16995589435100555, -0.48691532015800476],
]
DEVIATIONS = [
    [0.002100419020280242, 0.0004004862275905907],
    [0.000489331257995218, 0.00013828783994540572],
    [0.0017275359714403749, 0.0002906888257712126],
]


def fill(model: nn.Module) -> nn.Module:
    """Values that depend on a tensor's name and shape alone."""
    model = model.double()
    for name, value in model.state_dict().items():
        start = sum(map(ord, name.replace("head.mean", "head").replace("head.log_std", "log_std")))
        count = torch.arange(start, start + value.numel(), dtype=torch.float64)
        value.copy_(0.5 * torch.sin(count).view_as(value))
    return model


def test_a_critic_gives_the_numbers_of_the_authors_code() -> None:
    model = fill(networks.build(Simba(width=6, blocks=2), (7,), 1, seed=0))
    outputs = model(torch.cat((OBSERVATIONS, ACTIONS), 1)).squeeze(1)
    torch.testing.assert_close(outputs, torch.tensor(CRITIC, dtype=torch.float64), rtol=1e-6, atol=1e-7)


def test_an_actor_gives_the_numbers_of_the_authors_code() -> None:
    model = fill(policy(Simba(width=6, blocks=1), (5,), 2, seed=0))
    distribution = TanhGaussian(model(OBSERVATIONS))
    expected = [torch.tensor(values, dtype=torch.float64) for values in (MEANS, DEVIATIONS)]
    torch.testing.assert_close(distribution.mean, expected[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(distribution.log_std.exp(), expected[1], rtol=1e-5, atol=0)


def test_first_values_are_those_of_the_authors_code() -> None:
    model = networks.build(Simba(), (88,), 1, seed=0)
    for name in ("stem", "head"):
        weight = model.get_submodule(name).weight.detach().double()
        gram = weight.mT @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.mT
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-5)
    for name, fan_in in (("block1.fc1", 512), ("block1.fc2", 2048), ("block2.fc1", 512), ("block2.fc2", 2048)):
        weight = model.get_submodule(name).weight.detach()
        std = math.sqrt(2 / fan_in)
        assert weight.std().item() == pytest.approx(std, rel=0.01)
        assert 2.2 * std < weight.abs().max() < 2 / 0.8796 * std  # theirs reach 0.14210 for 512 inputs
    assert all((value == 0).all() for name, value in model.named_parameters() if name.endswith("bias"))
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-6}


def test_sizes_by_hand_and_names() -> None:
    model = networks.build(Simba(), (67 + 21,), 1, seed=0)
    block = 2 * 512 + (512 + 1) * 2048 + (2048 + 1) * 512
    assert sum(p.numel() for p in model.parameters()) == (88 + 1) * 512 + 2 * block + 2 * 512 + 513
    assert [n for n, p in model.named_parameters() if p.dim() == 2] == [
        "stem.weight",
        *(f"block{b}.{layer}.weight" for b in (1, 2) for layer in ("fc1", "fc2")),
        "head.weight",
    ]
    assert Simba.reduced() == Simba(width=128, blocks=1)


@pytest.mark.parametrize("network", [Simba(width=6, blocks=1), Mlp(hidden=(8,))])
def test_a_policy_has_two_heads_beside_each_other(network: networks.Network) -> None:
    model = policy(network, (5,), 2, seed=3)
    again = policy(network, (5,), 2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert isinstance(model.head, GaussianHead)
    assert not torch.equal(model.head.mean.weight, model.head.log_std.weight)
    heads = [entry.name for entry in ModuleStore(model).entries() if entry.role == "head"]
    assert heads == ["head.mean.weight", "head.log_std.weight"]
    assert model(torch.zeros(4, 5)).shape == (4, 4)


def test_a_network_without_a_head_is_no_policy() -> None:
    with pytest.raises(UserError, match="ends with a Linear called head; headless has none"):
        policy(Headless(), (5,), 2, seed=0)


class Headless(networks.Network):
    name = "headless"

    def module(self, sample_shape: object, classes: int) -> nn.Module:
        return nn.Linear(5, classes)


def normal(outputs: Tensor) -> torch.distributions.Normal:
    mean, raw = outputs.chunk(2, -1)
    least, most = LOG_STD
    return torch.distributions.Normal(mean, (least + (most - least) * 0.5 * (1 + torch.tanh(raw))).exp())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_actions_and_log_densities_are_those_of_torch_distributions(rows: int, actions: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    outputs = torch.randn(rows, 2 * actions, generator=draw, dtype=torch.float64)
    noise = torch.randn(rows, actions, generator=draw, dtype=torch.float64)
    base = normal(outputs)
    squashed = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform(cache_size=1)])
    u = base.mean + noise * base.stddev
    expected = squashed.base_dist.log_prob(u) - squashed.transforms[0].log_abs_det_jacobian(u, torch.tanh(u))
    found, density = TanhGaussian(outputs).sample(noise)
    torch.testing.assert_close(found, torch.tanh(u), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(density, expected.sum(-1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(TanhGaussian(outputs).mode(), torch.tanh(base.mean))


def test_densities_integrate_to_one() -> None:
    """Over actions of one dimension: exp(log density at a) da, on a grid of noise with a = tanh(mean + std noise)."""
    outputs = torch.tensor([[0.3, 0.7], [-0.8, 0.6]], dtype=torch.float64)
    noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for row in outputs:
        actions, density = TanhGaussian(row.expand(len(noise), 2)).sample(noise.unsqueeze(1))
        assert torch.trapezoid(density.exp(), actions.squeeze(1)).item() == pytest.approx(1, abs=1e-5)


def test_log_densities_stay_finite_where_tanh_is_one() -> None:
    outputs = torch.tensor([[40.0, -3.0], [-40.0, 5.0]], requires_grad=True)
    actions, density = TanhGaussian(outputs).sample(torch.tensor([[1.0], [-2.0]]))
    assert actions.abs().tolist() == [[1.0], [1.0]]
    density.sum().backward()
    assert density.isfinite().all()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
