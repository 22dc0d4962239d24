"""The throughput script compares like with like: the same images, weights, batches and updates in both loops."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from replastic import benchmarks
from replastic.data import Dataset, Pixels, Splits
from replastic.training import Protocol

SIZES = {"settings": ["float32", "bfloat16+channels_last"], "device": "cpu"}


@pytest.fixture
def protocol() -> Protocol:
    smoke = benchmarks.get("vision_warm_start")().presets["smoke"].protocol
    return replace(smoke, trainer=replace(smoke.trainer, batch_size=8))


@pytest.fixture
def splits() -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (44, 3, 16, 16), dtype=torch.uint8, generator=generator)
    pixels = Pixels(torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25]))
    train = Dataset(images, torch.arange(44) % 4, 4, pixels)
    return Splits(train, train.first(4), train.first(4))


def test_the_plain_loop_decodes_what_the_library_normalises(script, splits: Splits) -> None:
    files = script("plain_loop").Files(splits.train)
    inputs, targets = splits.train.batch(slice(None))
    assert len(files) == 44
    assert files.files[0].startswith(b"\x89PNG")
    for index in (0, 43):
        image, target = files[index]
        assert target == targets[index]
        torch.testing.assert_close(image, inputs[index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_both_loops_make_the_same_updates(script, protocol: Protocol, splits: Splits, workers: int) -> None:
    throughput, loop = script("vision_throughput"), script("plain_loop")
    library = throughput.Library(protocol, splits, "float32", 3, 40, "cpu")
    plain = loop.Plain(protocol, splits.train, loop.Files(splits.train), 3, 40, "cpu", workers)
    start = {n: p.clone() for n, p in plain.model.state_dict().items()}
    assert all(torch.equal(p, start[n]) for n, p in library.session.model.state_dict().items())
    for updates in (4, 8):  # the second goes on where the first stopped, into the second pass over the data
        torch.testing.assert_close(plain.advance(updates), library.advance(updates), rtol=2e-3, atol=2e-3)
    moved = [not torch.equal(p, start[n]) for n, p in plain.model.state_dict().items()]
    assert all(moved)


def test_another_seed_is_another_curve(script, protocol: Protocol, splits: Splits) -> None:
    throughput = script("vision_throughput")
    first, second = (throughput.Library(protocol, splits, "float32", s, 4, "cpu").advance(4) for s in (0, 1))
    assert float((first - second).abs().max()) > 0.05


def test_throughput_is_that_of_the_rounds_and_the_goal_is_the_best_settings(
    script, monkeypatch: pytest.MonkeyPatch, protocol: Protocol, splits: Splits
) -> None:
    throughput = script("vision_throughput")
    seconds = {"plain, 0 workers": [4.0, 2.0, 8.0], "library, float32": [2.0, 1.0, 2.0]}
    seconds["library, bfloat16+channels_last"] = [1.0, 0.5, 2.0]

    def in_turn(work, repeats, prepare):
        assert list(work) == list(seconds)
        assert repeats == 3
        for contestant in work.values():
            contestant()
        return seconds

    monkeypatch.setattr(throughput, "in_turn", in_turn)
    rows = throughput.throughput(protocol, splits, **SIZES, workers=[0], updates=2, repeats=3)
    assert [(r.what, r.variant, r.value, r.goal) for r in rows] == [
        ("images a second", "plain, 0 workers", 16 / 4.0, None),
        ("images a second", "library, float32", 16 / 2.0, None),
        ("images a second", "library, bfloat16+channels_last", 16 / 1.0, None),
        ("speed / plain, 0 workers", "library, float32", 2.0, None),
        ("speed / plain, 0 workers", "library, bfloat16+channels_last", 4.0, 3.0),
    ]
    assert rows[0].note == "rounds from 2 to 8"


def test_curves_report_the_paired_difference(
    script, monkeypatch: pytest.MonkeyPatch, protocol: Protocol, splits: Splits
) -> None:
    throughput = script("vision_throughput")
    shift = {"float32": [0.01, -0.01, 0.0], "bfloat16+channels_last": [0.5, 0.6, 0.7]}

    def plain(protocol, images, files, seed, updates, device, workers):
        return Curve(torch.linspace(3, 1, updates) + seed)

    class Curve:
        def __init__(self, losses: torch.Tensor) -> None:
            self.losses = losses

        def advance(self, updates: int) -> torch.Tensor:
            assert updates == len(self.losses)
            return self.losses

        def close(self) -> None:
            closed.append(self)

    closed: list[Curve] = []

    def library(protocol, splits, setting, seed, updates, device):
        return Curve(torch.linspace(3, 1, updates) + seed + shift[setting][seed])

    monkeypatch.setattr(throughput, "Plain", plain)
    monkeypatch.setattr(throughput, "Library", library)
    rows = throughput.curves(protocol, splits, **SIZES, seeds=3, updates=30, workers=0)
    assert len(closed) == 3
    values = {(r.what, r.variant): r for r in rows}
    assert {r.what for r in rows} == {"loss, updates 1 to 25", "loss, updates 26 to 30", "loss - plain, all updates"}
    expected = torch.linspace(3, 1, 30)[25:].mean() + 1  # the mean over seeds 0, 1, 2
    assert values["loss, updates 26 to 30", "plain"].value == pytest.approx(float(expected), abs=1e-6)
    equal = values["loss - plain, all updates", "float32"]
    assert equal.value == pytest.approx(0, abs=1e-6)
    half = 4.302653 * 0.01 / 3**0.5  # Student's t with 2 degrees of freedom; the standard deviation is 0.01
    assert equal.note.startswith(f"[{-half:.2g}, {half:.2g}], equal within noise; seeds of the plain loop vary by 1")
    higher = values["loss - plain, all updates", "bfloat16+channels_last"]
    assert higher.value == pytest.approx(0.6, abs=1e-6)
    assert "HIGHER" in higher.note


def test_settings_are_words_joined_by_plus(script) -> None:
    words = script("vision_throughput").words
    assert words("float32") == {"precision": "float32", "channels_last": False, "compiled": False}
    assert words("bfloat16+compiled+channels_last") == {
        "precision": "bfloat16",
        "channels_last": True,
        "compiled": True,
    }
    with pytest.raises(SystemExit, match="unknown setting float16"):
        words("float16+channels_last")


@pytest.mark.slow
def test_the_whole_script(
    script, shared_data, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = f"--data cifar100:source={shared_data / 'cifar100'},train=1000,test=100 --preset small --settings float32 "
    asked += f"--workers 0 --updates 1 --repeats 1 --curve 2 --seeds 2 --json {tmp_path / 'out.json'}"
    monkeypatch.setattr("sys.argv", ["vision_throughput.py", *asked.split()])
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path))
    script("vision_throughput").main()
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert len(rows) == 3 + 3
    assert "| speed / plain, 0 workers | library, float32 |" in capsys.readouterr().out
