"""Benchmarks present their score, and ask for what they say."""

from collections import Counter
from dataclasses import fields, is_dataclass

import pytest

from replastic import benchmarks, methods
from replastic.errors import UnknownNameError
from replastic.experiments.spec import SPECIAL
from replastic.learners._agent import TRAINING_RETURN, AgentTask
from replastic.learners.classification import ACCURACY, Classification
from replastic.learners.language import Language
from replastic.learners.sac import Sac
from support.toy_control import control
from support.toy_games import games

SPECS = [
    spec.on(data) for spec in (benchmarks.get(name)() for name in benchmarks.names()) for data in spec.others or [""]
]


def settings(part):
    """Names of the settings of a part of a protocol, and of the parts it has itself."""
    for field in fields(part):
        value = getattr(part, field.name)
        yield from settings(value) if is_dataclass(value) else [field.name]


def scores(task, trainer):
    """Record keys of what the learner is scored by at the end of a phase; data that may not be here are not read."""
    if isinstance(task, Classification):
        return {ACCURACY, f"{ACCURACY}_all", "metric/train_accuracy"}
    if isinstance(task, Language):
        corpora = ("new", "old", "between") if task.third else ("new", "old")
        return {f"metric/{measure}_{corpus}" for measure in ("loss", "bits") for corpus in corpora}
    if isinstance(task, Sac):
        return {*task.learner(control(), 0, trainer).scores, TRAINING_RETURN}
    if isinstance(task, AgentTask):  # the simulators may not be here
        return {*task.learner(games(side=36), 0, trainer).scores, TRAINING_RETURN}
    learner = task.learner(task.open(), 0, trainer)
    learner.begin(0, 0)
    learner.update(lambda losses, optimizer="": sum(losses()).detach())
    return set(learner.evaluate(0, last=True))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_every_benchmark_presents_its_score_and_can_be_asked_by_flags(spec):
    assert "smoke" in spec.presets
    for preset in spec.presets.values():
        assert "base" in preset.methods
        protocol = preset.protocol
        shown = spec.shown(protocol)
        assert shown["score"].startswith("metric/")
        wanted = {"score_label", "event", "higher_is_better", "phase_label", "curves", "axis", "axis_label"}
        assert wanted <= shown.keys()
        recorded = {
            *scores(protocol.task, protocol.trainer),
            *(f"metric/{name}" for name in (*protocol.metrics, *protocol.start_metrics)),
        }
        assert {shown["score"], *shown["curves"]} <= recorded
        flags = Counter([*settings(protocol.task), *settings(protocol.trainer)])
        assert max(flags.values()) == 1, "two settings share a flag"
    asked = [{text.split(":")[0] for text in preset.methods} for preset in spec.presets.values()]
    special = {name for name in methods.names() if methods.get(name).needs & SPECIAL}
    able = isinstance(protocol.task, Language)
    wanted = set(methods.names()) - (set() if able else special)
    assert any(names >= wanted for names in asked), "no preset has every method"


def test_the_demo_is_the_experiment_it_says():
    preset = benchmarks.get("digits_random_labels")().presets["demo"]
    config = preset.protocol.config()
    assert config["stream"] == {"type": "RandomLabels", "tasks": 30, "images": 600, "steps": 300}
    assert config["network"] == {
        "type": "Mlp",
        "hidden": (256, 256, 256),
        "activation": "relu",
        "norm": "none",
        "weights": "free",
    }
    assert config["learner"] == "classification"
    assert config["trainer"] == {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "beta2": 0.999,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 64,
        "accumulate": 1,
        "most_warmup": 0,
        "schedule": "constant",
        "decay": 0.2,
        "final_rate": 0.0,
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
    spec = benchmarks.get("digits_random_labels")()
    assert spec.preset_name(None) == "demo"
    with pytest.raises(UnknownNameError, match="did you mean 'smoke'"):
        spec.preset_name("smok")
