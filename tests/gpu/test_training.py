"""Training on the device: every learner, killed and gone on with, to equal records; seeds, data, settings of speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from replastic import methods
from replastic.data import Dataset, Pixels, Splits
from replastic.learners import Trainer
from replastic.learners.bit_flipping import BitFlipping
from replastic.learners.classification import Classification
from replastic.learners.language import Language
from replastic.networks.gpt import Gpt
from replastic.networks.mlp import Mlp
from replastic.networks.resnet18 import ResNet18
from replastic.records import RunDirectory
from replastic.seeds import drawing_from
from replastic.streams.warm_start import WarmStart
from replastic.training import Protocol, speed, train
from support.small_runs import content
from support.tiny_agents import IN_CORRIDOR
from support.toy_games import games

pytestmark = pytest.mark.gpu
Source = tuple[Protocol, Any]


class Stop(Exception):
    """As sudden as a kill."""


def bits(device: str) -> Source:
    task = BitFlipping(bits=7, slow_bits=4, flips=3, updates=12, target_units=9, window=2, network=Mlp(hidden=(8,)))
    return Protocol(task=task, trainer=Trainer(batch_size=5, learning_rate=0.05, save_seconds=0.0)), task.open(device)


def pictures(device: str, count: int = 80) -> Splits:
    """Noise in ten classes, as bytes with a rule of pixels."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (count, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    rule = Pixels(torch.full((3,), 0.5), torch.full((3,), 0.25))
    whole = Dataset(inputs, labels, 4, rule)
    half = count // 2
    parts = (slice(0, half), slice(half, half + count // 4), slice(half + count // 4, count))
    return Splits(*(whole.take(torch.arange(count)[part]) for part in parts)).to(device)


def classes(device: str) -> Source:
    task = Classification(
        data="cifar10",
        stream=WarmStart(first_epochs=2, epochs=2, ratio=0.5),
        network=ResNet18(width=4, blocks=(1, 1), head=(8,)),
    )
    trainer = Trainer(batch_size=10, evaluate_every=1, save_seconds=0.0)
    return Protocol(task=task, trainer=trainer, recipe="paper-cnn", metrics=("dfi",)), pictures(device)


def texts(device: str) -> Source:
    task = Language(
        first="grammar:count=12,sentences=10",
        second="grammar:count=12,sentences=10,dialect=1",
        tokenizer="bpe:size=280",
        block=16,
        first_updates=4,
        updates=4,
        evaluations=2,
        validation=3,
        network=Gpt(depth=1, heads=2, dim=8),
    )
    return Protocol(task=task, trainer=Trainer(batch_size=4, save_seconds=0.0), recipe="paper-gpt"), task.open(device)


def corridor(device: str) -> Source:
    trainer = Trainer(batch_size=4, learning_rate=1e-3, warmup=0.0, clip_norm=0.0, save_seconds=0.0)
    return Protocol(task=IN_CORRIDOR, trainer=trainer), games()


LEARNERS: dict[str, Callable[[str], Source]] = {
    "bit_flipping": bits,
    "classification": classes,
    "dqn": corridor,
    "language": texts,
}
every_learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS.keys())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(source: Source, folder: Path, device: torch.device, stop_at: float | None = None) -> RunDirectory:
    directory = RunDirectory(folder)

    def progress(phases: float) -> None:
        if stop_at is not None and phases >= stop_at:
            raise Stop

    try:
        train(*source, methods.from_spec("fire"), 3, directory, device=str(device), progress=progress)
    except Stop:
        assert not directory.done
    return directory


@every_learner
@pytest.mark.usefixtures("repeatable")
def test_a_killed_run_ends_in_the_same_numbers(
    make: Callable[[str], Source], device: torch.device, tmp_path: Path
) -> None:
    whole = content(run(make(str(device)), tmp_path / "whole", device))
    assert {record["phase"] for record in whole} >= {0, 1}
    for stop in (0.4, 1.0, 1.6):
        folder = tmp_path / str(stop)
        run(make(str(device)), folder, device, stop_at=stop)
        assert content(run(make(str(device)), folder, device)) == whole, f"stopped at phase {stop}"


@every_learner
def test_records_are_near_the_cpus(make: Callable[[str], Source], device: torch.device, tmp_path: Path) -> None:
    """The first numbers of a run, before rounding has grown; the draws are the CPU's."""
    found = content(run(make(str(device)), tmp_path / "device", device))
    expected = content(run(make("cpu"), tmp_path / "cpu", torch.device("cpu")))
    assert [(r["event"], r["step"]) for r in found] == [(r["event"], r["step"]) for r in expected]
    first, other = found[0], expected[0]
    assert first.keys() == other.keys()
    if "metric/train_loss" in first:
        assert first["metric/train_loss"] == pytest.approx(other["metric/train_loss"], rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"channels_last": True}], ids=str)
def test_settings_of_speed_train(settings: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    protocol, source = classes(str(device))
    protocol = replace(protocol, trainer=replace(protocol.trainer, **settings))
    directory = run((protocol, source), tmp_path, device)
    assert directory.done
    losses = [r["metric/train_loss"] for r in directory.records() if "metric/train_loss" in r]
    assert all(loss == loss for loss in losses)


def test_the_probe_of_speed_times_each_setting(device: torch.device) -> None:
    protocol, source = classes(str(device))
    choice = speed.choose(protocol, source, str(device), compiled=False)
    assert len(choice.table) == 4
    assert all(value > 0 for value in choice.table.values())


@pytest.mark.parametrize("part", ["train", "held_out", "test"])
def test_images_lie_on_the_device_whole_and_unchanged(part: str, device: torch.device) -> None:
    there, here = getattr(pictures(str(device)), part), getattr(pictures("cpu"), part)
    assert there.inputs.device == there.targets.device == device
    assert torch.equal(there.inputs.cpu(), here.inputs)
    assert torch.equal(there.targets.cpu(), here.targets)


def test_the_checksum_is_that_of_the_cpu(device: torch.device) -> None:
    assert pictures(str(device)).checksum() == pictures("cpu").checksum()


def test_global_generators_of_the_device_are_seeded_and_put_back(device: torch.device) -> None:
    model = nn.Linear(3, 3).to(device)
    torch.manual_seed(5)
    after = torch.rand(4, device=device), torch.rand(4)
    torch.manual_seed(5)
    with drawing_from(9, model):
        inside = torch.rand(4, device=device), torch.rand(4)
    assert torch.equal(torch.rand(4, device=device), after[0])
    assert torch.equal(torch.rand(4), after[1])
    with drawing_from(9, model):
        again = torch.rand(4, device=device), torch.rand(4)
    assert torch.equal(inside[0], again[0])
    assert torch.equal(inside[1], again[1])
