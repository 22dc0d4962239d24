"""Image sets: the bytes are those of the files, the splits those of the rule, in every form a set may come in."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from replastic import data
from support.image_sets import encoded, picture, write_parquet, write_set

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
"""Mean and deviation as published, over all 50 000 training images."""


def rows_of(folder: Path, split: str) -> list[dict[str, object]]:
    """All rows of a split, read without `datasets`."""
    return [row for file in sorted(folder.glob(f"{split}-*.parquet")) for row in pq.read_table(file).to_pylist()]


def chw(row: dict[str, object], column: str, mode: str = "RGB") -> torch.Tensor:
    """The image of a row, decoded by Pillow alone."""
    pixels = np.array(Image.open(io.BytesIO(row[column]["bytes"])).convert(mode))
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def expected_split(labels: list[int], per_class: int) -> tuple[list[int], list[int]]:
    """Rows kept and rows held out, by counting along the rows."""
    kept, held, seen = [], [], {}
    for row, label in enumerate(labels):
        count = seen[label] = seen.get(label, 0) + 1
        if not per_class or count <= per_class:
            (held if count % 10 == 0 else kept).append(row)
    return kept, held


@pytest.mark.parametrize(
    ("name", "column", "mode", "validation", "per_class", "shape"),
    [
        ("cifar100", "img", "RGB", "test", 20, (3, 32, 32)),
        ("tiny_imagenet", "image", "RGB", "validation", 10, (3, 64, 64)),
        ("mnist", "image", "L", "test", 30, (1, 28, 28)),
    ],
)
def test_bytes_labels_and_splits_are_those_of_the_files(
    shared_data, monkeypatch, name, column, mode, validation, per_class, shape
):
    monkeypatch.setenv("REPLASTIC_DATA", str(shared_data))
    train, test = rows_of(shared_data / name, "train"), rows_of(shared_data / name, validation)
    classes = len({row["label"] for row in train})
    splits = data.load(f"{name}:train={per_class * classes},test={2 * classes}")
    kept, held = expected_split([row["label"] for row in train], per_class)
    first, _ = expected_split([row["label"] for row in test], 2)
    for part, rows, chosen in ((splits.train, train, kept), (splits.held_out, train, held), (splits.test, test, first)):
        assert part.inputs.shape == (len(chosen), *shape)
        assert part.inputs.dtype == torch.uint8
        assert part.classes == classes
        assert part.targets.tolist() == [rows[i]["label"] for i in chosen]
        for at in range(0, len(chosen), max(1, len(chosen) // 40)):
            assert torch.equal(part.inputs[at], chw(rows[chosen[at]], column, mode)), f"row {chosen[at]}"
    assert torch.equal(torch.bincount(splits.test.targets), torch.full((classes,), 2))


def test_grey_images_among_colour_ones_become_rgb(shared_data, monkeypatch):
    monkeypatch.setenv("REPLASTIC_DATA", str(shared_data))
    rows = rows_of(shared_data / "tiny_imagenet", "validation")
    chosen, _ = expected_split([row["label"] for row in rows], 5)
    splits = data.load("tiny_imagenet:train=2000,test=1000")
    grey = [i for i, row in enumerate(chosen) if Image.open(io.BytesIO(rows[row]["image"]["bytes"])).mode == "L"]
    assert len(grey) > 5, "the set has about 1.7% of them"
    for at in grey:
        assert torch.equal(splits.test.inputs[at], chw(rows[chosen[at]], "image", "L").expand(3, -1, -1))


@pytest.mark.slow
def test_cifar10_has_the_published_mean_and_deviation(shared_data, monkeypatch):
    monkeypatch.setenv("REPLASTIC_DATA", str(shared_data))
    splits = data.load("cifar10")
    assert torch.equal(torch.bincount(splits.train.targets), torch.full((10,), 4500))
    assert torch.equal(torch.bincount(splits.held_out.targets), torch.full((10,), 500))
    assert torch.equal(torch.bincount(splits.test.targets), torch.full((10,), 1000))
    # To the digits published; nine tenths of the images estimate them to about 3e-4.
    for ours, published in zip((splits.train.pixels.mean, splits.train.pixels.std), CIFAR10, strict=True):
        torch.testing.assert_close(ours, torch.tensor(published), atol=5e-4, rtol=0)
    whole = torch.cat([splits.train.inputs, splits.held_out.inputs]).double() / 255
    for ours, published in zip((whole.mean((0, 2, 3)), whole.std((0, 2, 3))), CIFAR10, strict=True):
        torch.testing.assert_close(ours, torch.tensor(published).double(), atol=1e-4, rtol=0)
    rows = rows_of(shared_data / "cifar10", "train")
    kept, _ = expected_split([row["label"] for row in rows], 0)
    for at in range(0, 45000, 997):
        assert torch.equal(splits.train.inputs[at], chw(rows[kept[at]], "img"))


def test_batches_have_mean_0_and_deviation_1_over_the_kept_images(tmp_path):
    write_set(tmp_path)
    splits = data.load(f"images:source={tmp_path}")
    inputs, _ = splits.train.batch(slice(None))
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs.double().mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs.double().std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)
    again, _ = splits.test.batch(slice(None))
    rule = splits.train.pixels
    expected = (splits.test.inputs.double() / 255 - rule.mean.view(3, 1, 1)) / rule.std.view(3, 1, 1)
    torch.testing.assert_close(again.double(), expected, atol=1e-6, rtol=0)


def test_a_channel_that_never_changes_is_only_centred(tmp_path):
    write_parquet(tmp_path / "train.parquet", [encoded(np.full((4, 4), 51, np.uint8))] * 10, [0] * 10)
    write_parquet(tmp_path / "test.parquet", [encoded(np.full((4, 4), 102, np.uint8))], [0])
    splits = data.load(f"images:source={tmp_path},channels=1")
    assert splits.train.pixels.mean.tolist() == pytest.approx([0.2])
    assert splits.test.batch(slice(None))[0].unique().tolist() == pytest.approx([0.2], abs=1e-6)


@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "test.parquet"),
        ("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-a1b2.parquet", "data/valid-00000-of-00001-c3d4.parquet"),
        ("train/0.parquet", "test/0.parquet"),
        ("train/0000.parquet", "val/0000.parquet"),
    ],
)
def test_splits_may_be_named_in_any_common_way(tmp_path, names):
    pixels = [picture(i) for i in range(12)]
    write_parquet(tmp_path / names[0], [encoded(p) for p in pixels[:10]], [0] * 10)
    write_parquet(tmp_path / names[1], [encoded(p) for p in pixels[10:]], [0] * 2)
    splits = data.load(f"images:source={tmp_path}")
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (9, 1, 2)
    assert torch.equal(splits.test.inputs[1], torch.from_numpy(pixels[11]).permute(2, 0, 1))


def test_shards_are_put_together_in_order(tmp_path):
    pixels = [picture(i) for i in range(10)]
    for shard in range(3):
        part = pixels[shard * 4 : shard * 4 + 4]
        write_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet", [encoded(p) for p in part], [0] * len(part))
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [encoded(pixels[0])], [0])
    splits = data.load(f"images:source={tmp_path}")
    stored = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    assert torch.equal(torch.cat([splits.train.inputs, splits.held_out.inputs]), stored)


@pytest.mark.parametrize("kind", ["png", "webp", "bmp"])
def test_an_image_folder_comes_back_as_written(tmp_path, kind):
    written = {}
    for split, count in (("train", 10), ("test", 2)):
        for label, name in enumerate(("cat", "dog", "emu")):
            for i in range(count if (split, name) != ("test", "dog") else 0):
                pixels = picture(100 * label + i + (split == "test") * 50)
                file = tmp_path / split / name / f"{i:03d}.{kind}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encoded(pixels, kind.upper()) if kind != "bmp" else _bmp(pixels))
                written.setdefault((split, label), []).append(torch.from_numpy(pixels).permute(2, 0, 1))
    splits = data.load(f"images:source={tmp_path}")
    assert splits.train.classes == 3
    for label in range(3):
        kept = splits.train.inputs[splits.train.targets == label]
        held = splits.held_out.inputs[splits.held_out.targets == label]
        assert torch.equal(torch.cat([kept, held]), torch.stack(written["train", label]))
    assert splits.test.targets.tolist() == [0, 0, 2, 2], "a class without test images keeps its number"
    assert torch.equal(splits.test.inputs[2:], torch.stack(written["test", 2]))


def test_images_that_stand_class_by_class_are_mixed(tmp_path):
    pixels = [picture(i) for i in range(33)]
    labels = [2] * 11 + [0] * 11 + [1] * 11
    write_parquet(tmp_path / "train.parquet", [encoded(p) for p in pixels], labels)
    write_parquet(tmp_path / "test.parquet", [encoded(p) for p in pixels], labels)
    splits = data.load(f"images:source={tmp_path}")
    assert splits.train.targets.tolist() == [2, 0, 1] * 10
    stored = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    rows = [row for turn in (*range(9), 10) for row in (turn, 11 + turn, 22 + turn)]
    assert torch.equal(splits.train.inputs, stored[rows])
    assert torch.equal(splits.test.inputs, stored), "what is only scored stays as it is stored"


def _bmp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def test_modes_are_converted_to_the_channels_wanted(tmp_path):
    grey, colour = picture(0, channels=1), picture(1)
    alpha = np.dstack([colour, picture(2, channels=1)])
    stored = [encoded(p) for p in (colour, grey, alpha)] + [encoded(colour)] * 7
    write_parquet(tmp_path / "train.parquet", stored, [0] * 10)
    write_parquet(tmp_path / "test.parquet", [encoded(grey)], [0])
    rgb = data.load(f"images:source={tmp_path}").train.inputs
    assert torch.equal(rgb[0], torch.from_numpy(colour).permute(2, 0, 1))
    assert torch.equal(rgb[1], torch.from_numpy(grey).expand(3, -1, -1))
    assert torch.equal(rgb[2], rgb[0]), "transparency is dropped"
    one = data.load(f"images:source={tmp_path},channels=1").train.inputs
    assert torch.equal(one[1, 0], torch.from_numpy(grey))
    # ITU-R 601-2 luma, as Pillow documents it; rounded.
    luma = colour @ np.array([299, 587, 114]) / 1000
    assert np.abs(one[0, 0].numpy() - luma).max() <= 1


def test_columns_and_splits_by_name(tmp_path):
    pixels = [picture(i) for i in range(12)]
    columns = ("photo", "kind")
    write_parquet(tmp_path / "train.parquet", [encoded(p) for p in pixels[:2]], [0, 0], columns)
    write_parquet(tmp_path / "test.parquet", [encoded(p) for p in pixels[2:]], [0] * 10, columns)
    splits = data.load(f"images:source={tmp_path},image=photo,label=kind,train-split=test,test-split=train")
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (9, 1, 2)


def test_large_images_are_decoded_by_several_threads_to_the_same_bytes(tmp_path, monkeypatch):
    from replastic.data import decode

    pixels = write_set(tmp_path, train=40)
    monkeypatch.setattr(decode, "SMALL", 0)
    monkeypatch.setattr(decode, "CHUNK", 3)
    splits = data.load(f"images:source={tmp_path}")
    kept, held = expected_split([i % 2 for i in range(40)], 0)
    for part, chosen in ((splits.train, kept), (splits.held_out, held)):
        assert torch.equal(part.inputs, torch.from_numpy(pixels["train"][chosen]).permute(0, 3, 1, 2))


def test_the_validation_split_stands_in_for_a_test_split_without_labels(tmp_path):
    write_set(tmp_path)
    shutil.move(tmp_path / "test-00000-of-00001.parquet", tmp_path / "validation-00000-of-00001.parquet")
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [encoded(picture(0))] * 3, [-1, -1, -1])
    assert len(data.load(f"images:source={tmp_path}").test) == 6


def test_identity_says_what_the_data_are_and_not_where():
    assert data.identity("cifar10") == "cifar10"
    assert data.identity("cifar10: source = /somewhere/else") == "cifar10"
    assert data.identity("cifar100:test=0,source=x/y,train=1000") == "cifar100:train=1000"
    assert data.identity("images:label=kind,source=/a") == "images:source=/a,label=kind"
    assert data.identity("digits") == "digits"


def test_a_labelled_test_split_goes_before_the_validation_split(tmp_path):
    write_set(tmp_path)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", [encoded(picture(0))] * 3, [0, 1, 0])
    assert len(data.load(f"images:source={tmp_path}").test) == 6
    assert len(data.load(f"images:source={tmp_path},test_split=validation").test) == 3


def empty_images(train, held_out, test):
    """Splits of so many images that hold nothing."""
    parts = (data.Dataset(torch.empty(n, 0), torch.zeros(n, dtype=torch.int64), 100) for n in (train, held_out, test))
    return data.Splits(*parts)


@pytest.mark.slow
def test_a_part_of_a_published_set_is_said_to_be_one(shared_data, monkeypatch):
    monkeypatch.setenv("REPLASTIC_DATA", str(shared_data))
    train, test = (len(rows_of(shared_data / "cifar100", split)) for split in ("train", "test"))
    assert train < 50_000
    said = data.from_spec("cifar100").shortfall(data.load("cifar100"))
    assert said == (
        f"cifar100 is not the whole set here: {train:,} of 50,000 training images and {test:,} of 10,000 test images"
    )


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("cifar10", (45_000, 5_000), 10_000),
        ("cifar100", (45_000, 5_000), 10_000),
        ("mnist", (54_000, 6_000), 10_000),
        ("tiny_imagenet", (90_000, 10_000), 10_000),
    ],
)
def test_a_whole_set_lacks_nothing_but_the_images_it_lacks(name, train, test):
    asked = data.from_spec(name)
    assert asked.shortfall(empty_images(*train, test)) == ""
    whole = f"{sum(train):,} of {sum(train):,} training images and {test - 1:,} of {test:,} test images"
    assert asked.shortfall(empty_images(*train, test - 1)) == f"{name} is not the whole set here: {whole}"


@pytest.mark.parametrize(
    "asked", ["cifar100:train=2000", "cifar100:test=200", "cifar100:first_classes=5", "images:source=x"]
)
def test_a_set_that_was_asked_to_be_smaller_lacks_nothing(asked):
    assert data.from_spec(asked).shortfall(empty_images(1800, 200, 200)) == ""
