"""What happens between two phases, and in which order."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.training import boundary, train
from replastic.weights.change import Change, Proposal
from support.small_runs import begun, steps, trained_by


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


@contextmanager
def trained(protocol, splits, method):
    with begun(protocol, splits, method) as session:
        steps(session, 0, 5)
        yield session


def accuracy(model, data):
    with torch.no_grad():
        return float((model(data.inputs).argmax(1) == data.targets).float().mean())


def test_scores_before_then_method_then_writer_then_scores_after(protocol, splits):
    protocol = replace(protocol, boundary_metrics=("sfe", "weight_norm"))
    method = Wipe()
    with trained(protocol, splits, method) as session:
        train_set = session.learner.phase(1).train
        weight = session.model.hidden1.linear.weight
        old, expected_before = weight.detach().clone(), accuracy(session.model, train_set)
        before, after = boundary.cross(session, 1)
        assert method.seen == [("setup", 0), ("boundary", 1, 50)]
        assert torch.equal(method.before, old)
        assert session.model.hidden1.linear.weight is weight
        assert not weight.any()
        assert before == {"metric/accuracy": pytest.approx(expected_before)}
        assert after["metric/accuracy"] == pytest.approx(accuracy(session.model, train_set))
        assert after["metric/sfe"] == pytest.approx(float(old.double().square().sum()))
        assert after["metric/weight_norm/hidden1.linear.weight"] == 0


@pytest.mark.parametrize("method", [Method, Wipe])
@pytest.mark.parametrize("policy", ["keep", "reset_touched", "reset_all"])
def test_the_runs_optimizer_policy_holds_whatever_the_method_writes(policy, method, protocol, splits):
    with trained(trained_by(protocol, optimizer_policy=policy), splits, method()) as session:
        optimizer, model = session.attached.optimizer, session.model
        touched, other = model.hidden1.linear.weight, model.head.weight
        moment = optimizer.state[other]["exp_avg"].clone()
        assert moment.any()
        boundary.cross(session, 1)
        assert session.attached.optimizer is optimizer
        if policy == "reset_all":
            assert not any(optimizer.state.values()), "base and others alike begin the phase with none"
            return
        assert torch.equal(optimizer.state[other]["exp_avg"], moment)
        kept = bool(optimizer.state.get(touched, {}).get("exp_avg", torch.zeros(1)).any())
        assert kept == (policy == "keep" or method is Method)


def test_a_boundary_is_crossed_once(protocol, splits):
    method = Wipe()
    with trained(protocol, splits, method) as session:
        boundary.cross(session, 1)
        with torch.no_grad():
            session.model.hidden1.linear.weight.fill_(1.0)
        steps(session, 1, 2)
        state = session.attached.optimizer.state[session.model.head.weight]["exp_avg"].clone()
        assert session.attached.cross(1) == []
        boundary.cross(session, 1)
        assert method.seen == [("setup", 0), ("boundary", 1, 50)]
        assert session.model.hidden1.linear.weight.any()
        assert torch.equal(session.attached.optimizer.state[session.model.head.weight]["exp_avg"], state)


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
    count = protocol.task.stream.steps
    assert [c for c in calls if c[0] == "penalty"] == [("penalty", 1)] * count + [("penalty", 2)] * count
    assert [c for c in calls if c[0] == "after_step"] == [("after_step", 1)] * count + [("after_step", 2)] * count
    assert [c for c in calls if c[0] == "make_optimizer"] == [("make_optimizer", 1)], "once, when it is turned on"


def test_the_warm_up_scales_the_rate_a_method_chose(protocol, splits):
    class Sgd(Method):
        def make_optimizer(self, groups, build):
            return torch.optim.SGD(groups, lr=0.25)

    with begun(trained_by(protocol, warmup=0.1), splits, Sgd()) as session:
        weight = session.model.head.bias
        old = weight.detach().clone()
        session.learner.begin(0, 0)
        session.update(0, 20)  # The first of two updates of warm-up: half the rate.
        assert session.attached.optimizer.param_groups[0]["lr"] == 0.125
        assert torch.allclose(weight, old - 0.125 * weight.grad)


def test_hooks_are_removed_after_an_error(protocol, splits, tmp_path):
    class Failing(Wipe):
        def after_step(self, run):
            raise RuntimeError("on purpose")

    method = Failing()
    with pytest.raises(RuntimeError, match="on purpose"):
        train(protocol, splits, method, 0, RunDirectory(tmp_path))
    assert method.seen[-1] == ("close",)
