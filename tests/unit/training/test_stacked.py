"""Runs trained together have the records of runs trained one by one, whatever their method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic import methods, networks
from replastic.data import Splits
from replastic.learners.bit_flipping import BitFlipping
from replastic.methods import Method
from replastic.networks._activations import ACTIVATIONS
from replastic.networks.convnet import ConvNet
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol, resume, stacked, train
from replastic.training.failures import DivergedError
from replastic.training.loop import Segment, course
from replastic.training.session import Session
from replastic.training.stacked_layers import unstackable
from replastic.training.together import train_together
from support.small_runs import Dropper, begun, trained_by, with_task

ACTING = {
    "redo": "redo:every=5,batches=3,dormancy_threshold=0.5",
    "hare_tortoise": "hare_tortoise:every=7,momentum=0.9",
    "ewc": "ewc:samples=20",
    "interpolation": "interpolation:strength=0.8",
    "average": "average:last=2",
}
"""Options with which methods act in so few updates, or that they need."""
Run = tuple[Method, int]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch, splits: Splits) -> Splits:
    """Data in float64, for networks that are in float64 from now on."""
    build = networks.build
    monkeypatch.setattr(networks, "build", lambda *given: build(*given).double())
    doubled = [replace(part, inputs=part.inputs.double()) for part in (splits.train, splits.held_out, splits.test)]
    return Splits(*doubled)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of runs of each segment that was trained together."""
    counts: list[int] = []
    together = stacked.train

    def counted(segments: Any) -> None:
        counts.append(len(segments))
        together(segments)

    monkeypatch.setattr(stacked, "train", counted)
    return counts


def alone(protocol: Protocol, source: Any, runs: list[Run], path: Path) -> list[RunDirectory]:
    folders = [RunDirectory(path / str(index)) for index in range(len(runs))]
    for (method, seed), folder in zip(runs, folders, strict=True):
        train(protocol, source, method, seed, folder)
    return folders


def together(
    protocol: Protocol, source: Any, runs: list[Run], path: Path, **more: Any
) -> tuple[list[RunDirectory], dict[int, Exception]]:
    folders = [RunDirectory(path / str(index)) for index in range(len(runs))]
    courses = [
        course(protocol, source, method, seed, folder, **more)
        for (method, seed), folder in zip(runs, folders, strict=True)
    ]
    return folders, train_together(courses)


