"""The empirical NTK against dense Jacobians in float64, whole and as a sum over layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from replastic.errors import UserError
from replastic.probes import ntk


def dense(model: nn.Module, x: Tensor, read: Callable[[Any], Tensor] = lambda y: y) -> Tensor:
    """J J^T with J from torch's dense Jacobian of the whole batch, in float64 and evaluation mode."""
    training = model.training
    model = model.double().eval()
    named = dict(model.named_parameters())
    trained = {n: p.detach() for n, p in named.items() if p.requires_grad}

    def outputs(flat: Tensor) -> Tensor:
        pieces = flat.split([p.numel() for p in trained.values()])
        given = {n: v.view_as(p) for (n, p), v in zip(trained.items(), pieces, strict=True)}
        return read(functional_call(model, given, (x.double(),))).reshape(-1)

    flat = torch.cat([p.reshape(-1) for p in trained.values()])
    j = torch.autograd.functional.jacobian(outputs, flat)
    model.train(training)
    return j @ j.mT


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6, bias=False), nn.Tanh(), nn.Linear(6, 3))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 2, dilation=2, padding="same", bias=False),
        nn.Conv2d(3, 3, (1, 3), padding=(0, 1), padding_mode="circular"),
        nn.Flatten(),
        nn.LayerNorm(27),
        nn.Linear(27, 4),
        nn.GELU(),
        nn.Linear(4, 3),
    )


