"""Generalised advantages against the explicit sum of their definition, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.learners._advantages import advantages


def explicit(rewards, values, next_values, terminated, ended, gamma, trace):
    """Each advantage as a sum over the steps that follow in its episode, one by one in Python."""
    steps, copies = rewards.shape
    found = torch.zeros_like(rewards)
    for copy in range(copies):
        for start in range(steps):
            for at in range(start, steps):
                follows = 0.0 if terminated[at, copy] else gamma * next_values[at, copy]
                delta = rewards[at, copy] + follows - values[at, copy]
                found[start, copy] += (gamma * trace) ** (at - start) * delta
                if ended[at, copy]:
                    break
    return found


@given(st.integers(1, 7), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_they_are_the_explicit_sum(steps: int, copies: int, gamma: float, trace: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    rewards, values, follows = torch.randn(3, steps, copies, generator=draw, dtype=torch.float64)
    ended = torch.rand(steps, copies, generator=draw) < 0.3
    terminated = ended & (torch.rand(steps, copies, generator=draw) < 0.5)
    found = advantages(rewards, values, follows, terminated, ended, gamma=gamma, trace=trace)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found, explicit(rewards, values, follows, terminated, ended, gamma, trace))


def test_with_a_whole_trace_they_are_the_return_minus_the_value() -> None:
    rewards, values = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.5], [0.25], [3.0]])
    follows = torch.tensor([[0.25], [3.0], [9.0]])
    over = torch.tensor([[False], [False], [True]])
    found = advantages(rewards, values, follows, over, over, gamma=0.5, trace=1.0)
    assert found[:, 0].tolist() == pytest.approx([1 + 1 + 1 - 0.5, 2 + 2 - 0.25, 4 - 3.0])


def test_an_episode_that_is_cut_off_is_continued_by_its_value() -> None:
    one, no, yes = torch.ones(1, 1), torch.tensor([[False]]), torch.tensor([[True]])
    cut = advantages(one, one, 10 * one, no, yes, gamma=0.9, trace=0.5)
    over = advantages(one, one, 10 * one, yes, yes, gamma=0.9, trace=0.5)
    assert (float(cut), float(over)) == pytest.approx((9.0, 0.0))
