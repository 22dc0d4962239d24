"""The gradient of every penalty in float64: by the formula of its paper, and by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError

RunOn = Callable[..., methods.Run]
Gradients = dict[str, Tensor]

STRENGTH = 0.3


class Net(nn.Module):
    """A kernel with taps and groups, a wide and a tall Linear, a norm, and a fused q, k and v."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, (1, 2), groups=2)
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Linear(6, 3)
        self.tall = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        x = self.tall(torch.tanh(self.wide(x)))
        return self.head(torch.tanh(self.attention(x, x, x)[0]).mean(1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def cut(name: str, w: Tensor, kernels: str) -> list[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """The matrices in a weight by hand, each with a function that puts its gradient back into the weight's shape."""

    def at(place: tuple[object, ...]) -> Callable[[Tensor], Tensor]:
        def put(gradient: Tensor) -> Tensor:
            whole = torch.zeros_like(w)
            whole[place] = gradient.reshape(whole[place].shape)
            return whole

        return put

    if name == "conv.weight":
        groups = [slice(0, 3), slice(3, 6)]
        if kernels == "joined":
            return [(w[rows].flatten(1), at((rows,))) for rows in groups]
        places = [(rows, slice(None), 0, tap) for rows in groups for tap in range(2)]
        return [(w[place], at(place)) for place in places]
    if name == "attention.in_proj_weight":
        return [(w[block * 4 : block * 4 + 4], at((slice(block * 4, block * 4 + 4),))) for block in range(3)]
    return [(w, at((slice(None),)))]


MATRICES = ("conv.weight", "wide.weight", "tall.weight", "attention.in_proj_weight", "attention.out_proj.weight")


def of_matrices(model: Net, kernels: str, formula: Callable[[Tensor], Tensor], *, head: bool = False) -> Gradients:
    names = (*MATRICES, "head.weight") if head else MATRICES
    found = {}
    for name in names:
        w = model.get_parameter(name).detach()
        found[name] = STRENGTH * sum((put(formula(m)) for m, put in cut(name, w, kernels)), torch.zeros_like(w))
    return found


def isometry(w: Tensor) -> Tensor:
    """Of ||G - I||_F^2, G the smaller Gram matrix: 4 (W W^T - I) W or 4 W (W^T W - I)."""
    m, n = w.shape
    return 4 * (w @ w.T - torch.eye(m).to(w)) @ w if m <= n else 4 * w @ (w.T @ w - torch.eye(n).to(w))


def parseval(w: Tensor) -> Tensor:
    """Of ||W W^T - s I||_F^2 with s = 1.5: 4 (W W^T - s I) W."""
    return 4 * (w @ w.T - 1.5 * torch.eye(len(w)).to(w)) @ w


def spectral(w: Tensor) -> Tensor:
    """Of (sigma^2 - 1)^2: 4 sigma (sigma^2 - 1) u v^T."""
    u, s, vh = torch.linalg.svd(w)
    return 4 * s[0] * (s[0] ** 2 - 1) * torch.outer(u[:, 0], vh[0])


def penalty_of(spec: str, run: methods.Run) -> Callable[[], Tensor]:
    method = methods.from_spec(spec)
    methods.check_needs(method, run)
    method.setup(run)

    def value() -> Tensor:
        found = method.penalty(run)
        assert found is not None
        return found

    return value


def check(model: Net, value: Callable[[], Tensor], wanted: Gradients) -> None:
    """The gradient is that of the formula, zero elsewhere, and that of finite differences in every entry."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value(), list(named.values()), materialize_grads=True, allow_unused=True)
    for (name, p), gradient in zip(named.items(), found, strict=True):
        torch.testing.assert_close(gradient, wanted.get(name, torch.zeros_like(p)), rtol=1e-9, atol=1e-12, msg=name)
    pulled = [named[name] for name in wanted]
    # The live parameters are what gradcheck moves, so the function needs no arguments.
    assert torch.autograd.gradcheck(lambda *_: value(), pulled, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kernels", ["taps", "joined"])
def test_isometry(kernels: str, net: Net, run_on: RunOn) -> None:
    value = penalty_of(f"isometry:strength={STRENGTH},kernels={kernels}", run_on(net))
    check(net, value, of_matrices(net, kernels, isometry))


@pytest.mark.parametrize("kernels", ["taps", "joined"])
def test_parseval(kernels: str, net: Net, run_on: RunOn) -> None:
    value = penalty_of(f"parseval:strength={STRENGTH},s=1.5,kernels={kernels}", run_on(net))
    gain = net.norm.weight.detach()
    check(net, value, of_matrices(net, kernels, parseval) | {"norm.weight": STRENGTH * 4 * (gain**2 - 1.5) * gain})


@pytest.mark.parametrize("kernels", ["taps", "joined"])
def test_spectral(kernels: str, net: Net, run_on: RunOn) -> None:
    value = penalty_of(f"spectral:strength={STRENGTH},iterations=0,kernels={kernels}", run_on(net))
    wanted = of_matrices(net, kernels, spectral, head=True)
    gain = net.norm.weight.detach()
    largest = torch.zeros_like(gain)
    largest[gain.abs().argmax()] = gain[gain.abs().argmax()]
    wanted["norm.weight"] = STRENGTH * 4 * (largest**2 - 1) * largest
    for name, p in net.named_parameters():
        if name.endswith("bias"):  # of ||b||^4
            wanted[name] = STRENGTH * 4 * p.detach().square().sum() * p.detach()
    check(net, value, wanted)


def test_spectral_by_power_iteration(net: Net, run_on: RunOn) -> None:
    exact = penalty_of("spectral:iterations=0", run_on(net))
    iterated = penalty_of("spectral:iterations=500", run_on(net))
    named = list(net.parameters())
    for ours, wanted in zip(torch.autograd.grad(iterated(), named), torch.autograd.grad(exact(), named), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-9)


def test_l2(net: Net, run_on: RunOn) -> None:
    wanted = {name: STRENGTH * p.detach() for name, p in net.named_parameters()}
    check(net, penalty_of(f"l2:strength={STRENGTH}", run_on(net)), wanted)


def test_l2_init(net: Net, run_on: RunOn) -> None:
    init = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    wanted = {name: STRENGTH * (p.detach() - init[name]) for name, p in net.named_parameters()}
    check(net, penalty_of(f"l2_init:strength={STRENGTH}", run_on(net, init=init)), wanted)


def test_ewc(net: Net, run_on: RunOn) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 4, 1, 4, generator=g, dtype=torch.float64), torch.randint(0, 2, (5,), generator=g)
    run = run_on(
        net,
        batches=lambda: [(x, y)],
        past_batches=lambda: [(x, y)],
        loss_fn=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        phase=1,
    )
    method = methods.from_spec(f"ewc:strength={STRENGTH},samples=5")
    methods.check_needs(method, run)
    method.setup(run)
    anchor = {name: p.detach().clone() for name, p in net.named_parameters()}
    squares = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for i in range(5):
        loss = nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        for (name, _), gradient in zip(
            net.named_parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True
        ):
            squares[name] += gradient.square() / 5
    method.on_boundary(run)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    wanted = {n: STRENGTH * squares[n] * (p.detach() - anchor[n]) for n, p in net.named_parameters()}

    def value() -> Tensor:
        found = method.penalty(run)
        assert found is not None
        return found

    check(net, value, wanted)


@pytest.mark.parametrize("kernels", ["taps", "joined"])
@pytest.mark.parametrize("recipe", ["default", "paper-vit"])
def test_isometry_parseval_and_spectral_act_on_identical_matrices_with_the_same_options(
    kernels: str, recipe: str, net: Net, run_on: RunOn
) -> None:
    """They read the same numbers: the penalties of matrices that differ from one another would differ."""
    options = f"targets=role:matrix|head,kernels={kernels}"
    specs = (
        f"isometry:{options}",
        f"parseval:{options},norms=false",
        f"spectral:{options},others=false,iterations=0",
    )
    seen = []
    for spec in specs:
        method = methods.from_spec(spec)
        run = run_on(net, recipe=recipe)
        methods.check_needs(method, run)
        method.setup(run)
        seen.append([(info.label, rows.detach().clone()) for info, rows in method._matrices])
        assert method.penalty(run) is not None
    assert len(seen[0]) == 8, "conv, wide, tall, q, k, v, out_proj and the head"
    for other in seen[1:]:
        assert [label for label, _ in other] == [label for label, _ in seen[0]]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen[0], other, strict=True))
    expected = torch.cat([m.flatten() for name in (*MATRICES, "head.weight")
                          for m, _ in cut(name, net.get_parameter(name).detach(), kernels)])  # fmt: skip
    given = torch.cat([rows.flatten() for _, rows in seen[0]])
    torch.testing.assert_close(given.sort().values, expected.sort().values, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["isometry", "parseval", "spectral", "l2", "l2_init", "ewc"])
def test_a_negative_strength_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"strength must be at least 0(\.0)?, got -0\.1"):
        methods.from_spec(f"{name}:strength=-0.1")
