"""Clipping and Adam's step by fewer calls: the same bits as torch's own functions."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic.training import light

shapes = st.lists(
    st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple), min_size=1, max_size=5
)  # of parameters


def parameters(shapes: list[tuple[int, ...]], seed: int, dtype: torch.dtype) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draw, dtype=dtype)) for shape in shapes]


def slope(parameters: list[nn.Parameter], seed: int) -> None:
    """Draw gradients."""
    draw = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype)


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@given(shapes, st.integers(0, 99), st.floats(0.01, 100.0), st.sampled_from([torch.float32, torch.float64]))
def test_clips_to_the_same_bits_as_torch(
    shapes: list[tuple[int, ...]], seed: int, most: float, dtype: torch.dtype
) -> None:
    ours, theirs = (parameters(shapes, seed, dtype) for _ in range(2))
    slope(ours, seed), slope(theirs, seed)
    with torch.no_grad():
        light.clip(ours, most)
    nn.utils.clip_grad_norm_(theirs, most, foreach=True)
    assert all(same(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))  # type: ignore[arg-type]


def test_clips_gradients_of_two_dtypes_and_none_at_all() -> None:
    mixed = [*parameters([(3,)], 0, torch.float32), *parameters([(2, 2)], 1, torch.float64)]
    light.clip(mixed, 1.0)
    assert all(p.grad is None for p in mixed)
    slope(mixed, 2)
    theirs = deepcopy(mixed)
    slope(theirs, 2)
    light.clip(mixed, 0.1)
    nn.utils.clip_grad_norm_(theirs, 0.1, foreach=True)
    assert all(same(a.grad, b.grad) for a, b in zip(mixed, theirs, strict=True))  # type: ignore[arg-type]


@given(shapes, shapes, st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
def test_steps_of_adam_have_the_same_bits_as_torch(
    first: list[tuple[int, ...]], second: list[tuple[int, ...]], seed: int, dtype: torch.dtype
) -> None:
    ours, theirs = ([parameters(part, seed, dtype) for part in (first, second)] for _ in range(2))
    adams = []
    for groups in (ours, theirs):
        each = [{"params": groups[0], "lr": 0.01}, {"params": groups[1], "eps": 1e-3, "betas": (0.8, 0.9)}]
        adams.append(torch.optim.Adam(each, lr=0.1, fused=True))
    for number in range(4):
        for groups in (ours, theirs):
            for place, part in enumerate(groups):
                slope(part, 10 * number + place)
            if number == 2:
                groups[0][0].grad = None
        with torch.no_grad():
            light.step(adams[0])
        adams[1].step()
    for a, b in zip(ours[0] + ours[1], theirs[0] + theirs[1], strict=True):
        assert same(a, b)
        mine, its = adams[0].state[a], adams[1].state[b]
        assert mine.keys() == its.keys()
        assert all(same(mine[key], its[key]) for key in mine)


def test_a_weight_whose_state_was_dropped_begins_anew() -> None:
    ours, theirs = (parameters([(3, 2), (4,)], 0, torch.float32) for _ in range(2))
    adams = [torch.optim.Adam(p, fused=True) for p in (ours, theirs)]
    for number in range(3):
        for group in (ours, theirs):
            slope(group, number)
        if number == 2:
            adams[0].state.pop(ours[0])
            adams[1].state.pop(theirs[0])
        light.step(adams[0])
        adams[1].step()
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    assert adams[0].state[ours[0]]["step"] == 1


@pytest.mark.parametrize("settings", [{"amsgrad": True}, {"weight_decay": 0.1}, {"maximize": True}, {"fused": False}])
def test_other_settings_are_left_to_torch(settings: dict[str, object]) -> None:
    ours, theirs = (parameters([(3, 2), (4,)], 0, torch.float32) for _ in range(2))
    adams = [torch.optim.Adam(p, **{"fused": True, **settings}) for p in (ours, theirs)]  # type: ignore[arg-type]
    for number in range(3):
        for group in (ours, theirs):
            slope(group, number)
        with torch.no_grad():
            light.step(adams[0])
        adams[1].step()
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def test_who_watches_the_steps_sees_them() -> None:
    group = parameters([(3,)], 0, torch.float32)
    adam = torch.optim.Adam(group, fused=True)
    seen: list[int] = []
    handle = adam.register_step_post_hook(lambda *_: seen.append(1))
    for _ in range(2):
        slope(group, 0)
        with torch.no_grad():
            light.step(adam)
    handle.remove()
    slope(group, 0)
    light.step(adam)
    assert len(seen) == 2


def test_steps_of_other_optimizers_are_theirs() -> None:
    ours, theirs = (parameters([(3,)], 0, torch.float32) for _ in range(2))
    for group in (ours, theirs):
        slope(group, 1)
    light.step(torch.optim.SGD(ours, lr=0.5))
    torch.optim.SGD(theirs, lr=0.5).step()
    assert same(ours[0], theirs[0])
