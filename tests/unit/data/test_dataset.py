"""Data sets: what a split holds, that it depends on nothing but the data, and what is refused."""

import zlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic import data
from replastic.data import Dataset, Pixels, Splits, hold_out
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


RULE = Pixels(torch.tensor([0.5]), torch.tensor([0.25]))


def three_parts(dtype=torch.uint8, counts=(6, 2, 3)):
    """Parts of `counts` samples, all bytes different from each other's."""
    inputs = torch.arange(sum(counts) * 4).view(-1, 1, 2, 2).to(dtype).split(counts)
    return Splits(*(Dataset(part, torch.arange(len(part)) % 2, 2, RULE) for part in inputs))


def test_facts_are_the_sizes_and_the_checksum_of_every_byte():
    splits = three_parts()
    content = b""
    for part in (splits.train, splits.held_out, splits.test):
        for tensor in (part.inputs, part.targets, RULE.mean, RULE.std):
            content += bytes(tensor.numpy().tobytes())
    assert splits.facts() == {"train": 6, "held_out": 2, "test": 3, "checksum": f"{zlib.crc32(content):08x}"}


@pytest.mark.parametrize("part", ["train", "held_out", "test"])
@pytest.mark.parametrize("tensor", ["inputs", "targets"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_one_byte_or_one_label_makes_another_checksum(part, tensor, dtype):
    splits = three_parts(dtype)
    before = splits.checksum()
    getattr(getattr(splits, part), tensor)[-1] += 1
    assert splits.checksum() != before
    assert three_parts(dtype).checksum() == before


def test_the_checksum_knows_the_pixel_rule():
    splits = three_parts()
    plain = Splits(*(replace(part, pixels=None) for part in (splits.train, splits.held_out, splits.test)))
    other = replace(splits, test=replace(splits.test, pixels=Pixels(RULE.mean, RULE.std * 2)))
    assert len({splits.checksum(), plain.checksum(), other.checksum()}) == 3


def test_the_checksum_does_not_depend_on_the_layout_in_memory():
    splits = three_parts()
    turned = splits.train.inputs.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous()
    assert replace(splits, train=replace(splits.train, inputs=turned)).checksum() == splits.checksum()


def test_an_empty_part_has_facts():
    splits = three_parts(counts=(6, 0, 3))
    facts = splits.facts()
    assert facts["held_out"] == 0
    assert facts["checksum"] == three_parts(counts=(6, 0, 3)).checksum() != three_parts().checksum()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_checksum_is_the_same_on_a_gpu():
    splits = three_parts(torch.float32)
    assert splits.to("cuda").checksum() == splits.checksum()


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
    monkeypatch.setattr("replastic.data.loading._REMEMBERED", {})
    with pytest.raises(UserError, match=r"digits does not fit into the memory of cuda:7: take fewer images"):
        data.load("digits", "cuda:7")
