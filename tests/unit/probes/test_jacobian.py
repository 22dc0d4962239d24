"""Singular values of input-output Jacobians against torch's dense Jacobian in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from replastic import networks
from replastic.errors import UserError
from replastic.probes import JacobianSpectrum, jacobian_spectrum


def dense(model: nn.Module, x: Tensor) -> Tensor:
    """Singular values of the Jacobian of each sample, in float64 and evaluation mode."""
    model = model.double().eval()
    found = []
    for sample in x.double():
        j = torch.autograd.functional.jacobian(lambda s: model(s[None])[0], sample)
        found.append(torch.linalg.svdvals(j.flatten(1)))
    return torch.stack(found)


@pytest.mark.parametrize("memory_gb", [2.0, 1e-5, 6e-6])
def test_values_are_those_of_the_dense_jacobian(memory_gb: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.5), nn.Linear(27, 4)
    )
    model[1].running_mean.normal_()
    x = torch.randn(6, 2, 5, 5)
    found = jacobian_spectrum(model, (x, torch.zeros(6)), memory_gb=memory_gb)
    assert (found.outputs, found.inputs) == (4, 50)
    assert torch.allclose(found.values, dense(model, x), atol=1e-10)


def test_an_almost_everywhere_isometric_network_has_singular_values_of_one() -> None:
    torch.manual_seed(0)
    network = networks.get("mlp")(hidden=(16, 16, 20), activation="maxmin", weights="orthonormal")
    model = network.module((12,), 5)
    body = model[:-1]
    found = jacobian_spectrum(body, torch.randn(7, 12))
    assert torch.allclose(found.values, torch.ones(7, 12).double(), atol=1e-5)
    relu = networks.get("mlp")(hidden=(16, 16, 20), weights="orthonormal").module((12,), 5)[:-1]
    assert float(jacobian_spectrum(relu, torch.randn(7, 12)).values.min()) < 0.9


def test_statistics_by_hand() -> None:
    spectrum = JacobianSpectrum(torch.tensor([[3.0, 1.0], [2.0, 2.0], [4.0, 0.0], [0.0, 0.0]]).double(), 2, 3)
    assert spectrum.mean_square().tolist() == [5, 4, 8, 0]
    assert spectrum.top().tolist() == [3, 2, 4, 0]
    assert spectrum.deviation().tolist() == [0.5, 0, 1, 0]
    assert spectrum.condition_number().tolist() == [3, 1, math.inf, math.inf]


def test_an_output_that_no_input_reaches() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), 2)

    assert torch.equal(jacobian_spectrum(Constant(), torch.randn(3, 4)).values, torch.zeros(3, 2).double())


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UserError, match="whole numbers, such as tokens"):
        jacobian_spectrum(nn.Sequential(nn.Embedding(5, 2), nn.Flatten()), torch.zeros(3, 2, dtype=torch.long))
    with pytest.raises(UserError, match="depend on the other samples of the batch"):
        jacobian_spectrum(nn.BatchNorm1d(3, track_running_stats=False), torch.randn(4, 3))
    with pytest.raises(
        UserError, match=r"one sample \(4 outputs, 3 inputs\) takes 2.88e-07 GB, more than memory_gb=1e-0"
    ):
        jacobian_spectrum(nn.Linear(3, 4), torch.randn(2, 3), memory_gb=1e-7)
