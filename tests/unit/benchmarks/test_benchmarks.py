"""Benchmarks present their score and ask for what they say; a plan shares, skips and refuses."""

import re
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch

from replastic import benchmarks, data, experiments, methods, networks
from replastic.errors import UnknownNameError, UserError
from replastic.experiments import cost
from replastic.experiments.experiment import Plan
from replastic.experiments.runs import Job, check_device, execute, folder_name
from replastic.experiments.spec import every_method
from replastic.experiments.speed import settle
from replastic.records import RunDirectory
from replastic.training import Trainer

SPECS = [
    spec.on(data) for spec in (benchmarks.get(name)() for name in benchmarks.names()) for data in spec.others or [""]
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_every_benchmark_presents_its_score_and_can_be_asked_by_flags(spec):
    assert spec.summary["score"].startswith("metric/")
    assert {"score_label", "event", "higher_is_better", "phase_label", "curves"} <= spec.summary.keys()
    assert "smoke" in spec.presets
    for preset in spec.presets.values():
        assert "base" in preset.methods
        protocol = preset.protocol
        recorded = {"metric/accuracy", "metric/accuracy_all", *(f"metric/{name}" for name in protocol.metrics)}
        assert {spec.summary["score"], *spec.summary["curves"]} <= recorded
        parts = (protocol.stream, protocol.network, protocol.trainer)
        flags = Counter(f.name for part in parts for f in fields(part))
        assert max(flags.values()) == 1, "two settings share a flag"
    asked = [{text.split(":")[0] for text in preset.methods} for preset in spec.presets.values()]
    assert any(names >= set(methods.names()) for names in asked), "no preset has every method"


def test_the_demo_is_the_experiment_it_says():
    preset = benchmarks.get("digits_random_labels")().presets["demo"]
    config = preset.protocol.config()
    assert config["stream"] == {"type": "RandomLabels", "tasks": 30, "images": 600, "steps": 300}
    assert config["network"] == {"type": "Mlp", "hidden": (256, 256, 256)}
    assert config["trainer"] == {
        "learning_rate": 1e-3,
        "batch_size": 64,
        "warmup": 0.1,
        "clip_norm": 0.5,
        "optimizer_policy": "reset_all",
        "evaluate_every": 0,
        "precision": "float32",
        "channels_last": False,
        "compiled": False,
    }
    assert preset.methods == ("base", "fire", "interpolation:strength=0.8", "full_reset")
    assert preset.seeds == 3


def test_presets_have_near_misses_and_a_default():
    spec = SPECS[0]
    assert spec.preset_name(None) == "demo"
    with pytest.raises(UnknownNameError, match="did you mean 'smoke'"):
        spec.preset_name("smok")


def test_every_method_follows_the_registry():
    specs = every_method("fire:solver=exact", interpolation="interpolation:strength=0.5")
    assert {text.split(":")[0] for text in specs} == set(methods.names())
    assert "interpolation" not in specs
    assert specs[-1] == "fire:solver=exact"


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("base", "base"),
        ("fire:solver=exact,scale=init", "fire-solver=exact-scale=init"),
        ("a/../b: c", "a-..-b-c"),
    ],
)
def test_a_methods_folder_is_one_plain_name(spec, folder):
    assert folder_name(spec) == folder


def test_long_specs_have_short_folders_of_their_own():
    specs = ["fire:targets=" + "|".join(["stem"] * 70 + [last]) for last in ("head", "tail")]
    names = [folder_name(spec) for spec in specs]
    assert names[0] != names[1]
    assert all(len(name) < 200 and name.startswith("fire-targets=stem-stem") for name in names)


def planned(tmp_path, chosen=("base", "fire"), seeds=(0, 1), **changes) -> Plan:
    spec = benchmarks.get("digits_warm_start")()
    protocol = replace(spec.presets["smoke"].protocol, **changes)
    return experiments.plan(spec, protocol, chosen, seeds, tmp_path)


def finish(job, records):
    """A finished run, by (phase, step, seconds) of its records."""
    job.directory.create(job.info())
    for phase, step, seconds in records:
        job.directory.append({"phase": phase, "step": step, "event": "phase_end", "seconds": seconds})
    job.directory.finish()


