"""Jacobians of blocks against torch's dense Jacobian of each block in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from replastic import networks
from replastic.errors import UserError
from replastic.probes import layer_jacobians


def dense(block: nn.Module, x: Tensor) -> Tensor:
    """Singular values of the block's Jacobian at each input."""
    found = [torch.autograd.functional.jacobian(lambda s: block(s.clone()[None])[0].flatten(), sample) for sample in x]
    return torch.stack([torch.linalg.svdvals(j.flatten(1)) for j in found])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 2, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 2, 1)) for _ in range(2)])
        self.twice = nn.Tanh()
        self.pair = nn.LSTM(18, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(self.twice(h))
        return self.head(self.pair(h.flatten(1)[:, None])[0][:, 0])


@pytest.mark.parametrize("memory_gb", [2.0, 2e-5])
def test_values_are_those_of_the_dense_jacobians(memory_gb: float) -> None:
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(5, 1, 3, 3)
    found = layer_jacobians(nn.Sequential(model), x, memory_gb=memory_gb)
    assert list(found.spectra) == ["0.enter", "0.blocks.0", "0.blocks.1", "0.head"]
    assert set(found.skipped) == {"0.twice", "0.pair"}
    assert found.skipped["0.twice"] == "it runs 2 times in a pass"
    assert "one tensor of real numbers" in found.skipped["0.pair"]
    model, x = model.double().eval(), x.double()
    h = model.enter(x).detach()
    assert torch.allclose(found.spectra["0.enter"].values, dense(model.enter, x), atol=1e-10)
    for index, block in enumerate(model.blocks):
        t = torch.tanh(h)
        values = found.spectra[f"0.blocks.{index}"].values
        assert torch.allclose(values, dense(block, t.clone()), atol=1e-10)
        assert (found.spectra[f"0.blocks.{index}"].outputs, values.shape) == (18, (5, 18))
        h = (h + block(t.clone())).detach()


class Trunk(nn.Module):
    """Takes tokens and returns a table, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        h = self.embedding(tokens)
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return {"hidden": h}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.trunk(tokens)["hidden"].mean(1))


def test_a_trunk_that_takes_tokens_or_returns_a_table_is_measured_by_its_parts() -> None:
    torch.manual_seed(0)
    model, tokens = Tokens(), torch.randint(0, 5, (3, 2))
    found = layer_jacobians(model, tokens)
    assert list(found.spectra) == ["trunk.layers.0", "trunk.layers.1", "head"]
    assert list(found.skipped) == ["trunk.embedding"]
    for name, layer in (("trunk.layers.0", model.trunk.layers[0]), ("trunk.layers.1", model.trunk.layers[1])):
        one = torch.linalg.svdvals(layer.weight.detach().double())
        expected = one.repeat_interleave(2).expand(3, 8)  # two tokens, each through the same weight
        assert torch.allclose(found.spectra[name].values, expected, atol=1e-10)
    assert list(layer_jacobians(model, tokens, blocks=["trunk", "head"]).skipped) == ["trunk"]


def test_dynamical_isometry_block_by_block() -> None:
    torch.manual_seed(0)
    kwargs = {"hidden": (12, 12, 12), "weights": "orthonormal"}
    isometric = networks.get("mlp")(activation="maxmin", **kwargs).module((12,), 5)
    found = layer_jacobians(isometric, torch.randn(6, 12)).spectra
    assert list(found) == ["flatten", "hidden1", "hidden2", "hidden3", "head"]
    for name in ("flatten", "hidden1", "hidden2", "hidden3"):
        assert torch.allclose(found[name].values, torch.ones(6, 12).double(), atol=1e-5)
        assert float(found[name].gap().max()) < 1e-5
    relu = networks.get("mlp")(**kwargs).module((12,), 5)
    values = layer_jacobians(relu, torch.randn(6, 12), blocks=["hidden2"]).spectra["hidden2"].values
    assert torch.allclose(values, values.round(), atol=1e-5)
    assert {0, 1} == set(values.round().int().flatten().tolist())


def test_what_does_not_fit_is_skipped_and_what_cannot_be_asked() -> None:
    model, x = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 2)), torch.randn(3, 40)
    found = layer_jacobians(model, x, memory_gb=1e-5)
    assert list(found.spectra) == ["1"]
    assert found.skipped == {"0": "40 outputs by 40 inputs take 3.84e-05 GB, more than 1e-05"}
    with pytest.raises(UserError, match="no block 'hidden9'; did you mean 'hidden3'"):
        layer_jacobians(networks.get("mlp")().module((4,), 2), torch.randn(2, 4), blocks=["hidden9"])
    with pytest.raises(UserError, match="depend on the other samples"):
        layer_jacobians(nn.BatchNorm1d(3, track_running_stats=False), torch.randn(4, 3))


def test_it_leaves_no_trace() -> None:
    model = Residual().train()
    x, rng = torch.randn(2, 1, 3, 3), torch.get_rng_state()
    layer_jacobians(model, x)
    assert model.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