def agree(one: RunDirectory, other: RunDirectory, tolerance: float) -> None:
    """The same records, key by key and in the same order; numbers within a tolerance."""
    assert one.done
    assert other.done
    ours, theirs = one.records(), other.records()
    assert [list(record) for record in ours] == [list(record) for record in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for key, value in a.items():
            if key == "seconds":
                assert isinstance(b[key], float)
            elif isinstance(value, str | int):
                assert b[key] == value
            else:
                assert b[key] == pytest.approx(value, rel=tolerance, abs=tolerance, nan_ok=True), key


def segment(session: Session) -> Segment:
    """The first three updates of a run."""
    return Segment(session, 0, 0, 3, session.learner.extent(0))


def of(*specs: str) -> list[Run]:
    return [(methods.from_spec(spec), seed) for seed, spec in enumerate(specs)]


@pytest.mark.parametrize(("policy", "clip_norm"), [("reset_all", 0.1), ("reset_touched", 0.1), ("keep", 0.0)])
def test_the_records_are_those_of_the_plain_loop(
    policy: str, clip_norm: float, protocol: Protocol, exact: Splits, tmp_path: Path, shared: list[int]
) -> None:
    protocol = replace(
        trained_by(protocol, optimizer_policy=policy, clip_norm=clip_norm, evaluate_every=1, weight_decay=0.1),
        metrics=("dfi", "weight_norm"),
        boundary_metrics=("sfe",),
    )
    specs = ("base", "fire", "full_reset", "shrink_perturb", "l2", "base")
    plain = alone(protocol, exact, of(*specs), tmp_path / "plain")
    both, failed = together(protocol, exact, of(*specs), tmp_path / "stack")
    assert not failed
    assert set(shared) == {len(specs)}  # with reset_touched, too, where the methods' optimizers are of several ages
    for one, other in zip(plain, both, strict=True):
        agree(one, other, 1e-9)
    seeds = [[record.get("metric/train_loss") for record in folder.records()] for folder in both]
    assert len({str(losses) for losses in seeds}) == len(specs)


@pytest.mark.parametrize("name", [name for name in methods.names() if "replay" not in methods.get(name).needs])
def test_every_method_is_equal_or_says_why_it_trains_alone(
    name: str, protocol: Protocol, exact: Splits, tmp_path: Path, shared: list[int]
) -> None:
    spec = ACTING.get(name, name)
    if "checkpoints" in methods.get(name).needs:
        protocol = trained_by(protocol, checkpoints=True, evaluate_every=1)
    with begun(protocol, exact, methods.from_spec(spec)) as session:
        reason = stacked.obstacle(session)
    protocol = with_task(protocol, stream=RandomLabels(tasks=2, images=50, steps=12))
    plain = alone(protocol, exact, of(spec, spec), tmp_path / "plain")
    both, failed = together(protocol, exact, of(spec, spec), tmp_path / "stack")
    assert not failed
    assert set(shared) == (set() if reason else {2})
    for one, other in zip(plain, both, strict=True):
        agree(one, other, 1e-9)


@pytest.mark.parametrize(
    ("activation", "norm"), [*((name, "none") for name in ACTIVATIONS), ("relu", "layer"), ("crelu", "layer")]
)
def test_networks(
    activation: str, norm: str, protocol: Protocol, exact: Splits, tmp_path: Path, shared: list[int]
) -> None:
    protocol = with_task(protocol, stream=RandomLabels(tasks=1, images=50, steps=12))
    protocol = with_task(protocol, network=Mlp(hidden=(17, 9), activation=activation, norm=norm))
    protocol = trained_by(protocol, optimizer="sgd", momentum=0.9, learning_rate=0.05)
    plain = alone(protocol, exact, of("base", "fire"), tmp_path / "plain")
    both, failed = together(protocol, exact, of("base", "fire"), tmp_path / "stack")
    assert not failed
    assert shared
    for one, other in zip(plain, both, strict=True):
        agree(one, other, 1e-9)


def test_another_kind_of_learning(tmp_path: Path, shared: list[int]) -> None:
    protocol = Protocol(task=BitFlipping(bits=6, slow_bits=3, flips=3, updates=20, network=Mlp(hidden=(5,))))
    source = protocol.task.open()
    plain = alone(protocol, source, of("base", "fire", "l2"), tmp_path / "plain")
    both, failed = together(protocol, source, of("base", "fire", "l2"), tmp_path / "stack")
    assert not failed
    assert set(shared) == {3}
    for one, other in zip(plain, both, strict=True):
        agree(one, other, 1e-4)  # float32: this learner makes its own inputs


class Stop(BaseException):
    """As sudden as a kill."""


@pytest.mark.parametrize("stop", [0.2, 1.0, 2.6])
def test_stopped_and_resumed_alone_or_together(stop: float, protocol: Protocol, exact: Splits, tmp_path: Path) -> None:
    protocol = trained_by(protocol, evaluate_every=1, save_seconds=0)
    specs = ("base", "fire", "l2")
    whole = alone(protocol, exact, of(*specs), tmp_path / "whole")

    def progress(phases: float) -> None:
        if phases >= stop:
            raise Stop

    with pytest.raises(Stop):
        together(protocol, exact, of(*specs), tmp_path / "part", progress=progress)
    assert not any(RunDirectory(tmp_path / "part" / str(index)).done for index in range(3))
    train(protocol, exact, *of(*specs)[0], RunDirectory(tmp_path / "part" / "0"))
    rest = [course(protocol, exact, *of(*specs)[i], RunDirectory(tmp_path / "part" / str(i))) for i in (1, 2)]
    assert not train_together(rest)
    for index in range(3):
        agree(whole[index], RunDirectory(tmp_path / "part" / str(index)), 1e-9)


def test_what_is_saved_is_what_the_plain_loop_saves(protocol: Protocol, exact: Splits, tmp_path: Path) -> None:
    plain, both = RunDirectory(tmp_path / "plain"), RunDirectory(tmp_path / "stack" / "0")
    for (method, seed), until in zip(of("fire"), [2], strict=True):
        train(protocol, exact, method, seed, plain, until=until)
    together(protocol, exact, of("fire", "l2"), tmp_path / "stack", until=2)
    ours, theirs = (resume.state_file.read(resume._file(folder)) for folder in (plain, both))
    assert ours[0].keys() == theirs[0].keys()
    for name, value in ours[0].items():
        torch.testing.assert_close(theirs[0][name], value, rtol=1e-9, atol=1e-9)
    assert {**ours[1], "records": 0, "seconds": 0} == {**theirs[1], "records": 0, "seconds": 0}


def test_runs_that_stand_at_different_places_meet(
    protocol: Protocol, exact: Splits, tmp_path: Path, shared: list[int]
) -> None:
    whole = alone(protocol, exact, of("base", "fire"), tmp_path / "whole")
    train(protocol, exact, *of("base")[0], RunDirectory(tmp_path / "part" / "0"), until=2)
    (tmp_path / "part" / "0" / "DONE").unlink()
    both, failed = together(protocol, exact, of("base", "fire"), tmp_path / "part")
    assert not failed
    assert shared == [2]
    for one, other in zip(whole, both, strict=True):
        agree(one, other, 1e-9)


class Poison(Method):
    """Makes the gradient of one run infinite at one update."""

    def penalty(self, run: Any) -> Tensor:
        return run.model.head.bias.sum() * (math.inf if run.step == 17 else 0.0)


def test_a_network_that_breaks_fails_alone(
    protocol: Protocol, exact: Splits, tmp_path: Path, shared: list[int]
) -> None:
    whole = alone(protocol, exact, of("base", "fire"), tmp_path / "whole")
    runs = [*of("base", "fire"), (Poison(), 5)]
    both, failed = together(protocol, exact, runs, tmp_path / "stack")
    assert shared == [3, 3, 2]
    assert list(failed) == [2]
    assert isinstance(failed[2], DivergedError)
    assert "the loss became nan at update 18 (phase 1, update 6 of 12)" in str(failed[2])
    assert not both[2].done
    assert [record["event"] for record in both[2].records()] == ["phase_end", "before_boundary", "boundary"]
    for one, other in zip(whole, both[:2], strict=True):
        agree(one, other, 1e-9)


def test_the_weights_stay_the_same_objects(protocol: Protocol, exact: Splits) -> None:
    with (
        begun(protocol, exact, methods.from_spec("base")) as a,
        begun(protocol, exact, methods.from_spec("l2"), 1) as b,
    ):
        before = [[(id(p), p.data_ptr()) for p in s.model.parameters()] for s in (a, b)]
        values = [p.clone() for p in a.model.parameters()]
        for session in (a, b):
            session.learner.begin(0, 0)
        segments = [segment(session) for session in (a, b)]
        stacked.train(segments)
        assert before == [[(id(p), p.data_ptr()) for p in s.model.parameters()] for s in (a, b)]
        assert all(p.grad is None for p in a.model.parameters())
        assert not any(torch.equal(p, old) for p, old in zip(a.model.parameters(), values, strict=True))
        assert [len(one.losses) for one in segments] == [3, 3]
        assert a.attached.run.step == b.attached.run.step == 3


def changes() -> Iterator[tuple[str, Mapping[str, Any], str]]:
    yield "accumulate", {"accumulate": 2}, "in parts"
    yield "bfloat16", {"precision": "bfloat16"}, "bfloat16"
    yield "channels last", {"channels_last": True}, "channels last"


@pytest.mark.parametrize(("change", "said"), [(change, said) for _, change, said in changes()])
def test_settings_that_stand_in_the_way(change: dict[str, Any], said: str, protocol: Protocol, splits: Splits) -> None:
    with begun(trained_by(protocol, **change), splits, methods.from_spec("base")) as session:
        assert said in stacked.obstacle(session)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("redo", "watches the network"),
        ("nap", "watches the network"),
        ("plasticity_injection", "changes the network"),
        ("base", ""),
        ("fire", ""),
        ("ewc+fire", ""),
        ("ewc+redo", "watches the network"),
    ],
)
def test_methods_that_stand_in_the_way(spec: str, said: str, protocol: Protocol, splits: Splits) -> None:
    with begun(protocol, splits, methods.from_spec(spec)) as session:
        reason = stacked.obstacle(session)
    assert said in reason
    assert bool(said) == bool(reason)


