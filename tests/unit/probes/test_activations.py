"""What the activation probe sees, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.probes import activations, undisturbed


class Mixed(nn.Module):
    """Modules and calls, reused, in place, on maps and on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        x = self.act(x - 0.1)
        x = self.fc(x.flatten(2).transpose(1, 2))  # (batch, positions, units)
        x = functional.gelu(x)
        return (2 * torch.tanh(x)).relu_().mean(1)


def seen(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with undisturbed(model), torch.no_grad():

        def visit(layer: str, features: Tensor) -> None:
            assert layer not in found
            assert not features.requires_grad
            found[layer] = features.clone()

        with activations(model, visit):
            model(x)
    return found


def test_values_names_and_axes() -> None:
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(4, 2, 5, 5)
    found = seen(model, x)
    assert list(found) == ["act", "act#2", "model", "model#2", "model#3"]
    with torch.no_grad():
        first = model.conv(x).relu()
        second = (first - 0.1).relu()
        third = functional.gelu(model.fc(second.flatten(2).transpose(1, 2)))
    assert torch.equal(found["act"], first.permute(0, 2, 3, 1).reshape(-1, 3))
    assert torch.equal(found["act#2"], second.permute(0, 2, 3, 1).reshape(-1, 3))
    assert torch.equal(found["model"], third.reshape(-1, 5))
    assert torch.equal(found["model#3"], (2 * third.tanh()).relu().reshape(-1, 5))


@pytest.mark.parametrize(
    ("layer", "shape", "units"),
    [
        (nn.Conv1d(2, 6, 3), (4, 2, 9), 6),
        (nn.Linear(2, 6), (4, 9, 2), 6),
        (nn.Conv3d(2, 6, 2), (4, 2, 3, 3, 3), 6),
        (nn.Linear(2, 6), (4, 2), 6),
        (nn.BatchNorm1d(6), (4, 6, 3), 6),
        (nn.LayerNorm(6), (4, 3, 3, 6), 6),
    ],
)
def test_units_are_found_by_the_layer_before(layer: nn.Module, shape: tuple[int, ...], units: int) -> None:
    model = nn.Sequential(layer, nn.ReLU())
    (features,) = seen(model, torch.randn(shape)).values()
    assert features.shape[1] == units
    assert features.numel() == model(torch.randn(shape)).numel()


@pytest.mark.parametrize(
    "kind",
    [
        *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.ReLU6),
        *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softsign),
        *(nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, lambda: nn.Threshold(0.1, 0.0)),
    ],
)
def test_every_activation_function_of_torch_counts(kind: Callable[[], nn.Module]) -> None:
    model, x = nn.Sequential(nn.Linear(2, 3), kind()), torch.randn(4, 2)
    found = seen(model, x)
    assert list(found) == ["1"]
    model.eval()
    assert torch.equal(found["1"], model(x).detach())


def test_names_start_afresh_in_every_pass() -> None:
    model, names = Mixed(), []
    with activations(model, lambda layer, features: names.append(layer)):
        model(torch.randn(1, 2, 5, 5))
        model(torch.randn(1, 2, 5, 5))
    assert names[:5] == names[5:]


def test_only_calls_inside_the_model_count() -> None:
    model, names = nn.Sequential(nn.Linear(2, 2)), []
    with activations(model, lambda layer, features: names.append(layer)):
        torch.relu(model(torch.randn(3, 2)))
    assert names == []


def test_hooks_go_even_after_an_error() -> None:
    model = Mixed()
    with pytest.raises(RuntimeError), activations(model, lambda layer, features: None):
        model(torch.randn(1, 7, 5, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    names: list[str] = []
    with activations(model, lambda layer, features: names.append(layer)):
        model(torch.randn(1, 2, 5, 5))
    assert names[0] == "act"


def test_gradients_flow_through_a_watched_pass() -> None:
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(2, 2, 5, 5)
    plain = torch.autograd.grad(model(x).sum(), model.conv.weight)[0]
    with activations(model, lambda layer, features: None):
        watched = torch.autograd.grad(model(x).sum(), model.conv.weight)[0]
    assert torch.equal(plain, watched)