class Tokens(nn.Module):
    """Linears on sequences, with tied weights, attention and a convolution along the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(2, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.wide = nn.LayerNorm((4, 4))
        self.along = nn.Conv1d(4, 4, 3, padding=1)
        self.twice = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.along_out = nn.Parameter(torch.randn(4, 4) / 2)
        self.head = parametrizations.orthogonal(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x.unflatten(1, (-1, 2)))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        h = self.wide(h + self.along(self.norm(h).mT).mT)
        h = self.twice(torch.tanh(self.twice(h)))
        h = h + torch.sin(self.tied(h)) @ self.along_out
        return self.head(h.mean(1))


class OverSamples(nn.Module):
    """Its outputs depend on the other samples of the batch, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Linear(4, 5),
            nn.BatchNorm1d(5, track_running_stats=False),
            nn.Linear(5, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


class Decides(nn.Module):
    """Values decide what is run, which torch.func refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.stack([row.sum() if float(row.sum()) > 0 else row.prod() for row in x])
        return scale[:, None] * torch.sin(x @ self.weight)


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "convnet": (convnet, (2, 6, 6)),
    "tokens": (Tokens, (8,)),
    "over samples": (OverSamples, (4,)),
    "decides": (Decides, (4,)),
}


def made(name: str, samples: int = 4) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model, torch.randn(samples, *shape)


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_whole_kernel_is_that_of_the_dense_jacobian(name: str, products: bool) -> None:
    model, x = made(name)
    found = ntk(model, x, products=products).matrix
    expected = dense(model, x)
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["full", "trace", "sum"])
@pytest.mark.parametrize("name", ["mlp", "convnet", "tokens", "over samples"])
def test_kinds_and_their_sum_over_layers(name: str, kind: Any) -> None:
    model, x = made(name)
    found = ntk(model, x, kind=kind, by_layer=True)
    whole = dense(model, x).view(4, found.outputs, 4, found.outputs)
    expected = {
        "full": whole.flatten(2).flatten(0, 1),
        "trace": whole.diagonal(dim1=1, dim2=3).mean(-1),
        "sum": whole.sum((1, 3)),
    }[kind]
    assert torch.allclose(found.matrix, expected, rtol=1e-9, atol=1e-9)
    assert torch.allclose(sum(part.kernel for part in found.layers.values()), expected, rtol=1e-9, atol=1e-9)
    for part in found.layers.values():
        if part.forward is not None:
            assert part.backward is not None
            copies = found.outputs if kind == "full" else 1
            forward = part.forward.repeat_interleave(copies, 0).repeat_interleave(copies, 1)
            assert torch.allclose(forward * part.backward, part.kernel, rtol=1e-9, atol=1e-9)


def test_which_parameters_are_products() -> None:
    assert set(ntk(*made("mlp"), by_layer=True).layers) == {"0.weight", "2.weight", "4.weight"}
    assert set(ntk(*made("convnet"), by_layer=True).layers) == {f"{i}.weight" for i in (0, 1, 3, 4, 6, 7, 9)}
    assert set(ntk(*made("tokens"), by_layer=True).layers) == {
        "enter.weight",
        "norm.weight",
        "along.weight",
        "head.bias",
        "rest",
    }
    assert set(ntk(*made("over samples"), by_layer=True).layers) == {"rest"}


def test_a_layer_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(2)
        model[0].bias.fill_(1)
        model[1].weight.copy_(torch.tensor([[1.0], [3.0]]))
    found = ntk(model, torch.tensor([[1.0], [-1.0]]), by_layer=True)
    first = torch.tensor([[2.0, 0], [0, 2]]).double()  # x_n x_m + 1 for x = 1, -1
    head = torch.tensor([[1.0, 3], [3, 9]]).double()
    assert torch.equal(found.layers["0.weight"].kernel, torch.kron(first, head))
    hidden = torch.tensor([[9.0, -3], [-3, 1]]).double()  # 2 x + 1 = 3, -1
    assert torch.equal(found.layers["1.weight"].kernel, torch.kron(hidden, torch.eye(2).double()))


def test_frozen_parameters_have_no_part() -> None:
    model, x = made("mlp")
    model[0].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    found = ntk(model, x, by_layer=True)
    assert torch.allclose(found.matrix, dense(model, x))
    assert set(found.layers) == {"0.bias", "2.weight", "4.weight"}


@pytest.mark.parametrize("products", [True, False])
def test_blocks_of_any_size_give_the_same(products: bool) -> None:
    model, x = made("convnet", samples=6)
    whole = ntk(model, x, products=products)
    least = None
    for memory_gb in (1e-3, 2e-4, 1e-4, 7e-5, 5e-5, 4e-5, 3e-5):
        try:
            tight = ntk(model, x, products=products, memory_gb=memory_gb)
        except UserError:
            continue
        least = memory_gb
        assert torch.allclose(tight.matrix, whole.matrix, rtol=1e-12, atol=1e-12)
    assert least is not None
    assert least < 1e-4


def test_eigenvalues_condition_and_effective_rank() -> None:
    model, x = made("mlp")
    found = ntk(model, x)
    values = torch.linalg.eigvalsh(dense(model, x)).flip(0)
    assert torch.allclose(found.eigenvalues, values, atol=1e-9)
    assert found.condition_number == pytest.approx(float(values[0] / values[-1]), rel=1e-6)
    share = values / values.sum()
    assert found.effective_rank == pytest.approx(float(torch.exp(-(share * share.log()).sum())))


def test_singular_kernels() -> None:
    doubled = ntk(nn.Linear(3, 2), torch.ones(2, 3))
    assert doubled.condition_number == float("inf")
    assert doubled.effective_rank == pytest.approx(2)
    dead = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)
    silent = ntk(dead, torch.randn(3, 2))
    assert torch.equal(silent.matrix, torch.zeros(3, 3).double())
    assert (silent.condition_number, silent.effective_rank) == (float("inf"), 0.0)


@settings(deadline=None, max_examples=15)
@given(width=st.integers(2, 9), depth=st.integers(1, 6), bias=st.booleans(), seed=st.integers(0, 10**6))
def test_a_deep_orthogonal_linear_net_is_isotropic(width: int, depth: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(width, width, bias=bias) for _ in range(depth))).double()
    for layer in model:
        nn.init.orthogonal_(layer.weight)
        if bias:
            nn.init.zeros_(layer.bias)
    x = torch.linalg.qr(torch.randn(width, width).double()).Q  # orthonormal inputs
    whole, parts = ntk(model, x, products=False), ntk(model, x, by_layer=True)
    # A trainable bias adds the same gradient for every sample: a forward Gram matrix of ones.
    forward = torch.eye(width).double() + float(bias)
    layer = torch.kron(forward, torch.eye(width).double())
    assert torch.allclose(whole.matrix, depth * layer, atol=1e-10)
    assert torch.allclose(parts.matrix, depth * layer, atol=1e-10)
    for part in parts.layers.values():
        assert torch.allclose(part.kernel, layer, atol=1e-10)
        assert torch.allclose(part.forward, forward, atol=1e-10)
    for found in (whole, parts):
        assert found.condition_number == pytest.approx(1 + width if bias else 1, rel=1e-8)
    assert bias or parts.effective_rank == pytest.approx(width * width)


def test_it_leaves_no_trace() -> None:
    model, x = made("convnet")
    model.train()
    model[3].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given_x, rng = x.clone(), torch.get_rng_state()
    ntk(model, x, by_layer=True)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, given_x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, True, True, False] + [True] * 6
    assert all(torch.equal(p.grad, torch.ones_like(p)) and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_loss_shows_how_the_model_is_called() -> None:
    model, x = made("mlp")
    batch = {"pixels": x, "labels": torch.tensor([0, 1, 2, 0])}

    class Reply:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, *, pixels: Tensor) -> Reply:
            return Reply(self.inner(pixels))

    wrapped = Wrapped()

    def loss_fn(m: nn.Module, b: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(m(pixels=b["pixels"]).logits, b["labels"])

    expected = ntk(model, x).matrix
    assert torch.equal(ntk(wrapped, batch, loss_fn).matrix, expected)
    assert torch.equal(ntk(model, (x, batch["labels"])).matrix, expected)
    for fewer in ({"samples": 2}, {"entries": 7}):
        assert torch.allclose(ntk(model, x, **fewer).matrix, expected[:6, :6], rtol=1e-12, atol=1e-12)
    second = ntk(model, x, outputs=lambda out: out[:, 1]).matrix
    assert torch.allclose(second, expected[1::3, 1::3])


def test_a_model_that_float64_does_not_suit_keeps_its_dtype() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2))
            self.constant = torch.randn(3, 3)  # no buffer, so it stays in float32

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.constant) @ self.weight

    torch.manual_seed(0)
    model, x = Single(), torch.randn(3, 3)
    h = torch.tanh(x @ model.constant)
    found = ntk(model, x)
    assert found.matrix.dtype == torch.float32
    assert torch.allclose(found.matrix, torch.kron(h @ h.mT, torch.eye(2)), atol=1e-5)


def test_what_cannot_be_asked() -> None:
    model, x = made("mlp")
    size = r"the kernel of 4 samples and 3 outputs would take \S+ GB"
    with pytest.raises(UserError, match=rf"{size}, more than memory_gb=1e-06: pass samples=1 or kind='trace' or mem"):
        ntk(model, x, memory_gb=1e-6)
    with pytest.raises(
        UserError, match=rf"{size} with the gradients at 0.weight, more than memory_gb=5e-06: pass samp"
    ):
        ntk(model, x, memory_gb=5e-6)
    with pytest.raises(UserError, match=rf"{size} with the gradients of one sample, more"):
        ntk(model, x, memory_gb=6e-6, products=False)
    with pytest.raises(UserError, match="kind must be one of full, trace, sum, got 'half'"):
        ntk(model, x, kind="half")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="samples must be a whole number of at least 1, got 0"):
        ntk(model, x, samples=0)
    limits = [1e-6]
    while True:
        try:
            ntk(model, x, memory_gb=limits[-1])
            break
        except UserError as refused:
            limits.append(float(str(refused).rpartition("memory_gb=")[2]))  # as it says
    assert len(limits) <= 4, "a refusal for the kernel alone, and one for each kind of gradients beside it"
    with pytest.raises(UserError, match="memory_gb must be above 0"):
        ntk(model, x, memory_gb=0)
    with pytest.raises(UserError, match="no trainable parameter: set requires_grad=True"):
        ntk(mlp().requires_grad_(False), x)
    with pytest.raises(UserError, match="no trainable parameter"):
        ntk(nn.ReLU(), x)
    with pytest.raises(UserError, match=r"must return the mean loss as a tensor of one number, got a tensor of shape"):
        ntk(model, x, lambda m, b: m(b))
    with pytest.raises(UserError, match="loss_fn does not call the model"):
        ntk(model, x, lambda m, b: m[0](b).sum())
    with pytest.raises(
        UserError, match=r"real numbers \(samples, outputs\), got torch.float32 \(4, 6, 5, 5\): pass outp"
    ):
        ntk(nn.Conv2d(2, 6, 2), torch.randn(4, 2, 6, 6))
    with pytest.raises(UserError, match=r"must be a tensor \(samples, outputs\), got tuple: pass outputs="):
        ntk(nn.LSTM(2, 2), torch.randn(4, 3, 2))
    with pytest.raises(UserError, match="NaN or infinite"):
        ntk(model, torch.full((2, 5), torch.inf))
    with pytest.raises(UserError, match="holds no samples"):
        ntk(model, torch.zeros(0, 5))
    with torch.inference_mode(), pytest.raises(UserError, match=r"torch.inference_mode\(\) forbids"):
        ntk(model, x)
