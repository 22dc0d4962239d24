"""What happens between two phases, and in which order."""

from dataclasses import replace

import pytest
import torch
from replastic.training.update import update

from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.training import boundary, supervised, train
from replastic.training.session import Session
from replastic.weights.change import Change, Proposal


class Wipe(Method):
    """Zeroes the first layer's weights and notes what it is shown."""

    def setup(self, run):
        self.seen = [("setup", run.phase)]

    def on_boundary(self, run):
        data = list(run.batches())
        self.seen.append(("boundary", run.phase, sum(len(t) for _, t in data)))
        self.before = run.store.read("hidden1.linear.weight").clone()
        return Change(proposals=[Proposal("hidden1.linear.weight", torch.zeros(16, 64))])

    def close(self):
        self.seen.append(("close",))


def trained(protocol, splits, method):
    session = Session(protocol, splits, method, seed=0)
    boundary.begin(session, session.phase(0))
    for batch in supervised.batches(session.phase(0).train, 20, 0, 5, seed=0):
        update(session, batch, 1.0)
    return session


def accuracy(model, data):
    with torch.no_grad():
        return float((model(data.inputs).argmax(1) == data.targets).float().mean())


def test_scores_before_then_method_then_writer_then_scores_after(protocol, splits):
    protocol = replace(protocol, boundary_metrics=("sfe", "weight_norm"))
    method = Wipe()
    session = trained(protocol, splits, method)
    phase = session.phase(1)
    weight = session.model.hidden1.linear.weight
    old, expected_before = weight.detach().clone(), accuracy(session.model, phase.train)
    before, after = boundary.cross(session, phase)
    assert method.seen == [("setup", 0), ("boundary", 1, 50)]
    assert torch.equal(method.before, old)
    assert session.model.hidden1.linear.weight is weight
    assert not weight.any()
    assert before == {"metric/accuracy": pytest.approx(expected_before)}
    assert after["metric/accuracy"] == pytest.approx(accuracy(session.model, phase.train))
    assert after["metric/sfe"] == pytest.approx(float(old.double().square().sum()))
    assert after["metric/weight_norm/hidden1.linear.weight"] == 0


@pytest.mark.parametrize("policy", ["keep", "reset_touched", "reset_all"])
def test_the_runs_optimizer_policy_holds(policy, protocol, splits):
    session = trained(replace(protocol, trainer=replace(protocol.trainer, optimizer_policy=policy)), splits, Wipe())
    old, model = session.optimizer, session.model
    touched, other = model.hidden1.linear.weight, model.head.weight
    moment = old.state[other]["exp_avg"].clone()
    assert moment.any()
    boundary.cross(session, session.phase(1))
    if policy == "reset_all":
        assert session.optimizer is not old
        assert not session.optimizer.state
        return
    assert session.optimizer is old
    assert torch.equal(old.state[other]["exp_avg"], moment)
    kept = bool(old.state.get(touched, {}).get("exp_avg", torch.zeros(1)).any())
    assert kept == (policy == "keep")


def test_a_method_is_off_before_its_first_phase(protocol, splits, tmp_path):
    calls = []

    class Watcher(Wipe):
        def penalty(self, run):
            calls.append(("penalty", run.phase))

        def after_step(self, run):
            calls.append(("after_step", run.phase))

        def make_optimizer(self, groups, build):
            calls.append(("make_optimizer", session_phase(self)))
            return torch.optim.SGD(groups, lr=0.1)

    def session_phase(method):
        return method.seen[-1][1]

    method = Watcher()
    train(replace(protocol, methods_from=1), splits, method, 0, RunDirectory(tmp_path))
    assert method.seen == [("setup", 1), ("boundary", 1, 50), ("boundary", 2, 50), ("close",)]
    steps = protocol.stream.steps
    assert [c for c in calls if c[0] == "penalty"] == [("penalty", 1)] * steps + [("penalty", 2)] * steps
    assert [c for c in calls if c[0] == "after_step"] == [("after_step", 1)] * steps + [("after_step", 2)] * steps
    # Once when it is turned on, then for each phase (reset_all).
    assert [c for c in calls if c[0] == "make_optimizer"] == [("make_optimizer", p) for p in (1, 1, 2)]


def test_the_warm_up_scales_the_rate_a_method_chose(protocol, splits):
    class Sgd(Method):
        def make_optimizer(self, groups, build):
            return torch.optim.SGD(groups, lr=0.25)

    session = Session(protocol, splits, Sgd(), 0)
    boundary.begin(session, session.phase(0))
    weight = session.model.head.bias
    old = weight.detach().clone()
    update(session, next(supervised.batches(session.phase(0).train, 20, 0, 1, seed=0)), rate=0.5)
    assert session.optimizer.param_groups[0]["lr"] == 0.125
    assert torch.allclose(weight, old - 0.125 * weight.grad)


def test_hooks_are_removed_after_an_error(protocol, splits, tmp_path):
    class Failing(Wipe):
        def after_step(self, run):
            raise RuntimeError("on purpose")

    method = Failing()
    with pytest.raises(RuntimeError, match="on purpose"):
        train(protocol, splits, method, 0, RunDirectory(tmp_path))
    assert method.seen[-1] == ("close",)
