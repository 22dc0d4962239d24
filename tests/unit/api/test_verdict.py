"""One verdict from all evidence: a network that died over thirty tasks, a healthy one, and what is said of each."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import replastic
from replastic import linalg, networks
from replastic.api._signs import UnitHealth, unit_health
from replastic.api.verdict import judge
from replastic.datasets.digits import Digits
from replastic.networks.mlp import Mlp
from replastic.streams.random_labels import RandomLabels

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


@cache
def trained(tasks: int, learning_rate: float) -> tuple[nn.Module, Batch, float]:
    """A small network after tasks of random labels on the digits, the last task, and the accuracy on it."""
    stream, splits = RandomLabels(tasks=tasks, images=300, steps=40), Digits().splits()
    model = networks.build(Mlp(hidden=(48, 48, 48)), splits.train.sample_shape, 10, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    draw = torch.Generator().manual_seed(0)
    for task in range(tasks):
        data = stream.phase(splits, task, 0).train
        for _ in range(40):
            optimizer.zero_grad()
            loss_fn(model, data.batch(torch.randint(len(data), (64,), generator=draw))).backward()
            optimizer.step()
    batch = (data.inputs, data.targets)
    with torch.no_grad():
        accuracy = float((model(batch[0]).argmax(1) == batch[1]).double().mean())
    return model, batch, accuracy


@pytest.fixture
def dead() -> tuple[nn.Module, Batch]:
    model, batch, accuracy = trained(30, 0.01)
    assert accuracy < 0.2
    return copy.deepcopy(model), batch


@pytest.fixture
def healthy() -> tuple[nn.Module, Batch]:
    model, batch, _ = trained(1, 0.001)
    return copy.deepcopy(model), batch


def test_the_dead_network_is_called_dead_by_its_units(dead: tuple[nn.Module, Batch]) -> None:
    model, batch = dead
    found = replastic.diagnose(model, batch, loss_fn)
    assert not found.weights.collapsed  # its spectra alone look well
    assert found.state == "lost"
    assert found.verdict.startswith("It shows signs of lost plasticity: 3 of 3 layers of units have gone quiet")
    assert "the features of layer" in found.verdict
    assert "no gradient reaches" in found.verdict
    assert "the spectra of its weights do not show it" in found.verdict
    assert "othing looks collapsed" not in str(found)
    assert "replastic.fire_(model, optimizer)" in found.verdict
    assert "diagnose(model, batch, loss_fn)." not in found.verdict  # the call just made


def test_the_dead_network_without_a_loss(dead: tuple[nn.Module, Batch]) -> None:
    model, batch = dead
    found = replastic.diagnose(model, batch)
    assert found.state == "lost"
    assert "gone quiet" in found.verdict


def test_a_trial_of_the_dead_network(dead: tuple[nn.Module, Batch]) -> None:
    model, batch = dead
    found = replastic.diagnose(model, batch, loss_fn, trial=60)
    assert found.trial is not None
    assert [course.state for course in found.trial.courses] == ["lost", "lost"]
    assert found.state == "lost"
    assert found.verdict.startswith("It no longer learns as a fresh network does. In 60 steps of Adam (learning rate")
    assert "on random labels it removes" in found.verdict
    assert "trial=" not in found.verdict  # the call just made
    assert "replastic.fire_(model, optimizer)" in found.verdict
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["state"] == "lost"
    assert content["trial"]["courses"][1]["fresh_removed"] > 0.1 > 10 * content["trial"]["courses"][1]["removed"]


def test_the_healthy_network(healthy: tuple[nn.Module, Batch]) -> None:
    model, batch = healthy
    found = replastic.diagnose(model, batch, loss_fn)
    assert found.state == "sound"
    assert found.verdict.startswith("No sign of lost plasticity: the narrowest weight")
    assert "fire" not in found.verdict
    assert "trial=200" in found.verdict
    measured = replastic.diagnose(model, batch, loss_fn, trial=60)
    assert measured.state == "sound"
    assert measured.verdict.startswith("It learns as a fresh network does: in 60 steps of Adam")
    assert measured.verdict.endswith("Nothing needs restoring.")
    assert "trial=" not in measured.verdict


def test_after_a_projection_another_one_is_not_advised(dead: tuple[nn.Module, Batch]) -> None:
    model, _ = dead
    replastic.fire_(model)
    quiet = UnitHealth("a", dormant=0.95, srank=30, units=40, samples=100)
    found = judge(replastic.diagnose(model).weights, (quiet,))
    assert found.state == "lost"
    assert "Its matrices are isometric already, as fire leaves them" in found.words
    assert "fire_(" not in found.words
    assert 'replastic.during("redo"' in found.words


def test_weights_alone_cannot_tell(dead: tuple[nn.Module, Batch], tmp_path: Path) -> None:
    model, _ = dead
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    for verdict in (replastic.inspect(tmp_path / "m.safetensors").verdict, replastic.diagnose(model).verdict):
        assert "Weights alone cannot tell" in verdict
        assert "replastic.diagnose(model, batch, loss_fn)" in verdict
    assert replastic.diagnose(model).state == "unknown"


def test_one_quiet_layer_alone_proves_nothing(healthy: tuple[nn.Module, Batch]) -> None:
    weights = replastic.diagnose(healthy[0]).weights
    good = UnitHealth("b", dormant=0.0, srank=30, units=40, samples=100)
    half = UnitHealth("a", dormant=0.55, srank=30, units=40, samples=100)
    doubtful = judge(weights, (half, good, good))
    assert doubtful.state == "doubtful"
    assert doubtful.words.startswith(
        "Signs that alone prove nothing: 1 of 3 layers of units has gone quiet (in layer a"
    )
    assert judge(weights, (half, half, good)).state == "lost"
    narrow = UnitHealth("a", dormant=0.0, srank=3, units=40, samples=100)
    assert judge(weights, (narrow, good)).words.startswith(
        "Signs that alone prove nothing: the features of layer a have effective rank 3 of 40"
    )
    assert judge(weights, (good,)).state == "sound"


def test_units_seen_on_few_samples_are_not_judged(healthy: tuple[nn.Module, Batch]) -> None:
    model, (inputs, labels) = healthy
    found = replastic.diagnose(model, (inputs[:1], labels[:1]), loss_fn)
    assert max(unit.idle for unit in found.units) >= 0.25, "on one sample many units of a sound network are silent"
    assert found.state == "unknown"
    assert "a layer was seen on 1 sample: units of layers with fewer than 16" in str(found)
    assert not any("judged" in note for note in replastic.diagnose(model, (inputs[:16], labels[:16]), loss_fn).notes)
    quiet = UnitHealth("a", dormant=0.95, srank=30, units=40, samples=15)
    enough = UnitHealth("a", dormant=0.95, srank=30, units=40, samples=16)
    weights = replastic.diagnose(model).weights
    assert (judge(weights, (quiet,)).state, judge(weights, (enough,)).state) == ("unknown", "lost")


def test_saturated_units_are_seen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Sigmoid(), nn.Linear(32, 2))
    x = torch.randn(200, 8)
    assert [u.stuck for u in unit_health(model, x, None)] == [0.0, 0.0]
    with torch.no_grad():
        model[0].weight[:16] *= 1000  # at -1 or 1 for nearly every sample
        model[2].bias[:8] += 30  # at 1
    first, second = unit_health(model, x, None)
    assert (first.stuck, second.stuck) == (0.5, 0.25)
    assert first.idle == first.dormant + 0.5
    found = replastic.diagnose(model, x)
    assert "50% do not respond" in found.verdict


def test_stuck_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0, 5.0, 0.2], [1.0, 0.0, 5.001, 3.0], [1.0, 0.0, 5.0, 1.0]])
    assert linalg.stuck(features).tolist() == [True, False, True, False]
    assert not linalg.stuck(features[:1]).any()
