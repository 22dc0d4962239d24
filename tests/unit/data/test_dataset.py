"""Data sets: what a split holds, that it depends on nothing but the data, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic import data
from replastic.data import Dataset, Splits, hold_out
from replastic.errors import UserError
from replastic.seeds import derive, generator


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 10))
def test_hold_out_takes_each_nth_sample_of_each_class(labels, every):
    kept, held = hold_out(torch.tensor(labels), every)
    expected, seen = [], {}
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] % every == 0:
            expected.append(index)
    assert held.tolist() == expected
    assert kept.tolist() == [i for i in range(len(labels)) if i not in expected]


def test_digits_are_split_without_overlap_and_standardised():
    splits = data.load("digits")
    parts = (splits.train, splits.held_out, splits.test)
    rows = torch.cat([p.inputs.flatten(1) for p in parts])
    assert len(rows) == 1797
    # Each image lands in one split: as many different images as in the source, where no two are the same.
    assert len(torch.unique(rows, dim=0)) == 1797
    assert splits.train.sample_shape == (1, 8, 8)
    assert abs(float(splits.train.inputs.mean())) < 1e-6
    assert abs(float(splits.train.inputs.std()) - 1) < 1e-6
    count = sum(torch.bincount(p.targets) for p in parts)
    tested = count // 5
    held = (count - tested) // 10
    for part, expected in zip(parts, (count - tested - held, held, tested), strict=True):
        assert torch.equal(torch.bincount(part.targets), expected)


def test_digits_labels_belong_to_their_images():
    from sklearn.datasets import load_digits

    source = load_digits()
    splits = data.load("digits")
    image = splits.test.inputs[7].flatten()
    pixels = torch.from_numpy(source.data).float()
    # Standardising is linear, so the source image is the one with correlation 1.
    correlation = torch.nn.functional.cosine_similarity(
        pixels - pixels.mean(1, keepdim=True), image - image.mean(), dim=1
    )
    best = int(correlation.argmax())
    assert correlation[best] > 1 - 1e-5
    assert source.target[best] == splits.test.targets[7]


def test_dataset_refuses_unequal_lengths():
    with pytest.raises(UserError, match="3 and 2"):
        Dataset(torch.zeros(3, 1), torch.zeros(2, dtype=torch.int64), 2)


def test_seeds_depend_on_the_purpose_and_nothing_else():
    # Pinned: a changed derivation would silently change every published number.
    assert derive(0, "labels", 3) == 4523940390022813063
    assert derive(0, "labels", 3) != derive(0, "labels", 4) != derive(1, "labels", 4)
    state = torch.get_rng_state()
    first = torch.rand(3, generator=generator(5, "a"))
    assert torch.equal(first, torch.rand(3, generator=generator(5, "a")))
    assert torch.equal(state, torch.get_rng_state())


def test_data_too_big_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_big(self: Splits, device: object) -> Splits:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Splits, "to", too_big)
    monkeypatch.setattr("replastic.data._registry._REMEMBERED", {})
    with pytest.raises(UserError, match=r"digits does not fit into the memory of cuda:7: take fewer images"):
        data.load("digits", "cuda:7")