def test_a_plan_shares_the_first_phase_by_seed_and_skips_what_is_done(tmp_path):
    plan = planned(tmp_path, chosen=("base", "fire", "base"))
    assert [job.name for job in plan.jobs] == ["base, seed 0", "base, seed 1", "fire, seed 0", "fire, seed 1"]
    assert [job.name for job in plan.shared] == ["shared first phase, seed 0", "shared first phase, seed 1"]
    for job in (plan.jobs[0], plan.jobs[2]):
        finish(job, [(0, 4, 10.0), (1, 45, 30.0)])
    plan = planned(tmp_path)
    assert [job.name for job in plan.todo] == ["base, seed 1", "fire, seed 1"]
    assert [job.seed for job in plan.shared] == [1]


def test_the_cost_comes_from_finished_runs_with_the_shared_phase_once(tmp_path):
    plan = planned(tmp_path)
    for job, seconds in zip((plan.jobs[0], plan.jobs[2]), (30.0, 40.0), strict=True):
        finish(job, [(0, 4, 10.0), (1, 45, seconds)])
    plan = planned(tmp_path)
    # One shared phase of 10 s is left, then base's run of 20 s and fire's of 30 s, one after another or side by side.
    assert [plan.expected(workers).seconds for workers in (1, 2)] == [60.0, 40.0]
    # Two runs of a method that has none take 25 s each, as the others do on average, and seed 0's shared phase 10 s.
    assert planned(tmp_path, chosen=("base", "fire", "rescale")).expected(1).seconds == 60.0 + 2 * 25.0 + 10.0
    assert "finished" in plan.expected(1).by
    # 4 of the 5 updates of the shared phase and 11 of the run's own 41 are made.
    plan.shared[0].directory.path.mkdir(parents=True)
    plan.shared[0].directory.append({"phase": 0, "step": 4, "event": "evaluation", "seconds": 8.0})
    plan.todo[0].directory.create(plan.todo[0].info())
    plan.todo[0].directory.append({"phase": 1, "step": 5 + 11, "event": "evaluation", "seconds": 14.0})
    assert plan.expected(1).seconds == pytest.approx(10.0 / 5 + 20.0 * 30 / 41 + 30.0)
    for job in plan.todo:
        finish(job, [(1, 45, 30.0)])
    assert planned(tmp_path).expected(1) is None


