"""Actor and critic: each optimizer steps its own, a target follows a part, and both go on after a stop."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from replastic import methods
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.training import Protocol, boundary, train
from replastic.training.session import Session
from replastic.weights.change import Change
from replastic.weights.followers import PartCopy
from support.small_runs import begun, content, steps
from support.two_networks import DISCOUNT, FOLLOW, TwoNetworks, networks_of


@pytest.fixture
def protocol():
    trainer = Trainer(batch_size=6, learning_rate=0.01, save_seconds=0.0, optimizer_policy="keep")
    return Protocol(task=TwoNetworks(), trainer=trainer, boundary_metrics=("sfe",), metrics=("weight_norm",))


def half_squares(model):
    return 0.05 * sum(p.square().sum() for p in model.parameters())


class Counting(Method):
    """Pulls all weights to zero, and notes the order of its calls."""

    def setup(self, run):
        self.calls = []

    def penalty(self, run):
        self.calls.append("penalty")
        return half_squares(run.model)

    def after_step(self, run):
        self.calls.append(f"after {run.step}")


def by_hand(learner, updates, trainer):
    """The same updates with two Adams of torch, each over its own network; clipping by the formula."""
    model, target = learner.model, learner.target
    rates = {"critic": 0.01, "actor": 0.001}
    parts = {name: list(getattr(model, name).parameters()) for name in rates}
    optimizers = {name: torch.optim.Adam(parts[name], lr=rates[name]) for name in rates}

    def step(name, loss):
        gradients = torch.autograd.grad(loss + half_squares(model), parts[name])
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        for p, g in zip(parts[name], gradients, strict=True):
            p.grad = g * min(1.0, trainer.clip_norm / (float(norm) + 1e-6))
        optimizers[name].step()

    for _ in range(updates):
        seen, action, reward, then = learner.step_of_the_world()
        with torch.no_grad():
            goal = reward + DISCOUNT * target(torch.cat([then, model.actor(then)], 1)).squeeze(1)
        step("critic", nn.functional.mse_loss(model.critic(torch.cat([seen, action], 1)).squeeze(1), goal))
        step("actor", -model.critic(torch.cat([seen, model.actor(seen)], 1)).mean())
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), model.critic.parameters(), strict=True):
                slow += FOLLOW * (fast - slow)


def test_updates_are_those_of_two_optimizers_by_hand_with_the_penalty_in_each(protocol):
    other = protocol.task.learner(None, 3, protocol.trainer)
    other.begin(0, 0)
    by_hand(other, 12, protocol.trainer)
    method = Counting()
    with begun(protocol, None, method, seed=3) as session:
        steps(session, 0, 12)
        found, expected = networks_of(session.learner), networks_of(other)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-12, name
    assert method.calls == [call for n in range(1, 13) for call in ("penalty", "penalty", f"after {n}")]


def test_each_optimizer_steps_its_own_parameters_alone(protocol):
    with begun(protocol, None, Counting()) as session:
        for name, other in (("critic", "actor"), ("actor", "critic")):
            before = {n: p.detach().clone() for n, p in session.model.named_parameters()}
            expected = float(half_squares(session.model).detach())
            model = session.model
            found = session.descent(lambda model=model: (part * half_squares(model) for part in (0.25, 0.75)), name)
            assert not found.requires_grad
            assert float(found) == pytest.approx(expected)
            for n, p in session.model.named_parameters():
                assert torch.equal(p, before[n]) == n.startswith(other), n
        assert {n: o.param_groups[0]["lr"] for n, o in session.attached.optimizers.items()} == {
            "actor": pytest.approx(0.001),
            "critic": pytest.approx(0.01),
        }


def test_the_target_follows_what_a_boundary_writes_into_the_critic(protocol):
    with begun(replace(protocol, recipe="all"), None, methods.from_spec("fire")) as session:
        steps(session, 0, 5)
        before = networks_of(session.learner)
        boundary.cross(session, 1)
        after = networks_of(session.learner)
        for layer in ("0.weight", "2.weight"):
            assert not torch.equal(after[f"actor.{layer}"], before[f"actor.{layer}"])
            assert not torch.equal(after[f"critic.{layer}"], before[f"critic.{layer}"])
            assert torch.equal(after[f"target/{layer}"], after[f"critic.{layer}"])
        for layer in ("0.bias", "2.bias"):
            assert torch.equal(after[f"target/{layer}"], before[f"target/{layer}"]), "what is not written stays"


def test_a_copy_of_a_part_that_is_not_there_is_refused(protocol, monkeypatch):
    with begun(protocol, None, methods.from_spec("fire")) as session:
        session.attached._followers = {"target": PartCopy(session.learner.target, of="critik")}
        with pytest.raises(UserError, match="follower 'target' copies 'critik', but no weight of the model is there"):
            boundary.cross(session, 1)
        session.attached._followers = {"target": PartCopy(session.learner.target[0], of="critic")}
        with pytest.raises(UserError, match=r"follower 'target' has no critic\.0\.weight"):
            boundary.cross(session, 1)


@pytest.mark.parametrize("spec", ["base", "fire", "l2_init"])
def test_reset_all_leaves_no_state_in_any_optimizer(spec, protocol):
    trainer = replace(protocol.trainer, optimizer_policy="reset_all")
    with begun(replace(protocol, trainer=trainer), None, methods.from_spec(spec)) as session:
        steps(session, 0, 3)
        optimizers = dict(session.attached.optimizers)
        assert all(any(o.state.values()) for o in optimizers.values())
        boundary.cross(session, 1)
        assert session.attached.optimizers == optimizers
        assert not any(any(o.state.values()) for o in optimizers.values())


def test_modules_that_are_put_in_place_are_trained_by_the_optimizer_of_their_part(protocol):
    class Doubled(Method):
        """Puts a second layer behind the last one of the critic."""

        changes_structure = True

        def on_boundary(self, run):
            head = run.model.critic[2]
            return Change(modules={"critic.2": nn.Sequential(head, nn.Linear(1, 1).double())})

    with Session(replace(protocol, boundary_metrics=()), None, Doubled(), 0) as session:
        session.attached._followers = {}
        session.begin(0)
        boundary.cross(session, 1)
        new = session.model.critic[2][1].weight
        having = [
            name
            for name, optimizer in session.attached.optimizers.items()
            if any(p is new for group in optimizer.param_groups for p in group["params"])
        ]
        assert having == ["critic"]


class Stop(Exception):
    """As sudden as a kill: nothing is written after it."""


def run(protocol, path, spec, stop_at=None):
    directory = RunDirectory(path)

    def progress(phases):
        if stop_at is not None and phases >= stop_at:
            raise Stop

    try:
        train(protocol, None, methods.from_spec(spec), 3, directory, progress=progress, until=3)
    except Stop:
        assert not directory.done
    return content(directory), load_file(path / "state" / "state.safetensors")


SPECS = ("base", "fire", "muon", "hare_tortoise:every=5,momentum=0.9", "ewc:samples=4", "nap:every=3+shrink_perturb")


@pytest.mark.parametrize("spec", SPECS)
def test_stopped_and_resumed_records_and_all_states_are_the_same_bits(spec, protocol, tmp_path):
    whole, state = run(protocol, tmp_path / "whole", spec)
    assert [r["event"] for r in whole].count("boundary") == 2
    for stop in (0.5, 1.0, 2.5):
        run(protocol, tmp_path / "parts", spec, stop_at=stop)
    found, resumed = run(protocol, tmp_path / "parts", spec)
    assert found == whole
    assert resumed.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(resumed[name], value), name
    assert [r["frames"] for r in whole] == [6 * r["step"] for r in whole]


def test_the_state_on_disk_has_every_optimizer_by_its_name_and_what_the_learner_needs(protocol, tmp_path):
    _, state = run(protocol, tmp_path, "base")
    assert {name.split("/")[1] for name in state if name.startswith("optimizer/")} == {"actor", "critic"}
    assert state["optimizer/actor/0/exp_avg"].shape == (8, 3)
    assert state["optimizer/critic/0/exp_avg"].shape == (8, 5)
    assert state["learner/target/0.weight"].shape == (8, 5)
    assert state["learner/frames"] == 3 * 12 * 6


@pytest.mark.parametrize("lost", ["where", "target/0.weight"])
def test_without_the_learners_state_a_run_would_go_on_otherwise(lost, protocol, tmp_path, monkeypatch):
    """That the tests above can fail."""
    whole, _ = run(protocol, tmp_path / "whole", "base")
    run(protocol, tmp_path / "parts", "base", stop_at=1.5)
    kind = type(protocol.task.learner(None, 0, protocol.trainer))
    load = kind.load_state_dict

    def forgetful(self, state):
        load(self, {**copy.copy(state), lost: torch.zeros_like(state[lost])})

    monkeypatch.setattr(kind, "load_state_dict", forgetful)
    found, _ = run(protocol, tmp_path / "parts", "base")
    assert found != whole
