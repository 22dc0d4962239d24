"""The paper's networks: sizes and outputs against formulas by hand, and the settings they are trained in."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from replastic import networks
from replastic.errors import UserError
from replastic.networks.resnet18 import BasicBlock, ResNet18
from replastic.networks.vgg16 import Vgg16
from replastic.networks.vit_tiny import VitTiny

PAIRS = {"resnet18": (3, 32, 32), "vit_tiny": (3, 32, 32), "vgg16": (3, 64, 64)}
"""The images each network is for."""


def tiny(name: str) -> tuple[nn.Module, Tensor]:
    """The smallest network of its kind that has every part, in float64, and a batch of images for it."""
    network = {
        "resnet18": ResNet18(width=4, blocks=(1, 2), head=(6,)),
        "vgg16": Vgg16(width=3, blocks=(1, 2), head=(6, 5)),
        "vit_tiny": VitTiny(patch=2, dim=6, depth=2, heads=3, mlp=8),
    }[name]
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 2, 8, 6, generator=generator, dtype=torch.float64)
    model = networks.build(network, images.shape[1:], 4, seed=0).double()
    with torch.no_grad():  # so that no part is at a value where leaving it out would not show
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand(value.shape, generator=generator, dtype=torch.float64)
    return model, images


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def linear(d_in: int, d_out: int) -> int:
    return (d_in + 1) * d_out


def conv_norm(c_in: int, c_out: int, kernel: int = 3) -> int:
    return c_in * c_out * kernel**2 + 2 * c_out


def resnet18_size(classes: int) -> int:
    block = [conv_norm(c, c) * 2 for c in (64, 128, 256, 512)]
    first_of_stage = [conv_norm(c // 2, c) + conv_norm(c, c) + conv_norm(c // 2, c, 1) for c in (128, 256, 512)]
    return conv_norm(3, 64) + block[0] + sum(block) + sum(first_of_stage) + linear(512, 512) + linear(512, classes)


def vgg16_size(classes: int) -> int:
    convolutions = (
        conv_norm(3, 64) + conv_norm(64, 64)
        + conv_norm(64, 128) + conv_norm(128, 128)
        + conv_norm(128, 256) + 2 * conv_norm(256, 256)
        + conv_norm(256, 512) + 2 * conv_norm(512, 512)
        + 3 * conv_norm(512, 512)
    )  # fmt: skip
    return convolutions + linear(512 * 2 * 2, 1024) + linear(1024, 1024) + linear(1024, classes)


def vit_tiny_size(classes: int) -> int:
    attention = 3 * 192 * 192 + linear(192, 192)
    block = 2 * 192 + attention + 2 * 192 + linear(192, 768) + linear(768, 192)
    tokens = linear(4 * 4 * 3, 192) + 192 + (8 * 8 + 1) * 192
    return tokens + 12 * block + 2 * 192 + linear(192, classes)


@pytest.mark.parametrize("classes", [10, 100, 200])
@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", resnet18_size), ("vgg16", vgg16_size), ("vit_tiny", vit_tiny_size)]
)
def test_full_size_networks_have_the_hand_computed_number_of_parameters(
    name: str, size: Callable[[int], int], classes: int
) -> None:
    assert count(networks.build(networks.get(name)(), PAIRS[name], classes, seed=0)) == size(classes)


def test_blocks_have_the_names_that_recipes_and_records_use() -> None:
    def weights(name: str) -> list[str]:
        model = networks.build(networks.get(name).reduced(), PAIRS[name], 10, seed=0)
        return [n.removesuffix(".weight") for n, p in model.named_parameters() if p.dim() > 1]

    assert weights("resnet18") == [
        "stem.conv",
        *("stage1.block1.conv1", "stage1.block1.conv2"),
        *(f"stage{s}.block1.{c}" for s in (2, 3, 4) for c in ("conv1", "conv2", "shortcut.conv")),
        *("hidden1.linear", "head"),
    ]
    assert weights("vgg16") == [
        *(f"stage{s}.block{b}.conv" for s, blocks in enumerate((2, 2, 3, 3, 3), 1) for b in range(1, blocks + 1)),
        *("hidden1.linear", "hidden2.linear", "head"),
    ]
    assert weights("vit_tiny") == [
        *("cls_token", "position", "patches"),
        *(
            f"block{b}.{layer}"
            for b in range(1, 5)
            for layer in ("attention.q", "attention.k", "attention.v", "attention.out", "mlp.fc1", "mlp.fc2")
        ),
        "head",
    ]


def by_hand_conv(x: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    """A convolution whose padding keeps the size, tap by tap."""
    pad = w.shape[2] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = (-(-(side - 2 * pad) // stride) for side in x.shape[2:])
    out = np.zeros((len(x), len(w), height, width))
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            window = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            out += np.einsum("oc,bchw->bohw", w[:, :, i, j], window)
    return out


class ByHand:
    """The networks' formulas in numpy, on the values of a state dict."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def conv(self, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        return by_hand_conv(x, self.values[f"{name}.weight"], stride)

    def batch_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean, var, gain, bias = (
            self.values[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gain + bias

    def layer_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.values[f"{name}.weight"] + self.values[f"{name}.bias"]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.values[f"{name}.weight"].T + self.values.get(f"{name}.bias", 0.0)

    def block(self, name: str, x: np.ndarray, stride: int) -> np.ndarray:
        inside = np.maximum(self.batch_norm(f"{name}norm1", self.conv(f"{name}conv1", x, stride)), 0)
        inside = self.batch_norm(f"{name}norm2", self.conv(f"{name}conv2", inside))
        if f"{name}shortcut.conv.weight" in self.values:
            x = self.batch_norm(f"{name}shortcut.norm", self.conv(f"{name}shortcut.conv", x, stride))
        return np.maximum(inside + x, 0)

    def resnet18(self, x: np.ndarray) -> np.ndarray:
        x = np.maximum(self.batch_norm("stem.norm", self.conv("stem.conv", x)), 0)
        x = self.block("stage1.block1.", x, 1)
        x = self.block("stage2.block2.", self.block("stage2.block1.", x, 2), 1)
        return self.linear("head", np.maximum(self.linear("hidden1.linear", x.mean((2, 3))), 0))

    def vgg16(self, x: np.ndarray) -> np.ndarray:
        for stage, blocks in ((1, 1), (2, 2)):
            for block in range(1, blocks + 1):
                name = f"stage{stage}.block{block}"
                x = np.maximum(self.batch_norm(f"{name}.norm", self.conv(f"{name}.conv", x)), 0)
            rows, columns = x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, : 2 * rows, : 2 * columns].reshape(*x.shape[:2], rows, 2, columns, 2).max((3, 5))
        x = x.reshape(len(x), -1)
        for hidden in ("hidden1", "hidden2"):
            x = np.maximum(self.linear(f"{hidden}.linear", x), 0)
        return self.linear("head", x)

    def vit_tiny(self, x: np.ndarray) -> np.ndarray:
        patch, heads = 2, 3
        patches = [
            x[:, :, i : i + patch, j : j + patch].reshape(len(x), -1)
            for i in range(0, x.shape[2], patch)
            for j in range(0, x.shape[3], patch)
        ]
        tokens = [np.repeat(self.values["cls_token"][0], len(x), 0), *(self.linear("patches", p) for p in patches)]
        x = np.stack(tokens, 1) + self.values["position"]
        gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))
        for block in ("block1", "block2"):
            normed = self.layer_norm(f"{block}.norm1", x)
            q, k, v = (np.split(self.linear(f"{block}.attention.{p}", normed), heads, -1) for p in "qkv")
            mixed = []
            for head in range(heads):
                scores = np.exp(q[head] @ k[head].transpose(0, 2, 1) / math.sqrt(q[head].shape[-1]))
                mixed.append(scores / scores.sum(-1, keepdims=True) @ v[head])
            x = x + self.linear(f"{block}.attention.out", np.concatenate(mixed, -1))
            hidden = gelu(self.linear(f"{block}.mlp.fc1", self.layer_norm(f"{block}.norm2", x)))
            x = x + self.linear(f"{block}.mlp.fc2", hidden)
        return self.linear("head", self.layer_norm("norm", x[:, 0]))


