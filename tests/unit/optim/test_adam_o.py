"""AdamO against Adam, against autograd's gradient of the penalty, and as a citizen of torch.optim."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from replastic.errors import UserError
from replastic.optim import AdamO
from replastic.optim import adam_o as module


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 4)).to(dtype)


def backward(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    p = next(model.parameters())
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64).to(p.dtype)
    model.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    return loss


def penalty(w: Tensor) -> Tensor:
    """||G - I||^2 of the smaller Gram matrix, straight from its definition."""
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return (gram - torch.eye(len(gram), dtype=w.dtype)).square().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_strength_it_is_adam_bit_for_bit(dtype: torch.dtype) -> None:
    ours, theirs = network(dtype=dtype), network(dtype=dtype)
    mine = AdamO(ours.parameters(), lr=1e-2, betas=(0.8, 0.99), eps=1e-6, isometry_strength=0)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.8, 0.99), eps=1e-6)
    for step in range(5):
        for model, optimizer in ((ours, mine), (theirs, adam)):
            backward(model, step)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


WAYS = [
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"amsgrad": True},
    {"maximize": True, "foreach": True},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_without_strength_it_is_adam_in_every_way_adam_can_be_run(way: dict[str, bool]) -> None:
    """With a closure and a scheduler; the last steps are those of a copy that went through a state dict."""
    ours, theirs = network(dtype=torch.float32), network(dtype=torch.float32)
    mine = AdamO(ours.parameters(), lr=1e-2, isometry_strength=0, **way)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, **way)
    schedules = [LambdaLR(optimizer, lambda step: 0.9**step) for optimizer in (mine, adam)]
    for step in range(6):
        if step == 3:
            saved = mine.state_dict()
            mine = AdamO(ours.parameters(), lr=7.0, isometry_strength=0, **way)
            mine.load_state_dict(saved)
            schedules[0].optimizer = mine
        losses = [o.step(lambda m=m, seed=step: backward(m, seed)).item() for m, o in ((ours, mine), (theirs, adam))]
        assert losses[0] == losses[1]
        for schedule in schedules:
            schedule.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in adam.state[b].items():
            assert torch.equal(mine.state[a][name], value), name


def test_the_saved_state_of_adam_can_be_loaded() -> None:
    model = network()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    backward(model, 0)
    adam.step()
    other = copy.deepcopy(model)
    mine = AdamO(other.parameters(), isometry_strength=0.3)
    mine.load_state_dict(copy.deepcopy(adam.state_dict()))
    (group,) = mine.param_groups
    assert (group["isometry_strength"], group["isometry_lr"]) == (0.3, None)
    assert group.get("decoupled_weight_decay", True), "torch before 2.7 has no such key"
    group["isometry_strength"] = 0
    for net, optimizer in ((model, adam), (other, mine)):
        backward(net, 1)
        optimizer.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_hooks_of_a_step_are_called_once() -> None:
    model = network()
    torch.optim.AdamW(network().parameters())  # from then on torch calls hooks in AdamW's own step
    optimizer, calls = AdamO(model.parameters()), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    backward(model, 0)
    optimizer.step()
    assert calls == ["before", "after"]


@pytest.mark.parametrize("how", ["made", "copied"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_that_finds_infinite_gradients_skips_both_steps(fused: bool, how: str) -> None:
    model = network(dtype=torch.float32)
    optimizer = AdamO(model.parameters(), lr=1e-2, isometry_strength=1.0, fused=fused)
    if how == "copied":
        model, optimizer = copy.deepcopy((model, optimizer))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for value, moves in ((float("inf"), False), (1.0, True)):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(2, 6)).sum()).backward()
        model[0].weight.grad[0, 0] *= value
        scaler.step(optimizer)
        scaler.update()
        assert [not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)] == [moves] * 6


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("isometry_lr", [None, 3e-2])
def test_a_step_is_adamw_beside_the_gradient_of_the_penalty(decay: float, isometry_lr: float | None) -> None:
    ours, theirs = network(), network()
    mine = AdamO(ours.parameters(), lr=1e-2, weight_decay=decay, isometry_strength=0.5, isometry_lr=isometry_lr)
    adam = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=decay)
    for step in range(3):
        backward(ours, step)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.grad = p.grad.clone()
        with torch.no_grad():
            for q in theirs.parameters():
                if q.dim() == 2:
                    leaf = q.detach().clone().requires_grad_()
                    with torch.enable_grad():
                        (gradient,) = torch.autograd.grad(penalty(leaf), leaf)
                    q -= (isometry_lr or 1e-2) * 0.5 * gradient
        adam.step()
        mine.step()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_moments_see_the_task_gradient_alone() -> None:
    ours, theirs = network(), network()
    mine = AdamO(ours.parameters(), isometry_strength=10.0)
    adam = torch.optim.Adam(theirs.parameters())
    backward(ours, 0), backward(theirs, 0)
    mine.step(), adam.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(mine.state[p][name], adam.state[q][name])


@settings(max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    together=st.sampled_from([1, 40, 1 << 18]),
    part=st.sampled_from([1, 7, 1 << 16]),
)
def test_stacks_and_slices_do_not_change_the_step(shapes: list[tuple[int, int, int]], together: int, part: int) -> None:
    generator = torch.Generator().manual_seed(1)
    blocks = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    expected = []
    for block in blocks:
        leaf = block.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(sum(penalty(w) for w in leaf), leaf)
        expected.append(block - 0.01 * gradient)
    patch = pytest.MonkeyPatch()
    with patch.context() as limits:
        limits.setattr(module, "TOGETHER", together)
        limits.setattr(module, "SLICE", part)
        module.isometry_step_(blocks, 0.01)
    for found, wanted in zip(blocks, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_alone_the_step_leads_to_an_isometry() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.eye(5, 8, dtype=torch.float64) + 0.3 * torch.randn(5, 8, generator=generator, dtype=torch.float64)
    for _ in range(2000):
        module.isometry_step_([w.unsqueeze(0)], 0.02)
    torch.testing.assert_close(w @ w.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("share", "shrinks"), [(0.9, True), (1.1, False)])
def test_the_step_overshoots_from_the_stated_size_on(share: float, shrinks: bool) -> None:
    s, strength = 4.0, 0.5
    lr = share / (2 * strength * (s**2 - 1))
    w = s * torch.eye(3, dtype=torch.float64).unsqueeze(0)
    module.isometry_step_([w], lr * strength)
    assert (float(w.abs().max()) < s) == shrinks


def test_groups_have_their_own_strength() -> None:
    model = network()
    first, second = [p for p in model.parameters() if p.dim() == 2][:2]
    others = [p for p in model.parameters() if p is not first and p is not second]
    optimizer = AdamO(
        [{"params": [first], "isometry_strength": 0.0}, {"params": [second]}, {"params": others}],
        lr=0.0,
        isometry_strength=1.0,
        isometry_lr=1e-3,
    )
    before = [p.detach().clone() for p in (first, second)]
    backward(model, 0)
    optimizer.step()
    assert torch.equal(first, before[0])
    assert not torch.equal(second, before[1])


@pytest.mark.parametrize("isometry_lr", [None, 0.5])
@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_a_scheduler_scales_both_steps(factor: float, isometry_lr: float | None) -> None:
    scheduled, plain = network(), network()
    ours = AdamO(scheduled.parameters(), lr=0.02, isometry_strength=0.1, isometry_lr=isometry_lr)
    LambdaLR(ours, lambda _: factor)
    own = None if isometry_lr is None else factor * isometry_lr
    theirs = AdamO(plain.parameters(), lr=factor * 0.02, isometry_strength=0.1, isometry_lr=own)
    for model, optimizer in ((scheduled, ours), (plain, theirs)):
        backward(model, 0)
        optimizer.step()
    for a, b in zip(scheduled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)


def test_a_parameter_without_gradient_stays() -> None:
    model = network()
    backward(model, 0)
    unused = model[2].weight
    unused.grad = None
    before = unused.detach().clone()
    AdamO(model.parameters(), isometry_strength=1.0).step()
    assert torch.equal(unused, before)


def test_a_closure_is_called_once_before_anything_moves() -> None:
    model = network()
    optimizer = AdamO(model.parameters(), isometry_strength=1.0)
    start = copy.deepcopy(model.state_dict())
    calls = []

    def closure() -> Tensor:
        calls.append(all(torch.equal(v, start[k]) for k, v in model.state_dict().items()))
        return backward(model, 0)

    assert optimizer.step(closure).item() == backward(network(), 0).item()
    assert calls == [True]


class Halves:
    """A fused weight of two matrices."""

    def split(self, weight: Tensor) -> list[Tensor]:
        return [block.unsqueeze(0) for block in weight.chunk(2)]


def halves_of(model: nn.Sequential) -> dict[Tensor, Halves]:
    return {model[2].weight: Halves()}


@pytest.mark.parametrize("cuts", [lambda model: None, halves_of], ids=["every matrix", "halves"])
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_it_goes_on_from_a_saved_state(how: str, cuts: Callable[[nn.Sequential], dict[Tensor, Halves] | None]) -> None:
    model = network()
    optimizer = AdamO(model.parameters(), lr=1e-2, isometry_strength=0.3, matrices=cuts(model))
    backward(model, 0)
    optimizer.step()
    if how == "state_dict":
        other = copy.deepcopy(model)
        resumed = AdamO(other.parameters(), lr=5.0, matrices=cuts(other))
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif how == "pickle":
        other, resumed = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        other, resumed = copy.deepcopy((model, optimizer))
    assert resumed.param_groups[0]["isometry_strength"] == 0.3
    for net, stepper in ((model, optimizer), (other, resumed)):
        backward(net, 1)
        stepper.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


class Taps:
    """A kernel (C_out, C_in, taps), one matrix a tap."""

    def split(self, weight: Tensor) -> list[Tensor]:
        return [weight.permute(2, 0, 1)]


class Copied(Taps):
    """The same in memory of its own."""

    def split(self, weight: Tensor) -> list[Tensor]:
        return [weight.permute(2, 0, 1).clone()]

    def write_(self, weight: Tensor, parts: list[Tensor]) -> None:
        weight.copy_(parts[0].permute(1, 2, 0))


@pytest.mark.parametrize("kernels", [Taps(), Copied()])
def test_cuts_choose_matrices_inside_a_weight(kernels: Taps) -> None:
    fused = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    kernel = nn.Parameter(torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    cuts = {fused: Halves(), kernel: kernels}
    expected = []
    for weight, cut in cuts.items():
        leaf = weight.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(sum(penalty(m) for block in cut.split(leaf) for m in block), leaf)
        expected.append(weight.detach() - 0.02 * gradient)
    fused.grad, kernel.grad = torch.zeros_like(fused), torch.zeros_like(kernel)
    AdamO([fused, kernel], lr=1e-2, isometry_strength=2.0, matrices=cuts).step()
    for weight, wanted in zip(cuts, expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=1e-10, atol=1e-12)


def test_half_precision_steps_are_computed_in_float32() -> None:
    w = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = w.double()
    module.isometry_step_([w], 0.01)
    module.isometry_step_([exact], 0.01)
    assert torch.equal(w, exact.bfloat16()) or (w.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"isometry_strength": -1.0}, "isometry_strength must be 0 or more"),
        ({"isometry_strength": float("nan")}, "isometry_strength must be 0 or more"),
        ({"isometry_lr": -1.0}, "isometry_lr must be 0 or more"),
        ({"isometry_strength": None}, "isometry_strength must be a number"),
        ({"isometry_strength": "1"}, "isometry_strength must be a number, got '1'"),
        ({"isometry_strength": True}, "isometry_strength must be a number, got True"),
        ({"isometry_lr": float("inf")}, "isometry_lr must be 0 or more and finite, got inf"),
        ({"matrices": ["0.weight"]}, r"as replastic\.matrices\(model\) does, got list"),
        ({"lr": -1.0}, "learning rate"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamO(network().parameters(), **wrong)


def test_a_cut_without_batches_of_matrices_and_a_network_without_matrices_are_refused() -> None:
    class Flat(Halves):
        def split(self, weight: Tensor) -> list[Tensor]:
            return [weight]

    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(UserError, match=r"must give batches of matrices .* got the shape \(2, 2\)"):
        AdamO([weight], matrices={weight: Flat()})
    with pytest.raises(UserError, match="no matrix"):
        AdamO([nn.Parameter(torch.ones(3))])
