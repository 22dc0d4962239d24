"""Batches: every sample equally often, any part of the sequence on its own."""

from itertools import islice

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.data import Dataset
from replastic.learners._batches import one_pass, shuffled


def numbered(count):
    return Dataset(torch.arange(count, dtype=torch.float32), torch.arange(count), count)


def batches(data, size, first, last, *purpose, seed):
    return islice(shuffled(data, size, first, *purpose, seed=seed), last - first)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 23), size=st.integers(1, 30), first=st.integers(0, 12), more=st.integers(0, 12))
def test_any_part_of_the_sequence_of_batches_can_be_drawn_on_its_own(count, size, first, more):
    data, last = numbered(count), first + more
    whole = [targets.tolist() for _, targets in batches(data, size, 0, last, "x", seed=3)]
    part = [targets.tolist() for _, targets in batches(data, size, first, last, "x", seed=3)]
    assert part == whole[first:]
    assert all(len(batch) == min(size, count) for batch in whole)
    # Passes run into each other: every run of `count` samples that starts at a pass holds each sample once.
    seen = [sample for batch in whole for sample in batch]
    for start in range(0, len(seen) - count + 1, count):
        assert sorted(seen[start : start + count]) == list(range(count))


def test_passes_are_shuffled_differently_and_inputs_follow_their_targets():
    data = numbered(50)
    drawn = list(batches(data, 50, 0, 2, "x", seed=0))
    assert drawn[0][1].tolist() != drawn[1][1].tolist() != list(range(50))
    for inputs, targets in drawn:
        assert torch.equal(inputs, targets.float())
    other = next(batches(data, 50, 0, 1, "y", seed=0))
    assert other[1].tolist() != drawn[0][1].tolist()


def test_one_pass_has_every_sample_once_in_order():
    sizes = [len(targets) for _, targets in one_pass(numbered(10), 4)]
    assert sizes == [4, 4, 2]
    assert torch.cat([targets for _, targets in one_pass(numbered(10), 4)]).tolist() == list(range(10))
