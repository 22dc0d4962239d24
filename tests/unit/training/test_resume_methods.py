"""Methods with a state, an optimizer or modules of their own: stopped anywhere, they go on to the same records."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from replastic import methods
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.training import boundary, train
from support.small_runs import begun, content, steps, trained_by, with_task

TOGETHER = (
    ("Mlp", "nap:every=5+plasticity_injection+ewc:samples=3"),
    ("Mlp", "muon+spectral:strength=0.1+hare_tortoise:momentum=0.9,every=5"),
    ("Dropper", "ewc:samples=4+fire+bn_reestimate"),
    ("Dropper", "adamo:strength=0.1,isometry_lr=0.1+redo:every=3"),
    ("Dropper", "sam+upgd+l2_er:er_batch=2"),
)
ALONE = (
    "muon",
    "adamo:strength=0.1",
    "upgd",
    "sam",
    "l2_er:er_batch=3",
    "spectral:strength=0.1",
    "nap:every=3",
    "hare_tortoise:momentum=0.9,every=5",
    "plasticity_injection",
    "ewc:samples=4",
    "bn_reestimate",
    "plasticity_injection+muon+hare_tortoise:momentum=0.9,every=5",
)
STATEFUL = (
    "hare_tortoise:momentum=0.9,every=5",
    pytest.param("ewc:samples=4,strength=1000", marks=pytest.mark.slow),
    pytest.param("spectral:strength=10", marks=pytest.mark.slow),
)


class Stop(Exception):
    """As sudden as a kill: nothing is written after it."""


def run(protocol, splits, path, spec, stop_at=None):
    directory = RunDirectory(path)

    def progress(phases):
        if stop_at is not None and phases >= stop_at:
            raise Stop

    try:
        train(protocol, splits, methods.from_spec(spec), 3, directory, progress=progress)
    except Stop:
        assert not directory.done
    return directory


def stopping(dropping, network):
    """A protocol that saves at every evaluation, with measures of what a boundary changed."""
    if network == "Mlp":
        dropping = with_task(dropping, network=Mlp(hidden=(12, 8)))
    return replace(
        trained_by(dropping, save_seconds=0.0), boundary_metrics=("sfe", "weight_norm"), start_metrics=("dfi",)
    )


def stopped(protocol, splits, path, spec, policy, stops):
    protocol = trained_by(protocol, optimizer_policy=policy)
    whole = content(run(protocol, splits, path / policy / "whole", spec))
    assert len({r["metric/train_loss"] for r in whole if "metric/train_loss" in r}) == 15
    for stop in stops:
        run(protocol, splits, path / policy / "parts", spec, stop_at=stop)
    directory = run(protocol, splits, path / policy / "parts", spec)
    assert content(directory) == whole
    assert directory.done


@pytest.mark.parametrize(("network", "spec"), TOGETHER)
def test_stopped_within_and_between_phases_the_records_are_the_same(network, spec, dropping, splits, tmp_path):
    stopped(stopping(dropping, network), splits, tmp_path, spec, "keep", (0.3, 1.0, 2.8))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["reset_all", "reset_touched", "keep"])
@pytest.mark.parametrize("network", ["Mlp", "Dropper"])
@pytest.mark.parametrize("spec", ALONE)
def test_each_method_stopped_anywhere(spec, network, policy, dropping, splits, tmp_path):
    stopped(stopping(dropping, network), splits, tmp_path, spec, policy, (0.3, 1.0, 1.3, 2.0, 2.8, 3.0))


@pytest.mark.parametrize("spec", STATEFUL)
def test_without_its_state_a_method_would_go_on_otherwise(spec, dropping, splits, tmp_path, monkeypatch):
    """That the tests above can fail."""
    protocol = stopping(dropping, "Mlp")
    whole = content(run(protocol, splits, tmp_path / "whole", spec))
    run(protocol, splits, tmp_path / "parts", spec, stop_at=2.8)
    monkeypatch.setattr(type(methods.from_spec(spec)), "load_state_dict", lambda self, state: None)
    assert content(run(protocol, splits, tmp_path / "parts", spec)) != whole


def test_methods_that_begin_at_a_boundary_go_on_from_the_shared_phase(protocol, splits, tmp_path):
    protocol = replace(protocol, methods_from=1)
    shared = RunDirectory(tmp_path / "shared")
    train(protocol, splits, methods.from_spec("base"), 3, shared, until=1)
    spec = "nap:every=3+plasticity_injection+ewc:samples=4+muon"
    alone, started = (RunDirectory(tmp_path / name) for name in ("alone", "started"))
    train(protocol, splits, methods.from_spec(spec), 3, alone)
    train(protocol, splits, methods.from_spec(spec), 3, started, start=shared)
    assert content(started) == content(alone)


def test_the_state_on_disk_has_the_modules_that_were_added(protocol, splits, tmp_path):
    run(protocol, splits, tmp_path, "plasticity_injection+ewc:samples=4", stop_at=2.0)
    state = load_file(tmp_path / "state" / "state.safetensors")
    assert state["method/method/plasticity_injection/pairs"] == 1
    assert state["model/head.weight"].shape == state["model/head.old.0.head.weight"].shape == (10, 16)
    assert state["method/method/ewc/anchor/head.weight"].shape == (10, 16)
    run(protocol, splits, tmp_path, "plasticity_injection+ewc:samples=4", stop_at=3.0)
    assert "model/head.old.1.head.weight" in load_file(tmp_path / "state" / "state.safetensors")


@pytest.mark.parametrize("policy", ["keep", "reset_touched", "reset_all"])
def test_the_optimizer_trains_new_modules_and_has_of_the_others_what_the_policy_left(policy, protocol, splits):
    method = methods.from_spec("plasticity_injection")
    with begun(trained_by(protocol, optimizer_policy=policy), splits, method) as session:
        steps(session, 0, 5)
        optimizer, model = session.attached.optimizer, session.model
        encoder, head = model.hidden1.linear.weight, model.head.weight
        moment = optimizer.state[encoder]["exp_avg"].clone()
        boundary.cross(session, 1)
        assert session.attached.optimizer is optimizer is session.attached.run.optimizer
        known = [id(p) for g in optimizer.param_groups for p in g["params"]]
        assert len(known) == len(set(known))
        assert set(known) >= {id(p) for p in model.parameters() if p.requires_grad}
        assert bool(optimizer.state.get(head)) == (policy == "keep")
        assert bool(optimizer.state.get(encoder)) == (policy != "reset_all")
        if policy != "reset_all":
            assert torch.equal(optimizer.state[encoder]["exp_avg"], moment)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        steps(session, 1, 3)
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name]) == (not p.requires_grad), name
            assert bool(optimizer.state.get(p)) == p.requires_grad, name


def test_the_warm_up_reaches_both_optimizers_of_muon(protocol, splits):
    with begun(trained_by(protocol, warmup=0.2), splits, methods.from_spec("muon")) as session:
        session.learner.begin(0, 0)
        session.update(0, 20)  # The first of four updates of warm-up.
        groups = session.attached.optimizer.param_groups
        assert [group["lr"] for group in groups] == [0.25 * 1e-3, 0.25 * 1e-2]
        assert [group["initial_lr"] for group in groups] == [1e-3, 1e-2]


def test_parts_act_at_a_boundary_in_the_order_of_the_spec(protocol, splits):
    """With ewc+fire the anchor is at the old weights, with fire+ewc at the projected ones."""
    anchors = {}
    for spec in ("ewc:samples=4+fire", "fire+ewc:samples=4"):
        with begun(protocol, splits, methods.from_spec(spec)) as session:
            steps(session, 0, 5)
            before = session.model.hidden1.linear.weight.detach().clone()
            boundary.cross(session, 1)
            after = session.model.hidden1.linear.weight.detach()
            anchor = session.attached.method.state_dict()["ewc/anchor/hidden1.linear.weight"]
            assert not torch.equal(before, after)
            anchors[spec] = torch.equal(anchor, before), torch.equal(anchor, after)
    assert anchors == {"ewc:samples=4+fire": (True, False), "fire+ewc:samples=4": (False, True)}
