"""Streams that change the same samples in every task: one rule for all splits, another in every task."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.data import Dataset, Pixels, Splits
from replastic.errors import UserError
from replastic.streams.label_shuffle import LabelShuffle
from replastic.streams.permuted_pixels import PermutedPixels


def splits_of(shape, classes=4, sizes=(12, 4, 8), dtype=torch.float32):
    """Images in which all pixel values differ, so that a permutation can be read off them."""

    def part(count, first):
        values = torch.arange(count * torch.Size(shape).numel()).view(count, *shape) + first
        return Dataset(values.to(dtype), torch.arange(count) % classes, classes)

    return Splits(*(part(size, 10_000 * number) for number, size in enumerate(sizes)))


def order_of(before, after):
    """Where each place of the images took its value from, read off the first channel of the first image."""
    b, a = before.inputs[0].reshape(-1, before.inputs[0].shape[-2:].numel())[0], after.inputs[0]
    a = a.reshape(-1, before.inputs[0].shape[-2:].numel())[0]
    return (a[:, None] == b[None]).nonzero()[:, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.integers(0, 2**31), st.integers(0, 4))
def test_permuted_pixels_move_whole_pixels_by_one_order_in_all_splits(channels, height, width, seed, index):
    splits = splits_of((channels, height, width))
    phase = PermutedPixels(tasks=5, steps=7).phase(splits, index, seed)
    order = order_of(splits.train, phase.train)
    assert sorted(order.tolist()) == list(range(height * width)), "no permutation"
    scored = phase.evaluations
    for before, after in (
        (splits.train, phase.train),
        (splits.test, scored[""]),
        (splits.held_out, scored["held_out"]),
    ):
        assert torch.equal(after.inputs.flatten(2), before.inputs.flatten(2)[..., order])
        assert after.inputs.shape == before.inputs.shape
        assert torch.equal(after.targets, before.targets)
    assert phase.steps == 7


def test_every_task_has_an_order_of_its_own_the_first_too():
    splits = splits_of((1, 6, 6))
    stream = PermutedPixels(tasks=4)
    orders = {
        tuple(order_of(splits.train, stream.phase(splits, index, seed).train).tolist())
        for index in range(4)
        for seed in range(3)
    }
    assert len(orders) == 12
    assert tuple(range(36)) not in orders


def test_bytes_are_permuted_as_bytes_and_keep_their_rule():
    splits = splits_of((2, 3, 3), sizes=(3, 2, 2), dtype=torch.uint8)
    rule = Pixels(torch.tensor([0.2, 0.4]), torch.tensor([0.5, 0.25]))
    stored = Splits(
        *(Dataset(p.inputs, p.targets, p.classes, rule) for p in (splits.train, splits.held_out, splits.test))
    )
    train = PermutedPixels().phase(stored, 0, 0).train
    order = order_of(stored.train, train)
    ready = stored.train.batch(slice(None))[0]
    assert torch.equal(train.batch(slice(None))[0].flatten(2), ready.flatten(2)[..., order])


def test_samples_that_are_no_images_are_permuted_value_by_value():
    splits = splits_of((7,))
    train = PermutedPixels().phase(splits, 0, 0).train
    assert torch.equal(train.inputs.sort(dim=1).values, splits.train.inputs)
    assert not torch.equal(train.inputs, splits.train.inputs)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**31), st.integers(0, 4))
def test_label_shuffle_renames_classes_by_one_permutation_in_all_splits(classes, seed, index):
    splits = splits_of((2,), classes=classes, sizes=(2 * classes, classes, classes))
    phase = LabelShuffle(tasks=5).phase(splits, index, seed)
    names = phase.train.targets[:classes]
    assert sorted(names.tolist()) == list(range(classes)), "no permutation"
    for before, after in ((splits.train, phase.train), (splits.test, phase.evaluations[""])):
        assert torch.equal(after.targets, names[before.targets])
        assert after.inputs is before.inputs
        assert after.classes == classes


def test_label_shuffle_draws_the_names_anew_in_every_task_and_seed():
    splits = splits_of((2,), classes=12)
    names = {
        tuple(LabelShuffle(tasks=4).phase(splits, index, seed).train.targets.tolist())
        for index in range(4)
        for seed in range(3)
    }
    assert len(names) == 12


@pytest.mark.parametrize("kind", [PermutedPixels, LabelShuffle])
def test_the_score_is_that_of_the_test_split_or_of_the_training_data(kind):
    splits = splits_of((1, 2, 2))
    tested = kind(tasks=2).phase(splits, 1, 0)
    learned = kind(tasks=2, scored_on="train").phase(splits, 1, 0)
    assert list(tested.evaluations) == ["", "held_out"]
    assert list(learned.evaluations) == ["", "test"]
    assert learned.evaluations[""] is learned.train
    assert torch.equal(learned.evaluations["test"].inputs, tested.evaluations[""].inputs)
    assert len(kind(tasks=2)) == 2


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="permuted_pixels: steps must be at least 1, got 0"):
        PermutedPixels(steps=0)
    with pytest.raises(UserError, match="scored_on"):
        LabelShuffle(scored_on="both")
