"""Methods with a state, an optimizer or modules of their own: stopped anywhere, they go on to the same records."""

from dataclasses import replace

import pytest
import torch
from replastic.training.update import update
from safetensors.torch import load_file

from replastic import methods
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.training import boundary, supervised, train
from replastic.training.session import Session

TOGETHER = (
    ("Mlp", "nap:every=5+plasticity_injection+ewc:samples=3"),
    ("Mlp", "muon+spectral:strength=0.1+hare_tortoise:momentum=0.9,every=5"),
    ("Dropper", "ewc:samples=4+fire+bn_reestimate"),
)
ALONE = (
    "muon",
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


def content(directory):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in directory.records()]


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
    network = Mlp(hidden=(12, 8)) if network == "Mlp" else dropping.network
    trainer = replace(dropping.trainer, save_seconds=0.0)
    return replace(dropping, network=network, trainer=trainer, boundary_metrics=("sfe", "weight_norm"))


def stopped(protocol, splits, path, spec, policy, stops):
    protocol = replace(protocol, trainer=replace(protocol.trainer, optimizer_policy=policy))
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
    assert state["method/plasticity_injection/pairs"] == 1
    assert state["model/head.weight"].shape == state["model/head.old.0.head.weight"].shape == (10, 16)
    assert state["method/ewc/anchor/head.weight"].shape == (10, 16)
    run(protocol, splits, tmp_path, "plasticity_injection+ewc:samples=4", stop_at=3.0)
    assert "model/head.old.1.head.weight" in load_file(tmp_path / "state" / "state.safetensors")


@pytest.mark.parametrize("policy", ["keep", "reset_touched", "reset_all"])
def test_new_modules_bring_a_new_optimizer_with_what_the_policy_left(policy, protocol, splits):
    trainer = replace(protocol.trainer, optimizer_policy=policy)
    session = Session(replace(protocol, trainer=trainer), splits, methods.from_spec("plasticity_injection"), seed=0)
    boundary.begin(session, session.phase(0))
    for batch in supervised.batches(session.phase(0).train, 20, 0, 5, seed=0):
        update(session, batch, 1.0)
    old, model = session.optimizer, session.model
    encoder, head = model.hidden1.linear.weight, model.head.weight
    moment = old.state[encoder]["exp_avg"].clone()
    boundary.cross(session, session.phase(1))
    assert session.optimizer is not old
    assert session.run.optimizer is session.optimizer
    assert {id(p) for g in session.optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert (head in session.optimizer.state) == (policy == "keep")
    assert (encoder in session.optimizer.state) == (policy != "reset_all")
    if policy != "reset_all":
        assert torch.equal(session.optimizer.state[encoder]["exp_avg"], moment)
    for batch in supervised.batches(session.phase(1).train, 20, 0, 3, seed=0):
        update(session, batch, 1.0)
    assert not any(p in session.optimizer.state for p in model.parameters() if not p.requires_grad)


def test_the_warm_up_reaches_both_optimizers_of_muon(protocol, splits):
    session = Session(protocol, splits, methods.from_spec("muon"), 0)
    boundary.begin(session, session.phase(0))
    update(session, next(supervised.batches(session.phase(0).train, 20, 0, 1, seed=0)), rate=0.25)
    assert [group["lr"] for group in session.optimizer.param_groups] == [0.25 * 1e-3, 0.25 * 1e-2]
    assert [group["initial_lr"] for group in session.optimizer.param_groups] == [1e-3, 1e-2]


def test_parts_act_at_a_boundary_in_the_order_of_the_spec(protocol, splits):
    """With ewc+fire the anchor is at the old weights, with fire+ewc at the projected ones."""
    anchors = {}
    for spec in ("ewc:samples=4+fire", "fire+ewc:samples=4"):
        session = Session(protocol, splits, methods.from_spec(spec), 0)
        boundary.begin(session, session.phase(0))
        for batch in supervised.batches(session.phase(0).train, 20, 0, 5, seed=0):
            update(session, batch, 1.0)
        before = session.model.hidden1.linear.weight.detach().clone()
        boundary.cross(session, session.phase(1))
        after = session.model.hidden1.linear.weight.detach()
        anchor = session.method.state_dict()["ewc/anchor/hidden1.linear.weight"]
        assert not torch.equal(before, after)
        anchors[spec] = torch.equal(anchor, before), torch.equal(anchor, after)
        session.method.close()
    assert anchors == {"ewc:samples=4+fire": (True, False), "fire+ewc:samples=4": (False, True)}
