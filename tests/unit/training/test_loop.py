"""The phase loop: what it records, when it evaluates, and that numbers follow from the seed."""

import math
from dataclasses import replace

import pytest
import torch

from replastic import methods, metrics
from replastic.records import RunDirectory
from replastic.streams.warm_start import WarmStart
from replastic.training import train
from support.small_runs import begun, trained_by, with_task


def records(protocol, splits, path, method, seed=0):
    directory = RunDirectory(path)
    train(protocol, splits, method, seed, directory)
    return directory.records()


def test_records_tell_the_phases_in_order(protocol, splits, tmp_path, base):
    found = [(r["phase"], r["step"], r["event"]) for r in records(protocol, splits, tmp_path, base)]
    assert found == [
        (0, 12, "phase_end"),
        (1, 12, "before_boundary"),
        (1, 12, "boundary"),
        (1, 24, "phase_end"),
        (2, 24, "before_boundary"),
        (2, 24, "boundary"),
        (2, 36, "phase_end"),
    ]


def test_measures_at_the_start_come_before_the_first_update_of_every_phase(protocol, splits, tmp_path, base):
    started = replace(protocol, start_metrics=("weight_norm", "dormant"), start_samples=7)
    found = records(started, splits, tmp_path, base)
    assert [(r["phase"], r["step"]) for r in found if r["event"] == "phase_start"] == [(0, 0), (1, 12), (2, 24)]
    assert [r["event"] for r in found[:5]] == ["phase_start", "phase_end", "before_boundary", "boundary", "phase_start"]
    first = next(r for r in found if r["event"] == "phase_start")
    with begun(started, splits, base) as session:
        wanted = sum(float(p.detach().double().norm()) for p in session.model.parameters() if p.dim() == 2) / 3
        assert first["metric/weight_norm"] == pytest.approx(wanted)


def test_measures_at_the_start_are_taken_in_every_so_many_phases(protocol, splits, tmp_path, base):
    started = replace(protocol, start_metrics=("dfi",), start_every=2)
    found = records(started, splits, tmp_path, base)
    assert [(r["phase"], r["step"]) for r in found if r["event"] == "phase_start"] == [(0, 0), (2, 24)]


def test_measures_at_the_start_see_as_many_samples_as_the_protocol_says(protocol, splits, tmp_path, base):
    seen = []

    def counted(model, batches, loss_fn, *, generator):
        """Counts the samples it is given."""
        seen.append(sum(len(targets) for _, targets in batches))
        return torch.zeros(())

    metrics.register("counted", on="loss", label="samples")(counted)
    records(replace(protocol, start_metrics=("counted",), start_samples=7), splits, tmp_path, base)
    assert seen == [7, 7, 7]


def test_a_protocol_without_measures_at_the_start_has_the_settings_of_older_runs(protocol):
    assert "start_metrics" not in protocol.config()
    assert protocol.config() == replace(protocol, start_samples=7, start_every=3).config()
    asked = replace(protocol, start_metrics=("dfi",), start_samples=7).config()
    assert (asked["start_metrics"], asked["start_samples"]) == (["dfi"], 7)


def test_epochs_are_evaluated_on_the_test_split_and_the_held_out_one(protocol, splits, tmp_path, base):
    stream = WarmStart(ratio=0.25, first_epochs=2, epochs=3)
    protocol = trained_by(with_task(protocol, stream=stream), evaluate_every=1)
    found = [r for r in records(protocol, splits, tmp_path, base) if r["event"] in ("evaluation", "phase_end")]
    # 40 of 160 images in batches of 20: two updates a pass, then eight.
    assert [(r["step"], r["event"]) for r in found] == [
        (2, "evaluation"),
        (4, "phase_end"),
        (12, "evaluation"),
        (20, "evaluation"),
        (28, "phase_end"),
    ]
    for record in found:
        # 20 images each: the accuracy is a multiple of one twentieth.
        for key in ("metric/accuracy", "metric/accuracy_held_out"):
            assert math.isclose(record[key] * 20, round(record[key] * 20), abs_tol=1e-9)


def greedy_draws(model, batches, loss_fn, *, generator):
    """Draws from the global generator and from its own."""
    torch.rand(7)
    return torch.rand((), generator=generator) + loss_fn(model, batches[0]).detach()


def test_adding_a_measure_changes_no_other_number(dropping, splits, tmp_path, base):
    metrics.register("greedy_draws", on="loss", label="draws from every generator it can reach")(greedy_draws)
    more = replace(dropping, metrics=("greedy_draws", "dfi"), boundary_metrics=("greedy_draws", "sfe"))
    more = replace(more, start_metrics=("greedy_draws",))
    plain = records(dropping, splits, tmp_path / "plain", base)
    measured = records(more, splits, tmp_path / "measured", base)
    keys = ("phase", "step", "event", "metric/accuracy", "metric/train_loss")
    both = [r for r in measured if r["event"] != "phase_start"]
    assert [[r.get(k) for k in keys] for r in plain] == [[r.get(k) for k in keys] for r in both]
    assert sum("metric/greedy_draws" in r for r in measured) == 8


def test_training_leaves_the_callers_generator_alone(dropping, splits, tmp_path, base):
    state = torch.get_rng_state()
    first = records(dropping, splits, tmp_path / "a", base)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    second = records(dropping, splits, tmp_path / "b", base)
    other = records(dropping, splits, tmp_path / "c", base, seed=1)
    assert [r.get("metric/train_loss") for r in first] == [r.get("metric/train_loss") for r in second]
    assert [r.get("metric/train_loss") for r in first] != [r.get("metric/train_loss") for r in other]


def test_a_run_on_the_cpu_leaves_the_generators_of_gpus_alone(dropping, splits, tmp_path, monkeypatch):
    touched = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched.append)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: touched.append(device) or torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    methods_used = methods.from_spec("redo:every=5+bn_reestimate")
    records(dropping, splits, tmp_path, methods_used)
    assert touched == []


def test_a_finished_run_can_be_asked_for_again(protocol, splits, tmp_path, base):
    first = records(protocol, splits, tmp_path, base)
    assert (tmp_path / "DONE").is_file()
    keys = ("step", "metric/accuracy")
    again = records(protocol, splits, tmp_path, base)
    assert [[r.get(k) for k in keys] for r in again] == [[r.get(k) for k in keys] for r in first]


def test_plasticity_at_the_start_of_each_task_is_recorded_and_leaves_no_trace(dropping, splits, tmp_path, base):
    spec = "plasticity:steps=20,tasks=1,batch_size=0,learning_rate=0.01"
    more = replace(dropping, boundary_metrics=(spec, "sfe"))
    found = records(more, splits, tmp_path / "more", base)
    values = [r.pop("metric/plasticity") for r in found if "metric/plasticity" in r]
    assert len(values) == sum(r["event"] == "boundary" for r in found) == 2
    assert all(0 < value < 1 for value in values)
    for record in found:
        record.pop("metric/sfe", None)
        for key in [k for k in record if k.startswith("metric/sfe/")]:
            del record[key]
    plain = records(dropping, splits, tmp_path / "plain", base)
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in found] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in plain
    ]
    again = records(replace(more, boundary_metrics=(spec,)), splits, tmp_path / "again", base)
    assert [r["metric/plasticity"] for r in again if "metric/plasticity" in r] == values