def test_before_anything_is_finished_the_cost_is_timed_and_counts_updates_and_scores(tmp_path, monkeypatch):
    # Phases of 130 and 1302 images, 2 epochs each in batches of 64: 5 and 41 updates (4.06 and 40.7, rounded up).
    # Scored on 355 + 140 images after each epoch (updates 2 and 5, 20 and 41), before and after the boundary, and at
    # the end of each phase on its training images.
    plan = planned(tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(cost.Trial, "seconds", lambda self, updates: 0.5)
    monkeypatch.setattr(cost.Trial, "evaluation_seconds", lambda self, data: 0.01)
    shared, run = 5 * 0.5 + (2 * 495 + 130) * 0.01, 41 * 0.5 + (4 * 495 + 1302) * 0.01
    assert plan.expected(1).seconds == pytest.approx(2 * shared + 4 * run)
    assert plan.expected(2).seconds == pytest.approx(shared + 2 * run)
    assert plan.expected(3).seconds == pytest.approx(shared + 2 * run)
    assert "timing" in plan.expected(1).by
    assert torch.get_num_threads() == threads
    once = [0.0, 100.0]  # the first update also compiles, in each process: once for a shared phase, once for a run
    monkeypatch.setattr(cost.Trial, "seconds", lambda self, updates: 0.5 + once.pop() if once else 0.5)
    assert plan.expected(1).seconds == pytest.approx(2 * (shared + 100) + 4 * (run + 100))
    monkeypatch.undo()
    assert 0 < plan.expected(1).seconds < 600


def test_a_plan_refuses_other_settings_naming_the_difference(tmp_path):
    job = planned(tmp_path).jobs[0]
    job.directory.create(job.info())
    with pytest.raises(UserError, match=r"base.seed-0 was begun with other settings .*probe_samples: 600 and 5"):
        planned(tmp_path, chosen=("fire",), probe_samples=5)
    stream = benchmarks.get("digits_warm_start")().presets["smoke"].protocol.stream
    for changes, words in (
        (
            {"stream": replace(stream, access="limited", replay=0.5)},
            r"stream.access: 'full' and 'limited'; stream.replay",
        ),
        ({"methods_from": 0}, r"methods_from: 1 and 0"),
        ({"network": networks.get("mlp")(hidden=(8,))}, r"network.type: 'ConvNet' and 'Mlp'"),
        ({"trainer": Trainer(batch_size=32, precision="bfloat16")}, r"trainer.precision: 'float32' and 'bfloat16'"),
    ):
        with pytest.raises(UserError, match=words):
            planned(tmp_path, **changes)
    with pytest.raises(UserError, match="unknown metric 'dfy'; did you mean 'dfi'"):
        planned(tmp_path, metrics=("dfy",))
    with pytest.raises(UserError, match="at least one seed"):
        planned(tmp_path, seeds=())
    assert RunDirectory(job.directory.path).info().method == "base"


def test_the_records_name_the_data_wherever_they_lie(tmp_path):
    protocol = benchmarks.get("vision_continual")().presets["smoke"].protocol

    def settings(text):
        return Job("vision_continual", replace(protocol, data=text), {}, tmp_path, "base", 0).settings()

    assert settings("cifar10:source=/here,train=5") == settings("cifar10:train=5,source=/there")
    assert settings("cifar10:train=5")["data"] == "cifar10:train=5"
    assert settings("cifar10:train=5") != settings("cifar10:train=6")


def test_a_run_notes_how_many_samples_there_were(tmp_path):
    job = planned(tmp_path, chosen=("base",), seeds=(0,), methods_from=0, boundary_metrics=(), metrics=()).jobs[0]
    execute(job, lambda phases: None)
    splits = data.load("digits")
    samples = {"train": len(splits.train), "held_out": len(splits.held_out), "test": len(splits.test)}
    assert job.directory.info().environment["samples"] == {**samples, "checksum": splits.checksum()}


def test_other_data_under_the_same_name_are_refused(tmp_path, monkeypatch):
    job = planned(tmp_path).jobs[0]
    splits = data.load("digits")
    job.directory.create(replace(job.info(), environment={"samples": splits.facts()}))
    planned(tmp_path)
    fewer = replace(splits, train=splits.train.first(1300))
    monkeypatch.setattr(data, "load", lambda *_: fewer)
    words = r"begun with other settings .*samples.checksum: '\w{8}' and '\w{8}'; samples.train: 1302 and 1300"
    with pytest.raises(UserError, match=words):
        planned(tmp_path)
    job.directory.create(job.info())  # a run of an older version, which did not note its data
    planned(tmp_path)


def test_a_shared_phase_that_left_no_state_is_trained_again(tmp_path):
    shared = planned(tmp_path).shared[0]
    shared.directory.path.mkdir(parents=True)
    shared.directory.finish()
    assert shared.seed in {job.seed for job in planned(tmp_path).shared}
    (shared.directory.path / "state").mkdir()
    (shared.directory.path / "state" / "state.safetensors").write_bytes(b"")
    assert shared.seed not in {job.seed for job in planned(tmp_path).shared}


def test_memory_that_runs_out_before_the_first_run_is_a_sentence(tmp_path, monkeypatch):
    plan = planned(tmp_path)

    def full(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(cost.Trial, "seconds", full)
    with pytest.raises(UserError, match="out of memory on cpu with batches of 64 samples: try --batch-size 32"):
        plan.expected(1)
    with pytest.raises(UserError, match="try --batch-size 32"):
        settle(plan.jobs[0].protocol, tmp_path, "cpu")
    monkeypatch.setattr("replastic.experiments.experiment.Session", full)
    with pytest.raises(UserError, match="try --batch-size 32"):
        planned(tmp_path)


def test_a_device_that_holds_no_numbers_is_refused():
    with pytest.raises(UserError, match="'meta' cannot be used here"):
        check_device("meta")


def test_the_kind_of_device_is_a_setting_and_its_number_is_not(tmp_path):
    job = planned(tmp_path).jobs[0]
    assert replace(job, device="cuda:0").settings() == replace(job, device="cuda:1").settings() != job.settings()


@pytest.mark.parametrize("name", ["run.json", "shared.json"])
@pytest.mark.parametrize("content", [b'{"config": ', b"[1]", b"\xff\xfe"])
def test_settings_of_speed_in_a_damaged_file(name, content, tmp_path):
    folder = tmp_path / "base" / "seed-0"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    protocol = benchmarks.get("digits_warm_start")().presets["smoke"].protocol
    with pytest.raises(UserError, match=f"{re.escape(name)} is damaged: .*move .*seed-0 away"):
        settle(protocol, tmp_path, "cpu")
