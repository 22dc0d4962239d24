"""A run belongs to its code: going on with other code is refused with the difference, or noted in run.json."""

import json
from dataclasses import replace

import pytest

from replastic import benchmarks, experiments
from replastic.errors import UserError
from replastic.experiments import code, runs
from replastic.experiments.experiment import run
from replastic.experiments.runs import execute
from replastic.learners import Trainer
from replastic.learners.ppo import Ppo
from replastic.networks.mlp import Mlp
from replastic.registry import load_plugin
from replastic.training import Protocol
from support.in_this_process import work
from support.small_plans import finish, planned
from support.toy_games import games

PLUGIN = """
from replastic import metrics

@metrics.register("{name}", on="weight", label="of a test")
def {name}(w):
    \"\"\"Of a test.\"\"\"
    return {value}
"""
HERE = {"replastic": "0.1.0", "torch": "2.6.0", "plugins": {"mine.py": "a" * 64, "other.py": "b" * 64}}


def known(**changes):
    """An environment as run.json keeps it."""
    return {"replastic": "0.1.0", "packages": {"torch": "2.6.0"}, "plugins": dict(HERE["plugins"])} | changes


@pytest.mark.parametrize(
    ("there", "unfinished", "expected"),
    [
        (known(), True, []),
        (known(replastic="0.0.9"), False, ["replastic: 0.0.9 and 0.1.0"]),
        (known(packages={"torch": "2.5.1"}), False, ["torch: 2.5.1 and 2.6.0"]),
        (known(plugins={"mine.py": "c" * 64}), False, ["mine.py: cccccccccccc and aaaaaaaaaaaa"]),
        (known(plugins={"gone.py": "c" * 64}), False, []),
        (known(plugins={"gone.py": "c" * 64}), True, ["gone.py: cccccccccccc and absent"]),
        (known(plugins={}), True, []),
        ({}, True, []),
        (known(packages=[1], plugins="none"), True, []),
        (known(packages={"torch": "1"}, accepted_changes=[{"before": {}, "now": HERE}]), True, []),
        (known(accepted_changes=[{"before": {}, "now": {**HERE, "torch": "1"}}]), True, ["torch: 1 and 2.6.0"]),
    ],
)
def test_what_counts_as_other_code(there, unfinished, expected):
    assert code.changes(code.of(there), HERE, unfinished=unfinished) == expected


def begun(folder, **changes):
    """A plan whose first run was begun with other versions."""
    job = planned(folder, chosen=("base",), seeds=(0,)).jobs[0]
    there = {**code.environment(), **changes}
    job.directory.create(replace(job.info(), environment=there))
    return job


def test_other_versions_are_refused_or_noted(tmp_path, monkeypatch):
    job = begun(tmp_path, packages={"torch": "1.13.0"})
    words = r"base.seed-0 was begun with other code \(there and now\): torch: 1\.13\.0 and .*--accept-changes"
    for chosen in (("base",), ("fire",)):
        with pytest.raises(UserError, match=words):
            planned(tmp_path, chosen=chosen)
    finish(job, [(0, 4, 10.0), (1, 45, 30.0)])
    job = begun(tmp_path, packages={"torch": "1.13.0"})
    with pytest.raises(UserError, match=words):
        planned(tmp_path, chosen=("base",), seeds=(0,))
    before = (job.directory.path / "run.json").read_bytes()
    spec = benchmarks.get("digits_warm_start")()
    protocol = spec.presets["smoke"].protocol
    plan = experiments.plan(spec, protocol, ["base"], [0], tmp_path, accept_changes=True)
    assert (job.directory.path / "run.json").read_bytes() == before, "planning writes nothing"
    monkeypatch.setattr("replastic.experiments.experiment.work", work)
    assert run(plan, workers=1) == {}
    (change,) = job.directory.info().environment["accepted_changes"]
    assert change["before"]["torch"] == "1.13.0"
    assert change["now"]["torch"] == code.environment()["packages"]["torch"]
    planned(tmp_path, chosen=("base", "fire"))  # what was accepted once is not asked for again


def test_a_plugin_that_was_edited_is_refused(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(name="one", value="w.sum()"))
    load_plugin(plugin)
    job = planned(tmp_path / "out", chosen=("base",), seeds=(0,), methods_from=0).jobs[0]
    execute(job, lambda phases: None)
    sha256 = job.directory.info().environment["plugins"]["mine.py"]
    planned(tmp_path / "out", methods_from=0)
    file = job.directory.path / "run.json"
    file.write_text(file.read_text().replace(sha256, "0" * 64))
    with pytest.raises(UserError, match=rf"mine.py: 000000000000 and {sha256[:12]}"):
        planned(tmp_path / "out", methods_from=0)


def test_the_shared_phase_belongs_to_its_code_too(tmp_path):
    shared = planned(tmp_path).shared[0]
    execute(shared, lambda phases: None)
    planned(tmp_path)
    file = shared.directory.path / runs.SHARED
    content = json.loads(file.read_text())
    for key in (code.MADE_WITH, "environment"):  # older files have the second
        written = {**content, key: content[code.MADE_WITH] | {"replastic": "0.0.1"}}
        if key != code.MADE_WITH:
            del written[code.MADE_WITH]
        file.write_text(json.dumps(written))
        with pytest.raises(UserError, match=r"\.shared.seed-0 was begun with other code .*replastic: 0\.0\.1 and"):
            planned(tmp_path)
        code.accept(file)
        planned(tmp_path)


def test_the_environment_of_an_agent_is_a_setting_like_others(tmp_path):
    task = Ppo(environment="toy/corridor", steps=16, horizon=4, copies=2, network=Mlp(hidden=(4,)))
    protocol = Protocol(task=task, trainer=Trainer(batch_size=4), methods_from=1)
    job = runs.Job("agents", protocol, {}, tmp_path, "base", 0)
    shared = job.shared()
    for one in (job, shared):
        runs.prepare(one, games())
        assert one.known() == one.settings()
        assert one.known()["environment"] == "toy/corridor"