@pytest.mark.parametrize("name", PAIRS)
def test_outputs_equal_the_formulas_in_float64(name: str) -> None:
    model, images = tiny(name)
    expected = getattr(ByHand(model), name)(images.numpy())
    torch.testing.assert_close(model.eval()(images), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


@given(
    c_in=st.integers(1, 5),
    c_out=st.integers(1, 5),
    stride=st.sampled_from((1, 2)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_a_residual_block_of_any_size_equals_its_formula(
    c_in: int, c_out: int, stride: int, height: int, width: int
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = BasicBlock(c_in, c_out, stride).double().eval()
        x = torch.randn(2, c_in, height, width, dtype=torch.float64)
    assert isinstance(block.shortcut, nn.Identity) == (stride == 1 and c_in == c_out)
    expected = ByHand(block).block("", x.numpy(), stride)
    torch.testing.assert_close(block(x), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


@given(
    name=st.sampled_from(sorted(PAIRS)),
    channels=st.integers(1, 4),
    rows=st.integers(4, 17),
    columns=st.integers(4, 17),
    classes=st.integers(1, 7),
    stride=st.sampled_from((1, 2)),
)
@settings(max_examples=60, deadline=None)
def test_any_image_that_fits_gives_one_output_per_class(
    name: str, channels: int, rows: int, columns: int, classes: int, stride: int
) -> None:
    network = {
        "resnet18": ResNet18(width=3, blocks=(1, 1), stem_stride=stride, head=()),
        "vgg16": Vgg16(width=2, blocks=(1,), stem_stride=stride, head=(3,)),
        "vit_tiny": VitTiny(patch=3, dim=4, depth=1, heads=2, mlp=5),
    }[name]
    shape = (channels, 3 * rows, 3 * columns) if name == "vit_tiny" else (channels, rows, columns)
    model = networks.build(network, shape, classes, seed=0)
    outputs = model(torch.zeros(2, *shape))
    assert outputs.shape == (2, classes)
    outputs.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_vgg_works_on_cifar_images() -> None:
    model = networks.build(Vgg16(width=8), (3, 32, 32), 10, seed=0)
    assert model.hidden1.linear.in_features == 8 * 8
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", PAIRS)
def test_reduced_networks_keep_every_kind_of_part(name: str) -> None:
    def kinds(network: networks.Network) -> set[type[nn.Module]]:
        return {type(m) for m in networks.build(network, PAIRS[name], 10, seed=0).modules()}

    full, reduced = networks.get(name)(), networks.get(name).reduced()
    assert kinds(full) == kinds(reduced)
    assert type(full) is type(reduced)
    sizes = [count(networks.build(n, PAIRS[name], 10, seed=0)) for n in (full, reduced)]
    assert sizes[1] < sizes[0] / 10


def test_class_token_and_positions_start_small() -> None:
    model = networks.build(VitTiny(), PAIRS["vit_tiny"], 10, seed=0)
    for parameter in (model.cls_token, model.position):
        assert 0.015 < float(parameter.detach().std()) < 0.025


@pytest.mark.parametrize("name", PAIRS)
def test_a_symbolic_trace_computes_the_same(name: str) -> None:
    model, images = tiny(name)
    traced = fx.symbolic_trace(model.eval())
    assert torch.equal(traced(images), model(images))
    assert torch.equal(traced(images[:2]), model(images[:2]))  # the size of the batch is not traced in


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(model(images).double(), torch.arange(len(images)) % 4).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", PAIRS)
def test_channels_last_computes_the_same(name: str) -> None:
    model, images = tiny(name)
    expected = gradients(copy.deepcopy(model), images)
    model = model.to(memory_format=torch.channels_last)
    found = gradients(model, images.contiguous(memory_format=torch.channels_last))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_bfloat16_autocast_trains_every_parameter(name: str) -> None:
    model, images = tiny(name)
    model, images = model.float(), images.float()
    expected = gradients(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
        found = gradients(model, images)
    assert found.keys() == expected.keys()
    flat = [torch.cat([g.flatten() for g in grads.values()]) for grads in (found, expected)]
    assert float((flat[0] - flat[1]).norm() / flat[1].norm()) < 0.1  # eight bits of mantissa, a dozen layers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAIRS)
def test_compiled_networks_compute_the_same(name: str) -> None:
    model, images = tiny(name)
    expected = gradients(model, images)
    found = gradients(torch.compile(copy.deepcopy(model)), images)
    for key, value in expected.items():
        torch.testing.assert_close(found[f"_orig_mod.{key}"], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("network", "shape", "words"),
    [
        (ResNet18(), (3, 7, 9), "at least 8 pixels a side; the images have 7"),
        (ResNet18.reduced(), (3, 9, 15), "at least 16 pixels a side; the images have 9"),
        (Vgg16(), (3, 31, 64), "at least 32 pixels a side; the images have 31"),
        (VitTiny(patch=4), (3, 3, 8), "at least 4 pixels a side; the images have 3"),
        (VitTiny(patch=4), (3, 8, 30), r"both sides must be multiples of 4; the images have 8x30: choose another"),
        *((kind(), (64,), r"needs images .* got samples of shape \(64,\)") for kind in (ResNet18, Vgg16, VitTiny)),
    ],
)
def test_an_image_that_does_not_fit_is_refused_with_the_least_size(
    network: networks.Network, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        networks.build(network, shape, 10, seed=0)


@pytest.mark.parametrize(
    ("kind", "sizes", "words"),
    [
        (ResNet18, {"width": 0}, "resnet18: width must be at least 1, got 0"),
        (ResNet18, {"blocks": ()}, r"blocks must have at least one element, got \(\)"),
        (Vgg16, {"blocks": ()}, r"blocks must have at least one element, got \(\)"),
        (Vgg16, {"blocks": (1, 0)}, r"blocks must each be at least 1, got \(1, 0\)"),
        (Vgg16, {"head": (0,)}, r"vgg16: head must each be at least 1, got \(0,\)"),
        (VitTiny, {"depth": 0}, "depth must be at least 1, got 0"),
        (VitTiny, {"dim": 64}, "vit_tiny: dim must be a multiple of heads, got 64 and 3"),
    ],
)
def test_sizes_that_make_no_network_are_refused(kind: type, sizes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        kind(**sizes)
