"""Every method of the agents' tables at work on a DQN agent: its effect, the target network, going on after a stop."""

from dataclasses import replace

import pytest
import torch

from replastic import methods
from replastic.experiments import agents
from replastic.experiments.spec import SPECIAL
from replastic.learners import Trainer
from replastic.learners.dqn import Dqn
from replastic.methods import from_spec
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.records import RunDirectory
from replastic.seeds import derive
from replastic.training import Protocol, boundary, train
from replastic.training.session import Session
from support.small_runs import content
from support.toy_games import games

TASK = Dqn(
    environment="toy/corridor",
    steps=60,
    learning_starts=24,
    buffer_size=200,
    evaluations=2,
    episodes=2,
    longest=6,
    epsilon_steps=20,
    target_every=5,
    network=MinAtarCnn(channels=(3,), hidden=(8,)),
)
PROTOCOL = Protocol(
    task=TASK,
    trainer=Trainer(
        batch_size=8, learning_rate=1e-2, warmup=0.0, clip_norm=0.0, optimizer_policy="keep", save_seconds=0.0
    ),
    recipe="paper-dqn",
)
QUICK = {
    "c_chain": "c_chain:strength=10",
    "l2_er": "l2_er:er_batch=3",
    "redo:every=1000,dormancy_threshold=0.025": "redo:every=3,batches=2,dormancy_threshold=0.9",
    "l2_init:strength=0.001": "l2_init:strength=1",
    "isometry:strength=0.0001": "isometry:strength=1",
    "adamo:strength=0.0001": "adamo:strength=1",
}
"""The same methods so that they do something within a few updates."""
NAMED = [QUICK.get(spec, spec) for spec in (*agents.CONTROLS, *agents.AT_BOUNDARIES, *agents.IN_TRAINING)]
AT_BOUNDARIES = {
    "base": {},
    "optimizer_reset": {},
    "full_reset": {"stage1.conv": "initial", "hidden1.linear": "initial", "head": "initial"},
    "head_reset": {"head": "initial"},
    "fire": {"stage1.conv.weight": "projected", "hidden1.linear": "initial", "head": "initial"},
    "fire:targets=kind:conv": {"stage1.conv.weight": "projected"},
    "interpolation:strength=0.8,toward=fresh": {"stage1.conv": "new", "hidden1.linear": "initial", "head": "initial"},
    "plasticity_injection": {"hidden1.linear": "new", "head": "new"},
}
"""Tensors that a method writes at a boundary, by the beginnings of their names."""


def begun(spec, network=TASK.network):
    run = Session(replace(PROTOCOL, task=replace(TASK, network=network)), games(), from_spec(spec), 3)
    run.begin(0)
    run.model.train()
    run.learner.begin(0, 0)
    for _ in range(6):
        run.update(1, 1)
    return run


