"""Running normalisation against mean and variance of the whole stream in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.learners._normaliser import RunningNormaliser


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 2**31))
def test_mean_and_variance_are_those_of_the_whole_stream(sizes: list[int], width: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-3, 4, (width,), generator=draw)
    stream = [scale * (torch.randn(n, width, generator=draw, dtype=torch.float64) + 5) for n in sizes]
    normaliser = RunningNormaliser((width,))
    for batch in stream:
        normaliser.update(batch)
    # The first values count as 1e-4 observations of mean 0 and variance 1.
    seen = torch.cat(stream)
    count = len(seen) + 1e-4
    mean = seen.sum(0) / count
    variance = (seen.square().sum(0) + 1e-4) / count - mean.square()
    torch.testing.assert_close(normaliser.mean, mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(normaliser.variance, variance, rtol=1e-7, atol=1e-9 * float(scale.max()) ** 2)
    expected = (seen - mean) / (variance + 1e-8).sqrt()
    torch.testing.assert_close(normaliser(seen.float()), expected.float(), rtol=1e-4, atol=1e-4)


def test_a_long_stream_far_from_zero_keeps_its_digits() -> None:
    draw = torch.Generator().manual_seed(0)
    stream = 1e4 + torch.randn(20_000, 2, generator=draw)
    normaliser = RunningNormaliser((2,))
    for batch in stream.split(4):
        normaliser.update(batch)
    seen = stream.double()
    torch.testing.assert_close(normaliser.mean, seen.mean(0), rtol=1e-7, atol=0)
    # The first values, 1e-4 observations of 0, are (1e4)^2 away: 1e-4 * 1e8 / 20,000 of variance more.
    assert (normaliser.variance - seen.var(0, correction=0)).tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_before_the_first_observation_nothing_is_changed() -> None:
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(RunningNormaliser((4,))(inputs), inputs)


def test_state_goes_on_where_it_stood() -> None:
    draw = torch.Generator().manual_seed(0)
    first, again = RunningNormaliser((2, 3)), RunningNormaliser((2, 3))
    first.update(torch.randn(5, 2, 3, generator=draw))
    again.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    more, probe = torch.randn(5, 2, 3, generator=draw), torch.randn(4, 2, 3, generator=draw)
    for normaliser in (first, again):
        normaliser.update(more)
    assert torch.equal(first(probe), again(probe))