def test_networks_that_stand_in_the_way(protocol: Protocol, splits: Splits, base: Method) -> None:
    for network, said in ((Dropper(), "BatchNorm1d"), (ConvNet(channels=(4, 8)), "no stacked form of")):
        with begun(with_task(protocol, network=network), splits, base) as session:
            reason = stacked.obstacle(session)
        assert said in reason or "buffers" in reason
    watched = nn.Sequential(nn.Linear(2, 2))
    assert not unstackable(watched)
    handle = watched[0].register_forward_hook(lambda *_: None)
    assert "hooks" in unstackable(watched)
    handle.remove()
    watched[0].bias.requires_grad_(False)
    assert "0.bias is frozen" in unstackable(watched)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    assert "tied" in unstackable(tied)


def test_networks_of_two_shapes_are_not_alike(protocol: Protocol, splits: Splits) -> None:
    wider = with_task(protocol, network=Mlp(hidden=(16, 17)))
    faster = trained_by(protocol, learning_rate=0.5)
    with begun(protocol, splits, Method()) as a, begun(wider, splits, Method()) as b:
        assert stacked.alike([segment(a), segment(a)])
        assert not stacked.alike([segment(a), segment(b)])
    with begun(protocol, splits, Method()) as a, begun(faster, splits, Method()) as b:
        assert not stacked.alike([segment(a), segment(b)])
