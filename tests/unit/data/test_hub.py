"""Data sets by Hub name: which name is asked for, in which form the Hub has them, and what is said without it."""

from __future__ import annotations

import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch

from replastic import data
from replastic.errors import UserError


@pytest.fixture
def hub(monkeypatch):
    """Sets by name, in place of the Hub; and what was asked of it, in order."""
    sets, asked = {}, []

    def load_dataset(name, config=None, **_):
        asked.append((name, config))
        return sets[name]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return sets, asked


def as_on_the_hub(image, label, splits, classes, shape, also=()):
    """Ten training images and one test image of each class, with columns and splits named as on the Hub."""
    features = datasets.Features(
        {image: datasets.Image(), label: datasets.ClassLabel(num_classes=classes)}
        | {name: datasets.Value("int64") for name in also}
    )
    made, pixels = {}, {}
    for split, count in zip(splits, (10 * classes, classes), strict=True):
        draw = np.random.default_rng(count)
        pixels[split] = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
        columns = {image: list(pixels[split]), label: [i % classes for i in range(count)]}
        columns |= {name: [0] * count for name in also}
        made[split] = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(made), pixels


@pytest.mark.parametrize(
    ("name", "hub_name", "form"),
    [
        ("cifar10", "uoft-cs/cifar10", ("img", "label", ("train", "test"), 10, (32, 32, 3))),
        ("cifar100", "uoft-cs/cifar100", ("img", "fine_label", ("train", "test"), 100, (32, 32, 3), ("coarse_label",))),
        ("tiny_imagenet", "zh-plus/tiny-imagenet", ("image", "label", ("train", "valid"), 200, (64, 64, 3))),
        ("mnist", "ylecun/mnist", ("image", "label", ("train", "test"), 10, (28, 28))),
    ],
)
def test_each_set_is_read_as_the_hub_has_it(hub, name, hub_name, form):
    sets, asked = hub
    sets[hub_name], pixels = as_on_the_hub(*form)
    splits = data.load(name)
    assert asked == [(hub_name, None)]
    last = torch.from_numpy(pixels[form[2][1]])
    last = last[:, None] if last.ndim == 3 else last.permute(0, 3, 1, 2)
    assert torch.equal(splits.test.inputs, last)
    assert splits.test.targets.tolist() == list(range(form[3]))
    assert len(splits.train) == 9 * form[3]


def test_what_the_hub_gave_is_kept_without_asking_again(hub):
    from replastic.data import loading

    sets, asked = hub
    sets["someone/some-set"], _ = as_on_the_hub("image", "label", ("train", "test"), 2, (4, 4, 3))
    first = data.load("images:source=someone/some-set,config=small")
    loading._REMEMBERED.clear()
    assert torch.equal(data.load("images:source=someone/some-set,config=small").train.inputs, first.train.inputs)
    assert asked == [("someone/some-set", "small")]
    data.load("images:source=someone/some-set")
    assert asked[1:] == [("someone/some-set", None)]


def test_a_folder_of_the_name_goes_before_the_hub(hub, tmp_path, monkeypatch):
    sets, asked = hub
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("REPLASTIC_DATA", str(tmp_path))
    sets[str(tmp_path / "cifar10")], _ = as_on_the_hub("img", "label", ("train", "test"), 10, (32, 32, 3))
    sets["uoft-cs/cifar100"], _ = as_on_the_hub("img", "fine_label", ("train", "test"), 100, (32, 32, 3))
    data.load("cifar10")
    data.load("cifar100")
    assert asked == [(str(tmp_path / "cifar10"), None), ("uoft-cs/cifar100", None)]


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["images", "cifar10"])
def test_a_source_that_is_neither_folder_nor_on_the_hub(offline, name):
    with pytest.raises(UserError) as caught:
        data.load(f"{name}:source=photosmissing")
    message = str(caught.value)
    expected = f"{name}: 'photosmissing' is not a folder here, and cannot be fetched from the Hugging Face Hub: "
    assert message.startswith(expected)
    assert message.endswith(f"or give a folder of Parquet files or images: {name}:source=FOLDER")


def test_without_the_hub_a_folder_is_asked_for(offline):
    with pytest.raises(UserError) as caught:
        data.load("cifar10")
    message = str(caught.value)
    assert message.startswith("cifar10: cannot fetch 'uoft-cs/cifar10' from the Hugging Face Hub: ")
    assert message.endswith(
        "Check the name and the network, or give a folder of Parquet files or images: cifar10:source=FOLDER, or "
        "$REPLASTIC_DATA/cifar10"
    )


def test_an_empty_split(hub):
    sets, _ = hub
    sets["someone/none"], _ = as_on_the_hub("image", "label", ("train", "test"), 2, (4, 4, 3))
    sets["someone/none"]["test"] = sets["someone/none"]["test"].select([])
    with pytest.raises(UserError, match="someone/none, split test is empty"):
        data.load("images:source=someone/none")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_sentence():
    program = "from replastic import data\ntry: data.load('mnist')\nexcept ValueError as error: print(error)"
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mnist: cannot fetch 'ylecun/mnist' from the Hugging Face Hub: ")
    assert done.stdout.count("\n") == 1