def values(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_every_method_that_was_named_is_there():
    wanted = (
        "base full_reset interpolation plasticity_injection redo fire head_reset optimizer_reset c_chain l2_init l2_er"
    )
    assert set(wanted.split()) | {"isometry", "adamo", "trac"} <= {spec.partition(":")[0] for spec in NAMED}


@pytest.mark.parametrize("spec", AT_BOUNDARIES)
def test_a_boundary_writes_what_the_papers_recipe_says_and_the_target_network_follows(spec):
    with begun(spec) as run:
        learner = run.learner
        first, before, target = (
            values(learner._build(derive(learner.seed, "network"))),
            values(run.model),
            dict(learner.target),
        )
        target = {name: value.clone() for name, value in target.items()}
        moments = sum(len(state) for state in run.attached.optimizer.state.values())
        boundary.cross(run, 1)
        after = values(run.model)
        for name, old in before.items():
            kind = next((k for start, k in AT_BOUNDARIES[spec].items() if name.startswith(start)), "kept")
            same = torch.equal(after[name], old)
            assert same == (kind == "kept"), name
            if kind == "initial":
                assert torch.equal(after[name], first[name])
            if kind == "projected":
                s = torch.linalg.svdvals(after[name].permute(2, 3, 0, 1).double())
                scale = (3 / 2) ** 0.5 / 9
                assert ((s / scale - 1).abs() < 0.4).all(), "ten cubic steps come near"
            followed = learner.target[name]
            assert torch.equal(followed, target[name] if kind == "kept" else after[name])
        assert learner.target.keys() == after.keys()
        assert (sum(len(s) for s in run.attached.optimizer.state.values()) == 0) == (spec == "optimizer_reset")
        assert moments
        learner.begin(1, 0)
        assert all(torch.equal(value, learner.target[name]) for name, value in values(run.model).items())


def test_outputs_are_unchanged_at_the_moment_of_injection_and_the_head_alone_gets_new_parts():
    with begun("plasticity_injection") as run:
        learner, seen = run.learner, torch.rand(7, 2, 5, 5)
        before, score = run.model(seen).detach(), learner.evaluate(1)
        boundary.cross(run, 1)
        assert torch.allclose(run.model(seen), before, atol=1e-6)
        assert learner.evaluate(1)["metric/return"] == score["metric/return"]
        added = run.model.state_dict().keys() - learner._build(0).state_dict().keys()
        assert added
        assert all(name.startswith("head.") for name in added)
        # The target network has the new head, above what lay below the old one.
        below = {name: value for name, value in learner.target.items() if name.startswith("stage1")}
        assert not torch.equal(below["stage1.conv.weight"], run.model.stage1.conv.weight)
        assert torch.allclose(learner.target_network(seen), torch.func.functional_call(run.model, below, (seen,)))
        learner.begin(1, 0)
        batch = learner.probe(1, 5)
        assert torch.allclose(learner.target_network(batch.observations.float()), run.model(batch.observations.float()))
        for _ in range(6):
            run.update(1, 1)
        assert not torch.allclose(run.model(seen), before, atol=1e-4)


@pytest.mark.parametrize("spec", NAMED)
def test_every_named_method_trains_and_those_at_work_in_training_change_its_course(spec):
    with begun("base") as plain, begun(spec) as run:
        acts = spec not in AT_BOUNDARIES
        for _ in range(8):
            plain.update(1, 1)
            run.update(1, 1)
        same = all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), run.model.parameters(), strict=True))
        assert same != acts
        assert all(p.isfinite().all() for p in run.model.parameters())


@pytest.mark.parametrize("spec", ["base", "fire", "full_reset", "plasticity_injection"])
def test_a_network_with_layer_norm_is_a_row_of_its_own(spec):
    with begun(spec, MinAtarCnn(channels=(3,), hidden=(8,), norm="layer")) as run:
        boundary.cross(run, 1)
        run.learner.begin(1, 0)
        assert run.update(1, 1).isfinite()


def test_the_optimizer_is_kept_or_reset_for_all_methods_alike():
    for policy, left in (("keep", True), ("reset_all", False)):
        for spec in ("base", "fire", "full_reset"):
            trainer = replace(PROTOCOL.trainer, optimizer_policy=policy)
            with Session(replace(PROTOCOL, trainer=trainer), games(), from_spec(spec), 3) as run:
                run.begin(0)
                run.learner.begin(0, 0)
                run.update(1, 1)
                boundary.cross(run, 1)
                assert bool(sum(len(s) for s in run.attached.optimizer.state.values())) == left


def test_without_copy_target_a_target_network_follows_alone_what_was_rewritten():
    task = replace(TASK, copy_target=False)
    with Session(replace(PROTOCOL, task=task), games(), from_spec("head_reset"), 3) as run:
        run.begin(0)
        run.learner.begin(0, 0)
        for _ in range(3):
            run.update(1, 1)
        old = {name: value.clone() for name, value in run.learner.target.items()}
        boundary.cross(run, 1)
        run.learner.begin(1, 0)
        for name, value in run.learner.target.items():
            assert torch.equal(value, run.model.state_dict()[name] if name.startswith("head") else old[name])


def whole(path, spec, stop_at=99.0):
    class Stop(Exception):
        pass

    def progress(phases):
        if phases >= stop_at:
            raise Stop

    directory = RunDirectory(path)
    try:
        train(PROTOCOL, games(), from_spec(spec), 3, directory, progress=progress)
    except Stop:
        assert not directory.done
    return content(directory)


@pytest.mark.slow
@pytest.mark.parametrize("spec", NAMED)
def test_every_named_method_goes_on_to_the_same_numbers_after_a_stop(tmp_path, spec):
    expected = whole(tmp_path / "whole", spec)
    for stop_at in (0.5, 1.0, 1.4):
        path = tmp_path / f"stopped-{stop_at}"
        whole(path, spec, stop_at)
        assert whole(path, spec) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in methods.names() if not methods.get(n).needs & SPECIAL])
def test_every_method_runs_on_an_agent(tmp_path, name):
    last = whole(tmp_path, name)[-1]
    assert last["interactions"] == 60
    assert torch.tensor(last["metric/return"]).isfinite()
