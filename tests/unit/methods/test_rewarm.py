"""Re-warmed learning rates against optimizers that were given the other rate themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

import replastic
from support.training_bench import build, data, loss_fn

KINDS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "adamw": lambda p, lr: AdamW(p, lr, weight_decay=0.3),
    "fused": lambda p, lr: AdamW(p, lr, weight_decay=0.3, fused=True),
    "sgd": lambda p, lr: SGD(p, lr, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_phases_after_the_first_are_trained_at_the_other_rate(kind: str) -> None:
    plain, _ = build(torch.float64)
    other, _ = build(torch.float64)
    optimizer = KINDS[kind](plain.parameters(), lr=1e-2)
    with replastic.during("rewarm:peak=0.3", other, KINDS[kind](other.parameters(), lr=1e-2), policy="keep") as method:
        for phase in range(3):
            method.cross(phase)
            assert method.rate() == (0.3 if phase else 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 0.3 * 1e-2 if phase else 1e-2
            for batch in data(phase):
                wide = (batch[0].double(), batch[1])
                for model, by in ((plain, optimizer), (other, method.optimizer)):
                    by.zero_grad()
                    loss_fn(model, wide).backward()
                    by.step()
                method.after_update()
                assert [group["lr"] for group in method.optimizer.param_groups] == [1e-2]
    states = plain.state_dict(), other.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_in_the_end_the_optimizer_is_the_users() -> None:
    model, _ = build()
    optimizer = Adam(model.parameters(), lr=1e-2)
    with replastic.during("rewarm+fire", model, optimizer) as method:
        method.cross(1)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_factors_of_several_parts_are_multiplied() -> None:
    model, _ = build()
    with replastic.during("fire+rewarm:peak=0.25", model, Adam(model.parameters(), lr=1e-2)) as method:
        method.cross(1)
        assert method.rate() == 0.25
