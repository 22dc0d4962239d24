"""A trigger in the phase loop: it stands in place of the starts of phases, is recorded, and survives a kill."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from replastic import methods, metrics, triggers
from replastic.errors import UserError
from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol, train
from replastic.training.failures import DivergedError
from support.small_runs import content, trained_by, with_task

QUICK = {
    "every": "every:steps=7",
    "plateau": "plateau:interval=3,patience=2,least=0.9",
    "dataset_change": "dataset_change:interval=1,window=3,deviations=1,rise=0.1",
    "rank_drop": "rank_drop:measure=effective_rank,interval=5,drop=0.00001,layers=0.1",
    "dfi": "dfi:interval=5,growth=1.001,floor=0.001,layers=0.1",
    "readiness": "readiness:interval=1,left=0.99",
}
"""Settings with which it acts within 36 updates."""


class Stop(Exception):
    """As sudden as a kill."""


class Noted(Method):
    """Writes down what it is told at every action."""

    def setup(self, run):
        self.told = []

    def on_boundary(self, run):
        past = None if run.past_batches is None else next(iter(run.past_batches()))[1].tolist()
        self.told.append((run.phase, run.step, next(iter(run.batches()))[1].tolist(), past))


def run(protocol, splits, path, *, method="fire", stop_at=None, start=None, until=None, seed=3):
    directory = RunDirectory(path)

    def progress(phases):
        if stop_at is not None and phases >= stop_at:
            raise Stop

    made = methods.from_spec(method) if isinstance(method, str) else method
    try:
        train(protocol, splits, made, seed, directory, progress=progress, start=start, until=until)
    except Stop:
        assert not directory.done
    return directory


@pytest.fixture
def triggered(protocol: Protocol) -> Protocol:
    return replace(protocol, trigger="every:steps=7")


def test_the_method_acts_when_the_trigger_says_so_and_not_at_phases(triggered, splits, tmp_path):
    records = run(triggered, splits, tmp_path).records()
    events = [(r["phase"], r["step"], r["event"]) for r in records]
    assert events == [
        (0, 7, "before_acting"),
        (0, 7, "acted"),
        (0, 12, "phase_end"),
        (1, 14, "before_acting"),
        (1, 14, "acted"),
        (1, 21, "before_acting"),
        (1, 21, "acted"),
        (1, 24, "phase_end"),
        (2, 28, "before_acting"),
        (2, 28, "acted"),
        (2, 35, "before_acting"),
        (2, 35, "acted"),
        (2, 36, "phase_end"),
    ]
    acted = [r for r in records if r["event"] == "acted"]
    assert {r["reason"] for r in acted} == {"7 updates have passed"}
    assert {r["trigger"] for r in acted} == {"every:steps=7"}
    assert all("metric/accuracy" in r for r in acted)


def test_measures_of_the_boundary_are_those_of_the_action(triggered, splits, tmp_path):
    records = run(replace(triggered, boundary_metrics=("dfi", "sfe")), splits, tmp_path).records()
    acted = [r for r in records if r["event"] == "acted"]
    assert all(r["metric/sfe"] > 0 and r["metric/dfi"] > 0 for r in acted)


def test_the_start_of_a_phase_is_measured_with_a_trigger_too(triggered, splits, tmp_path):
    records = run(replace(triggered, start_metrics=("dfi",)), splits, tmp_path).records()
    starts = [(r["phase"], r["step"]) for r in records if r["event"] == "phase_start"]
    assert starts == [(0, 0), (1, 12), (2, 24)]


def test_the_method_is_told_of_its_own_phases_and_of_the_data(triggered, splits, tmp_path):
    method = Noted()
    run(triggered, splits, tmp_path, method=method)
    assert [(phase, step) for phase, step, _, _ in method.told] == [(1, 7), (2, 14), (3, 21), (4, 28), (5, 35)]
    data = [now for _, _, now, _ in method.told]
    assert data[1] == data[2] != data[0]
    # The past is the data of the phase in which it acted last, or in which training began.
    assert [past for _, _, _, past in method.told] == [data[0], data[0], data[1], data[2], data[3]]


@pytest.mark.parametrize("name", triggers.names())
def test_stopped_anywhere_a_run_acts_as_one_that_was_not(dropping, splits, tmp_path, name):
    protocol = replace(trained_by(dropping, save_seconds=0.0), trigger=QUICK[name])
    whole = content(run(protocol, splits, tmp_path / "whole"))
    acted = [r for r in whole if r["event"] == "acted"]
    assert acted, f"{name} never acted: give QUICK settings with which it does"
    for stop in (0.2, 1.0, 1.3, 2.8):
        run(protocol, splits, tmp_path / str(stop), stop_at=stop)
        assert content(run(protocol, splits, tmp_path / str(stop))) == whole, f"stopped at phase {stop}"


def test_a_trigger_that_looks_changes_no_number(dropping, splits, tmp_path):
    never = [
        "every:steps=1000000",
        "rank_drop:interval=1,drop=0.999",
        "plateau:patience=1000",
        "dfi:interval=2,growth=1e9",
    ]
    found = [content(run(replace(dropping, trigger=t), splits, tmp_path / str(i))) for i, t in enumerate(never)]
    assert all(records == found[0] for records in found)
    assert {r["event"] for r in found[0]} == {"evaluation", "phase_end"}


@dataclass(frozen=True, kw_only=True)
class Hidden(RandomLabels):
    """Nobody is told when a task begins."""

    def phase(self, splits, index, seed):
        return replace(super().phase(splits, index, seed), announced=False)


def test_a_signal_is_the_start_of_a_phase_that_is_announced(protocol, splits, tmp_path):
    protocol = replace(protocol, trigger="dataset_change:by=signal")
    told = run(protocol, splits, tmp_path / "told").records()
    assert [(r["phase"], r["step"]) for r in told if r["event"] == "acted"] == [(1, 12), (2, 24)]
    hidden = with_task(protocol, stream=Hidden(tasks=3, images=50, steps=12))
    assert not [r for r in run(hidden, splits, tmp_path / "not").records() if r["event"] == "acted"]


def test_a_signal_makes_the_run_of_fixed_boundaries(protocol, splits, tmp_path):
    fixed = run(protocol, splits, tmp_path / "fixed").records()
    told = run(replace(protocol, trigger="dataset_change:by=signal"), splits, tmp_path / "told").records()
    ends = [[r["metric/train_loss"] for r in records if r["event"] == "phase_end"] for records in (fixed, told)]
    assert ends[0] == ends[1]


def test_the_start_is_initialisation_also_where_first_phases_are_shared(dropping, splits, tmp_path):
    trigger = "dfi:interval=1,growth=1.001,floor=0.001,layers=0.1"
    protocol = replace(dropping, methods_from=2, trigger=trigger)
    shared = run(protocol, splits, tmp_path / "shared", method="base", until=2)
    assert {r["event"] for r in shared.records()} == {"evaluation", "phase_end"}
    records = run(protocol, splits, tmp_path / "rest", start=shared).records()
    first = next(r for r in records if r["event"] == "acted")
    # 24 updates lie behind, so that DfI has grown since initialisation before the first look.
    assert (first["phase"], first["step"]) == (2, 25)


def test_loss_that_diverges_is_said_as_without_a_trigger(triggered, splits, tmp_path):
    protocol = trained_by(replace(triggered, trigger="rank_drop:interval=1"), learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"NaN or infinite|became nan|became inf"):
        run(protocol, splits, tmp_path)


def test_an_unknown_measure_is_refused_before_training(triggered, splits, tmp_path):
    with pytest.raises(UserError, match="unknown metric 'rnak'"):
        run(replace(triggered, trigger="rank_drop:measure=rnak"), splits, tmp_path)
    assert metrics.names()


def test_settings_name_the_trigger_only_where_there_is_one(protocol, triggered):
    assert "trigger" not in protocol.config()
    assert triggered.config()["trigger"] == "every:steps=7"
