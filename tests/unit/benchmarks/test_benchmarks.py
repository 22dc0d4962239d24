"""Benchmarks present their score and ask for what they say; a plan shares, skips and refuses."""

from collections import Counter
from dataclasses import fields, replace

import pytest

from replastic import benchmarks, methods
from replastic.benchmarks._experiment import Plan
from replastic.benchmarks._runs import folder_name
from replastic.benchmarks._spec import every_method
from replastic.errors import UnknownNameError, UserError
from replastic.records import RunDirectory

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


def planned(tmp_path, chosen=("base", "fire"), seeds=(0, 1), **changes) -> Plan:
    spec = benchmarks.get("digits_warm_start")()
    protocol = replace(spec.presets["smoke"].protocol, **changes)
    return benchmarks.plan(spec, protocol, chosen, seeds, tmp_path)


def test_a_plan_shares_the_first_phase_by_seed_and_skips_what_is_done(tmp_path):
    plan = planned(tmp_path, chosen=("base", "fire", "base"))
    assert [job.name for job in plan.jobs] == ["base, seed 0", "base, seed 1", "fire, seed 0", "fire, seed 1"]
    assert [job.name for job in plan.shared] == ["shared first phase, seed 0", "shared first phase, seed 1"]
    assert plan.estimate(1) is None
    for job in (plan.jobs[0], plan.jobs[2]):
        job.directory.create(job.info())
        job.directory.append({"phase": 1, "step": 4, "event": "phase_end", "seconds": 30.0})
        job.directory.finish()
    plan = planned(tmp_path)
    assert [job.name for job in plan.todo] == ["base, seed 1", "fire, seed 1"]
    assert [job.seed for job in plan.shared] == [1]
    assert (plan.estimate(1), plan.estimate(2)) == (60.0, 30.0)


def test_a_plan_refuses_other_settings_naming_the_difference(tmp_path):
    job = planned(tmp_path).jobs[0]
    job.directory.create(job.info())
    with pytest.raises(UserError, match=r"base.seed-0 was begun with other settings .*probe_samples: 600 and 5"):
        planned(tmp_path, chosen=("fire",), probe_samples=5)
    with pytest.raises(UserError, match="unknown metric 'dfy'; did you mean 'dfi'"):
        planned(tmp_path, metrics=("dfy",))
    with pytest.raises(UserError, match="at least one seed"):
        planned(tmp_path, seeds=())
    assert RunDirectory(job.directory.path).info().method == "base"
