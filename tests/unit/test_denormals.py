from __future__ import annotations

import pytest
import torch

from replastic.denormals import flushed


def halved() -> float:
    """A denormal number, where these exist: half of the smallest normal one."""
    return float(torch.tensor(torch.finfo(torch.float32).tiny) * torch.tensor(0.5))


def test_denormal_numbers_are_zero_inside_and_back_outside() -> None:
    assert halved() > 0
    with flushed():
        assert halved() == 0
        with flushed():
            assert halved() == 0
        assert halved() == 0, "the inner block leaves it as it found it"
    assert halved() > 0


def test_an_error_puts_it_back_too() -> None:
    with pytest.raises(RuntimeError), flushed():
        raise RuntimeError
    assert halved() > 0


def test_a_step_of_adam_writes_the_same_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(64, generator=generator)
    ended = []
    for inside in (False, True):
        weight = drawn.clone().requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=1e-3)
        for step in range(1000):  # the gradient of the first half is zero but at the first step
            weight.grad = torch.ones_like(weight)
            weight.grad[: 32 if step else 0] = 0
            if inside:
                with flushed():
                    optimizer.step()
            else:
                optimizer.step()
        average = optimizer.state[weight]["exp_avg"][:32]
        assert bool((average == 0).all()) is inside, "there are denormal numbers to flush"
        ended.append(weight.detach())
    assert torch.equal(*ended)
