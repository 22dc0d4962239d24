"""The convnet's options: isometric stages by their dense Jacobian, norms, activations, and images that do not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from replastic import networks
from replastic.errors import UserError
from replastic.networks._activations import ACTIVATIONS
from replastic.networks.convnet import ConvNet


def singular_values(model, x):
    """Of the dense Jacobian of a module at one input."""
    jacobian = torch.autograd.functional.jacobian(lambda one: model(one.unsqueeze(0)).flatten(), x)
    return torch.linalg.svdvals(jacobian.flatten(1))


def stages(network, shape, seed=0):
    """All of a network before its head, in float64."""
    return networks.build(network, shape, 3, seed).double()[:-1]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3),
    st.sampled_from([(4, 4), (8, 4), (4, 8)]),
    st.integers(0, 3),
    st.sampled_from(["maxmin", "groupsort"]),
    st.integers(0, 2**31),
)
def test_orthonormal_stages_with_sorting_are_an_isometry(channels, size, wider, activation, seed):
    first = channels + wider
    network = ConvNet(
        channels=(first, 4 * first, 16 * first + wider), activation=activation, norm="none", weights="orthonormal"
    )
    model = stages(network, (channels, *size), seed)
    x = torch.randn(channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    values = singular_values(model, x)
    assert len(values) == channels * size[0] * size[1]
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)


def test_they_stay_one_in_training():
    network = ConvNet(channels=(2, 8), activation="maxmin", norm="none", weights="orthonormal")
    model = networks.build(network, (2, 4, 4), 3, seed=0).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    draw = torch.Generator().manual_seed(0)
    before = model.stage2.linear.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(10, 2, 4, 4, generator=draw, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    assert (model.stage2.linear.weight - before).abs().max() > 0.01, "training moved nothing"
    values = singular_values(model[:-1], torch.randn(2, 4, 4, generator=draw, dtype=torch.float64))
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changed", [{"activation": "relu"}, {"norm": "layer"}, {"channels": (2, 6)}], ids=["relu", "norm", "narrow"]
)
def test_without_one_of_the_conditions_they_are_no_isometry(changed):
    chosen = {"channels": (2, 8), "activation": "maxmin", "norm": "none", "weights": "orthonormal", **changed}
    x = torch.randn(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = singular_values(stages(ConvNet(**chosen), (2, 4, 4)), x)
    assert len(values) < x.numel() or values.min() < 0.9 or values.max() > 1.1, "nothing is lost or stretched"


def test_a_kernel_with_orthonormal_rows_is_no_isometry():
    """Its singular values are those of its Fourier transform: the reason for matrices over channels."""
    conv = nn.Conv2d(2, 18, 3, padding=1, padding_mode="circular", bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(torch.linalg.qr(torch.randn(18, 18, dtype=torch.float64)).Q.view(18, 2, 3, 3))
    conv = nn.Sequential(conv, nn.Flatten())
    x = torch.randn(2, 6, 6, dtype=torch.float64)
    # All nine taps of both channels, orthonormal: every input is seen nine times, with the norm of nine isometries.
    assert singular_values(conv, x).mean() == pytest.approx(3.0)
    few = nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", bias=False).double()
    with torch.no_grad():
        few.weight.copy_(torch.linalg.qr(torch.randn(18, 4, dtype=torch.float64)).Q.T.reshape(4, 2, 3, 3))
    values = singular_values(nn.Sequential(few, nn.Flatten()), x)
    kernel = torch.zeros(4, 2, 6, 6, dtype=torch.float64)
    kernel[..., :3, :3] = few.weight.detach()
    transform = torch.linalg.svdvals(torch.fft.fft2(kernel).permute(2, 3, 0, 1)).flatten()
    torch.testing.assert_close(values, transform.sort(descending=True).values)
    assert values.max() / values.min() > 1.5


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("weights", ["free", "orthonormal"])
def test_every_choice_can_be_trained(norm, activation, weights):
    network = ConvNet(channels=(6, 12), norm=norm, activation=activation, weights=weights)
    model = networks.build(network, (3, 8, 8), 5, seed=0)
    outputs = model(torch.randn(4, 3, 8, 8))
    assert outputs.shape == (4, 5)
    outputs.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_norms_are_what_they_are_called():
    x = torch.randn(5, 12, 8, 8) * 3 + 2

    def normed(norm):
        stage = networks.build(ConvNet(channels=(12,), norm=norm), (12, 8, 8), 5, seed=0).stage1
        return stage.norm(x) if norm != "none" else stage

    layer, group, batch = normed("layer"), normed("group"), normed("batch")
    torch.testing.assert_close(layer, nn.functional.layer_norm(x, x.shape[1:]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(group, nn.functional.group_norm(x, 4), atol=1e-5, rtol=1e-4)
    assert batch.mean((0, 2, 3)).abs().max() < 1e-5
    assert [name for name, _ in normed("none").named_children()] == ["conv", "relu"]
    assert normed("none").conv.bias is not None


def test_the_default_is_the_network_it_was():
    model = networks.build(ConvNet(), (3, 8, 8), 10, seed=0)
    assert [name for name, _ in model.named_children()] == ["stage1", "stage2", "stage3", "pool", "flatten", "head"]
    assert [name for name, _ in model.stage2.named_children()] == ["conv", "norm", "relu"]
    assert isinstance(model.stage2.norm, nn.BatchNorm2d)
    assert model.stage2.conv.bias is None


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="multiples of that, and the images have 9x8"):
        networks.build(ConvNet(channels=(4, 16), weights="orthonormal"), (1, 9, 8), 3, seed=0)
