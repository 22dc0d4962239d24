"""UPGD against its equations in numpy, and as a citizen of torch.optim."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from replastic.optim import UPGD


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(drawn(3, 4, seed=1)), nn.Parameter(drawn(5, seed=2)), nn.Parameter(drawn(2, 2, 2, seed=3))]


def step(optimizer: UPGD, owned: list[nn.Parameter], number: int) -> list[Tensor]:
    for index, p in enumerate(owned):
        p.grad = drawn(*p.shape, seed=100 * number + index + 10)
    optimizer.step()
    return [p.grad for p in owned]


@pytest.mark.parametrize("protect", [True, False])
def test_it_follows_the_equations(protect: bool) -> None:
    """A parameter that gets its first gradient later has a correction of its own."""
    owned, lr, sigma, beta, decay = parameters(), 0.05, 0.3, 0.9, 0.2
    ours = UPGD(
        [{"params": owned[:2]}, {"params": owned[2:], "lr": 0.5 * lr}],
        lr=lr, sigma=sigma, beta=beta, weight_decay=decay, protect=protect,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    noise = torch.Generator().manual_seed(7)
    weights = [p.detach().numpy().copy() for p in owned]
    means, counts = [np.zeros_like(w) for w in weights], [0, 0, 0]
    for number in range(4):
        given = [drawn(*p.shape, seed=100 * number + i) for i, p in enumerate(owned)]
        there = [i for i in range(3) if not (i == 1 and number == 0)]
        for i, p in enumerate(owned):
            p.grad = given[i].clone() if i in there else None
        ours.step()
        hats = {}
        for i in there:
            counts[i] += 1
            means[i] = beta * means[i] - (1 - beta) * given[i].numpy() * weights[i]
            hats[i] = means[i] / (1 - beta ** counts[i])
        top = max(h.max() for h in hats.values())
        assert top > 0
        for i in there:
            s = 1 / (1 + np.exp(-hats[i] / top))
            z = sigma * torch.randn(owned[i].shape, generator=noise).double().numpy()
            rate = lr * (0.5 if i == 2 else 1)
            g = given[i].numpy()
            weights[i] = (1 - rate * decay) * weights[i] - rate * ((g + z) * (1 - s) if protect else g + z * (1 - s))
        for p, w in zip(owned, weights, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-10, atol=1e-12)


def test_without_a_useful_weight_every_step_is_half() -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.tensor([1.0, 2.0, 3.0])  # every weight makes the loss larger
    UPGD([p], lr=0.1, sigma=0, weight_decay=0).step()
    torch.testing.assert_close(p.detach(), 1 - 0.05 * p.grad)
    zero = nn.Parameter(torch.zeros(3))
    zero.grad = torch.ones(3)
    UPGD([zero], lr=0.1, sigma=0).step()
    torch.testing.assert_close(zero.detach(), torch.full((3,), -0.05))


def test_a_useful_weight_moves_less() -> None:
    p = nn.Parameter(torch.tensor([1.0, -1.0]))
    p.grad = torch.tensor([-1.0, -1.0])
    UPGD([p], lr=0.1, sigma=0, weight_decay=0).step()
    moved = (p.detach() - torch.tensor([1.0, -1.0])).abs()
    assert moved[0] < moved[1]


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_it_goes_on_from_a_saved_state(how: str) -> None:
    owned = parameters()
    ours = UPGD(owned, lr=0.1)
    step(ours, owned, 0)
    if how == "state_dict":
        others = copy.deepcopy(owned)
        again = UPGD(others, lr=5.0)
        again.load_state_dict(copy.deepcopy(ours.state_dict()))
        again.generator.set_state(ours.generator.get_state())
    elif how == "pickle":
        others, again = pickle.loads(pickle.dumps((owned, ours)))
    else:
        others, again = copy.deepcopy((owned, ours))
    for optimizer, held in ((ours, owned), (again, others)):
        step(optimizer, held, 1)
    assert all(torch.equal(a, b) for a, b in zip(owned, others, strict=True))


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    owned = parameters()
    step(UPGD(owned), owned, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_schedule_scales_the_step_and_a_closure_gives_the_loss() -> None:
    owned = parameters()
    ours = UPGD(owned, lr=0.1)
    LambdaLR(ours, lambda _: 0.0)
    before = [p.detach().clone() for p in owned]

    def closure() -> Tensor:
        ours.zero_grad()
        loss = sum((p**2).sum() for p in owned)
        loss.backward()
        return loss

    wanted = sum(float((p.detach() ** 2).sum()) for p in owned)
    assert float(ours.step(closure).detach()) == pytest.approx(wanted)
    assert all(torch.equal(p, b) for p, b in zip(owned, before, strict=True))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"sigma": -1.0}, {"beta": 1.0}, {"weight_decay": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be at least 0"):
        UPGD(parameters(), **wrong)
