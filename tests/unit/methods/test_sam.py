"""SAM against its equation by autograd in float64, and that nothing but the gradient is left of the second pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import replastic
from replastic.errors import UserError
from replastic.probes.quiet import is_probed

Weights = Mapping[str, Tensor]
RHO = 0.3


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=draw, dtype=torch.float64), torch.randint(3, (8,), generator=draw)


def loss_of(model: nn.Module, weights: Weights) -> Tensor:
    inputs, targets = batch()
    return functional.cross_entropy(functional_call(model, dict(weights), (inputs,)), targets)


def slopes(loss: Callable[[Weights], Tensor], weights: Weights) -> dict[str, Tensor]:
    leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    found = torch.autograd.grad(loss(leaves), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def by_hand(loss: Callable[[Weights], Tensor], weights: Weights, moved: list[str]) -> dict[str, Tensor]:
    """grad L(w + rho g / ||g||), straight from the paper; only `moved` weights take the step."""
    g = slopes(loss, weights)
    norm = torch.cat([g[name].flatten() for name in moved]).norm()
    there = {n: w.detach() + (RHO * g[n] / norm if n in moved else 0) for n, w in weights.items()}
    return slopes(loss, there)


def compute(method: Any, model: nn.Module) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        model.zero_grad()
        inputs, targets = batch()
        loss, penalty = functional.cross_entropy(model(inputs), targets), method.penalty()
        whole = loss if penalty is None else loss + penalty
        whole.backward()
        return whole.detach()

    return closure


CASES: list[tuple[str, tuple[str, ...], Callable[[Weights], Tensor | float]]] = [
    (f"sam:rho={RHO}", (), lambda weights: 0.0),
    (f"sam:rho={RHO}+l2:strength=0.5", (), lambda weights: 0.25 * sum(w.square().sum() for w in weights.values())),
    (f"ewc+sam:rho={RHO}", ("1",), lambda weights: 0.0),
]


@pytest.mark.parametrize(("spec", "excluded", "penalty"), CASES)
def test_the_gradient_is_that_at_the_highest_point_nearby(
    spec: str, excluded: tuple[str, ...], penalty: Callable[[Weights], Tensor | float]
) -> None:
    model, twin = small(), small()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(weights: Weights) -> Tensor:
        return loss_of(twin, weights) + penalty(weights)

    wanted = by_hand(loss, weights, [n for n in weights if n.split(".")[0] not in excluded])
    given: dict[str, Any] = {"batches": [batch()], "loss_fn": lambda m, b: functional.cross_entropy(m(b[0]), b[1])}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with replastic.during(spec, model, optimizer, exclude_modules=excluded, **given) as method:
        found = method.backward(compute(method, model))
        assert float(found) == pytest.approx(float(loss(weights)), rel=1e-12)
        for name, p in model.named_parameters():
            assert torch.equal(p, weights[name]), "weights come back to the bit"
            torch.testing.assert_close(p.grad, wanted[name], rtol=1e-9, atol=1e-12)
        method.optimizer.step()
        method.after_update()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name] - 0.1 * wanted[name], rtol=1e-9, atol=1e-12)


def test_the_second_pass_leaves_no_statistics_and_is_no_training_pass() -> None:
    model, plain = small(), small()
    plain(batch()[0])
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(is_probed(module)))
    with replastic.during("sam", model, torch.optim.SGD(model.parameters())) as method:
        method.backward(compute(method, model))
    assert seen == [False, True]
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


def test_after_an_error_in_the_second_pass_weights_are_back() -> None:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with replastic.during("sam", model, torch.optim.SGD(model.parameters())) as method:
        first = compute(method, model)
        calls = []

        def failing() -> Tensor:
            calls.append(not torch.equal(model[0].weight, before["0.weight"]))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return first()

        with pytest.raises(KeyboardInterrupt):
            method.backward(failing)
    assert calls == [False, True]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_without_a_direction_the_gradient_is_the_plain_one(value: float) -> None:
    model = small()
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        for p in model.parameters():
            p.grad = torch.full_like(p, value)
        return torch.zeros(())

    with replastic.during("sam", model, torch.optim.SGD(model.parameters())) as method:
        method.backward(closure)
    assert len(calls) == 1


def test_each_optimizer_is_perturbed_by_itself() -> None:
    model = small()
    given = {"first": torch.optim.SGD(model[0].parameters()), "last": torch.optim.SGD(model[3].parameters())}
    moved = []
    with replastic.during("sam", model, given) as method:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        inner = compute(method, model)

        def closure() -> Tensor:
            moved.append({name for name, p in model.named_parameters() if not torch.equal(p, before[name])})
            return inner()

        method.backward(closure, "last")
        assert moved == [set(), {"3.weight", "3.bias"}]
        method.backward(closure)
        assert moved[3] == {"0.weight", "0.bias", "3.weight", "3.bias"} - _zero(model)


def _zero(model: nn.Module) -> set[str]:
    """Parameters with a gradient so small that no step shows: a bias before batch normalisation."""
    return {name for name, p in model.named_parameters() if name == "0.bias"}


def test_a_model_without_gradients_is_refused() -> None:
    frozen = small().requires_grad_(False)
    with pytest.raises(UserError, match="frozen"):
        replastic.during("sam", frozen, torch.optim.SGD(frozen.parameters()))


def test_without_the_function_it_says_what_to_do() -> None:
    model = small()
    with replastic.during("sam+ewc", model, torch.optim.SGD(model.parameters()), batches=[batch()],
                          loss_fn=lambda m, b: functional.cross_entropy(m(b[0]), b[1])) as method:  # fmt: skip
        compute(method, model)()
        method.optimizer.step()
        with pytest.raises(UserError, match=r"computes the loss twice .* method.backward\(closure\), before"):
            method.after_update()
        method.backward(compute(method, model))
        assert method.after_update() == []
        with pytest.raises(UserError, match="computes the loss twice"):
            method.after_update()
