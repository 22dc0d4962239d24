"""What is wrong with a data set is said in one sentence that names it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from replastic import data
from replastic.errors import UserError
from support.image_sets import encoded, picture, write_parquet, write_set

GOOD = [encoded(picture(i)) for i in range(20)]
LABELS = [i % 2 for i in range(20)]


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        data.load(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_of(folder: Path, train=GOOD, labels=LABELS, test=GOOD[:4], test_labels=(0, 1, 0, 1)) -> str:
    write_parquet(folder / "train.parquet", train, labels)
    write_parquet(folder / "test.parquet", test, test_labels)
    return f"images:source={folder}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar11", "unknown dataset 'cifar11'; did you mean 'cifar10' or 'cifar100'?"),
        ("digits:source=x", "digits has no option 'source'; it has: none"),
        ("cifar10:label=x", "cifar10 has no option 'label'; it has: first_classes, source, test, train"),
        ("cifar10:train=many", "cifar10: train must be of type int, got 'many'"),
        ("cifar10:test=-1", "cifar10: test must be at least 0, got -1"),
        ("cifar10:source=/nowhere", "cifar10: '/nowhere' is not a folder; give a folder of Parquet files or images"),
        ("images", "images needs a folder or a Hub name: images:source=FOLDER"),
        ("images:source=x,channels=2", "images: channels must be one of 1, 3, got 2"),
        ("images:source=x,train_split=a,test_split=a", "images: train_split and test_split must differ, got 'a'"),
    ],
)
def test_what_the_spec_says(spec, message):
    assert refusal(spec).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (",test_split=tset", "has no split 'tset'; there are: train, test; did you mean 'test'?"),
        (",train_split=training", "has no split 'training'; there are: train, test; did you mean 'train'?"),
        (",image=photo", "split train has no column 'photo'; there are: image, label"),
        (",label=labels", "split train has no column 'labels'; there are: image, label; did you mean 'label'?"),
        (",image=label", "split train: column 'label' must hold images, but holds Value('int64')"),
        (",label=image", "split train: column 'image' holds struct<bytes: binary, path: string>; labels must be whole"),
        (",train=21", "images: train=21 is not a multiple of the 2 classes: try 20"),
        (",train=15", "images: train=15 asks for fewer than 10 of each of the 2 classes: try 20"),
        (",train=18", "images: train=18 asks for fewer than 10 of each of the 2 classes: try 20"),
        (",test=1", "images: test=1 asks for fewer than 1 of each of the 2 classes: try 2"),
        (",test=3", "images: test=3 is not a multiple of the 2 classes: try 2 or 4"),
        (",train=30", "images: train=30 asks for 15 images of each class, but class 0 of "),
        (",test=6", "split test has 2: the most is 4"),
    ],
)
def test_what_a_set_lacks(tmp_path, options, message):
    assert message in refusal(set_of(tmp_path) + options)


@pytest.mark.parametrize("count", [1, 7, 20, 21, 23, 25, 40])
def test_the_numbers_that_are_advised_work(tmp_path, count):
    pictures = [encoded(picture(i)) for i in range(24)]
    spec = set_of(tmp_path, train=pictures, labels=[0, 1] * 12)
    if count == 20:
        advised = [count]
    else:
        advised = [int(n) for n in re.findall(r"\d+", re.split("try|the most is", refusal(f"{spec},train={count}"))[1])]
    for number in advised:
        splits = data.load(f"{spec},train={number}")
        assert len(splits.train) + len(splits.held_out) == number


def test_no_number_is_advised_where_none_works(tmp_path):
    spec = set_of(tmp_path, train=GOOD[:17], labels=LABELS[:17])
    where = f"{tmp_path}, split train"
    expected = f"images: train=16 is not possible: each class needs 10 or more, but class 1 of {where} has 8"
    assert refusal(f"{spec},train=16") == expected
    assert refusal(spec) == f"{where}: no class has 10 images to use, so none can be held out"


def test_a_set_with_one_split_lacks_the_other(tmp_path):
    write_parquet(tmp_path / "train.parquet", GOOD, LABELS)
    expected = "has no split 'test' or 'validation' or 'valid' or 'val' or 'dev'; there are: train"
    assert refusal(f"images:source={tmp_path}").endswith(expected)


def test_columns_are_looked_for_under_their_common_names(tmp_path):
    write_parquet(tmp_path / "train.parquet", GOOD, LABELS, ("photo", "kind"))
    write_parquet(tmp_path / "test.parquet", GOOD, LABELS, ("photo", "kind"))
    assert "has no column 'image' or 'img'; there are: photo, kind" in refusal(f"images:source={tmp_path}")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0, -1], "split test: 1 of 4 images have no label in column 'label'; the first is image 3 (-1)"),
        ([0, None, 0, None], "split test: 2 of 4 images have no label in column 'label'; the first is image 1 (None)"),
        ([None] * 4, "split test: 4 of 4 images have no label in column 'label'; the first is image 0 (None)"),
        (["cat", "dog", "cat", "dog"], "column 'label' holds string; labels must be whole numbers from 0"),
        ([0.0, 1.0, 0.0, 1.0], "column 'label' holds double; labels must be whole numbers from 0"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, message):
    # Files of one set must agree about the type, so the split in question is its own set's.
    write_parquet(tmp_path / "a" / "train.parquet", GOOD[:4], labels)
    write_parquet(tmp_path / "a" / "test.parquet", GOOD[:4], labels)
    assert message.replace("test", "train") in refusal(f"images:source={tmp_path / 'a'}")
    if isinstance(labels[0], int):
        assert message in refusal(set_of(tmp_path / "b", test_labels=labels))


def test_a_class_without_training_image(tmp_path):
    spec = set_of(tmp_path, labels=[0, 2] * 10, test_labels=[0, 2, 4, 4])
    assert refusal(spec).endswith("split train: class 1 has no image (nor have 2 others)")
    spec = set_of(tmp_path, labels=[0, 2] * 10)
    assert refusal(spec).endswith("split train: class 1 has no image")


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_that_are_identifiers(tmp_path, split):
    labels = {"train": LABELS[:], "test": [0, 1, 0, 1]}
    labels[split][3] = 10**12
    spec = set_of(tmp_path, labels=labels["train"], test_labels=labels["test"])
    assert refusal(spec) == (
        f"{tmp_path}, split train has 20 images for 1000000000001 classes, one for each number from 0 to the largest "
        "label of any split: if the labels are identifiers, number the classes 0, 1, 2 and so on instead"
    )


def test_classes_that_are_not_used_are_not_counted(tmp_path):
    spec = set_of(tmp_path, train=[*GOOD, GOOD[0]], labels=[*LABELS, 10**12])
    splits = data.load(f"{spec},first_classes=2")
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (18, 2, 4)


def test_a_class_of_a_folder_is_named(tmp_path):
    for split, name, count in (("train", "cat", 10), ("train", "dog", 2), ("test", "cat", 1), ("test", "emu", 1)):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / split / name / f"{i}.png").write_bytes(GOOD[i])
    assert refusal(f"images:source={tmp_path}").endswith("split train: class 2 (emu) has no image")


@pytest.mark.parametrize(
    ("row", "stored", "message"),
    [
        (0, b"no picture", "split train: image 0 cannot be decoded: cannot identify image file"),
        (7, GOOD[7][:-40], "split train: image 7 cannot be decoded: "),
        (19, b"", "split train: image 19 cannot be decoded: cannot identify image file"),
        (4, None, "split train: image 4 is empty"),
        (9, encoded(picture(9, (5, 6))), "image 9 is 5 pixels high and 6 wide, the first training image 6 and 5"),
        (3, encoded(np.full((6, 5), 999, np.uint16)), "image 3 has more than 8 bits per channel"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(tmp_path, row, stored, message):
    assert message in refusal(set_of(tmp_path, train=[*GOOD[:row], stored, *GOOD[row + 1 :]]))


def test_a_test_image_of_another_size_is_named(tmp_path):
    spec = set_of(tmp_path, test=[*GOOD[:3], encoded(picture(0, (4, 4)))])
    assert "split test: image 3 is 4 pixels high and 4 wide, the first training image 6 and 5" in refusal(spec)


@pytest.mark.parametrize("folder", ["{split}/cat", "{split}/{name}/images"])
def test_a_folder_of_one_class_or_without_a_folder_for_each(tmp_path, folder):
    for split in ("train", "test"):
        for i in range(20):
            file = tmp_path / folder.format(split=split, name=("cat", "dog")[i % 2]) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(GOOD[i])
    hint = "a folder of images needs a folder for each class, and two at least: train/cat/1.png, train/dog/1.png"
    assert refusal(f"images:source={tmp_path}").endswith(f"there are: image; {hint}")


def test_a_corrupt_file_of_a_folder_is_named(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(10):
            (tmp_path / folder / f"{i}.png").write_bytes(GOOD[i])
    file = tmp_path / "train" / "cat" / "5.png"
    file.write_bytes(GOOD[5][:60])
    assert f"split train: image 5 ({file}) cannot be decoded" in refusal(f"images:source={tmp_path}")


def test_folders_that_hold_nothing_readable(tmp_path):
    assert "as a folder of Parquet files or images" in refusal(f"images:source={tmp_path}")
    (tmp_path / "train.parquet").write_bytes(b"junk")
    (tmp_path / "test.parquet").write_bytes(b"junk")
    assert "as a folder of Parquet files or images: Parquet file size is 4 bytes" in refusal(
        f"images:source={tmp_path}"
    )


def test_a_file_is_no_folder(tmp_path):
    set_of(tmp_path)
    assert "train.parquet' is not a folder" in refusal(f"images:source={tmp_path / 'train.parquet'}")


def test_a_file_without_rows(tmp_path):
    write_parquet(tmp_path / "train.parquet", GOOD, LABELS)
    write_parquet(tmp_path / "test.parquet", GOOD[:0], LABELS[:0])
    assert "as a folder of Parquet files or images" in refusal(f"images:source={tmp_path}")


def test_another_set_under_a_known_name(tmp_path, shared_data):
    write_set(tmp_path)
    message = "is not cifar10, which has 10 classes and images of 32x32 pixels: there are 2 classes and images of 6x5"
    assert message in refusal(f"cifar10:source={tmp_path}")
    assert "is not cifar10" in refusal(f"cifar10:source={shared_data / 'mnist'},train=100,test=100")
