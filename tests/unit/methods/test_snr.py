"""snr: gaps between firings as with plain lists, and what firing is."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from replastic import methods
from support.unit_bench import Bench, mlp, some_batch


def by_lists(fired: list[list[bool]], percentile: float, max_gap: int) -> list[list[int]]:
    """Which units are reset after each update, from lists of past gaps."""
    units = len(fired[0])
    past: list[list[int]] = [[] for _ in range(units)]
    silence = [0] * units
    resets = []
    for now in fired:
        reset = []
        for unit in range(units):
            if now[unit]:
                past[unit].append(silence[unit] + 1)
                silence[unit] = 0
            else:
                silence[unit] += 1
            gaps = sorted(past[unit])
            if silence[unit] > max_gap:
                reset.append(unit)
            elif len(gaps) * (1 - percentile) >= 1 - 1e-6:
                quantile = gaps[math.ceil(percentile * len(gaps) - 1e-9) - 1]
                if silence[unit] > quantile:
                    reset.append(unit)
        for unit in reset:
            past[unit], silence[unit] = [], 0
        resets.append(reset)
    return resets


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=20, max_size=60),
    st.sampled_from([0.5, 0.75, 0.8]),
    st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_snr_as_with_lists_of_gaps(fired: list[list[bool]], percentile: float, max_gap: int) -> None:
    method = methods.from_spec("snr", percentile=percentile, max_gap=max_gap)
    bench = Bench(mlp(2, 3, 2), method, some_batch(features=2))
    found = []
    for now in fired:
        chosen = method.decide(bench.run, torch.tensor(now).double())  # type: ignore[attr-defined]
        method.forget(chosen)  # type: ignore[attr-defined]
        found.append(chosen.tolist())
    assert found == by_lists(fired, percentile, max_gap)
    method.close()


def test_a_unit_fires_where_one_sample_or_position_is_above_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        model[0].bias.zero_()
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    bench = Bench(model, methods.from_spec("snr"), (x, torch.tensor([0, 1, 0])))
    for value, silence in ((0.1, [0, 1]), (-0.1, [1, 0]), (0.0, [2, 1])):
        x[1, 0, 1, 1] = value
        assert bench.step() is None
        assert bench.method.state_dict()["silence"].tolist() == silence
