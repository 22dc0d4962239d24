"""Methods with an optimizer or a backward pass of their own, in a run: settings, schedules, steps by hand."""

from dataclasses import dataclass
from itertools import islice

import pytest
import torch
from torch.nn import functional

from replastic import methods
from replastic.data import Dataset, Splits
from replastic.learners import Trainer
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.training import Protocol
from support.small_runs import begun, trained_by, with_task
from support.two_networks import TwoNetworks


@dataclass(frozen=True, kw_only=True)
class Double(Network):
    """A network in float64."""

    inner: Network

    def module(self, sample_shape, classes):
        return self.inner.module(sample_shape, classes).double()


def test_without_strength_a_run_is_that_of_base_to_the_bit(protocol, splits):
    ends = []
    for spec in ("base", "adamo:strength=0", "adamo"):
        with begun(protocol, splits, methods.from_spec(spec)) as session:
            session.learner.begin(0, 0)
            for step in range(10):
                session.update(step, 20)
            ends.append([p.detach().clone() for p in session.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))


def test_the_warm_up_of_a_run_scales_both_steps(protocol, splits):
    method = methods.from_spec("adamo:isometry_lr=0.5")
    with begun(trained_by(protocol, warmup=0.2), splits, method) as session:
        session.learner.begin(0, 0)
        session.update(0, 20)  # The first of four updates of warm-up.
        (group,) = session.attached.optimizer.param_groups
        assert (group["lr"], group["initial_lr"], group["isometry_lr"]) == (0.25e-3, 1e-3, 0.5)


def sam_by_hand(protocol, splits, count, rho):
    """SGD by the gradient at the perturbed weights, in float64; clipping by the formula, decay decoupled."""
    learner = protocol.task.learner(splits, 0, protocol.trainer)
    model, trainer = learner.model, protocol.trainer
    parameters = list(model.parameters())
    for inputs, targets in islice(learner.stream(0, 0), count):

        def gradients(inputs=inputs, targets=targets):
            return torch.autograd.grad(functional.cross_entropy(model(inputs), targets), parameters)

        first = gradients()
        norm = torch.sqrt(sum(g.square().sum() for g in first))
        start = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, first, strict=True):
                p += rho * g / norm
        second = gradients()
        length = torch.sqrt(sum(g.square().sum() for g in second))
        clip = min(1.0, trainer.clip_norm / (float(length) + 1e-6))
        with torch.no_grad():
            for p, g, s in zip(parameters, second, start, strict=True):
                shrunk = s * (1 - trainer.learning_rate * trainer.weight_decay) if p.dim() > 1 else s
                p.copy_(shrunk - trainer.learning_rate * clip * g)
    return dict(model.named_parameters())


@pytest.mark.parametrize("accumulate", [1, 4])
def test_sam_in_a_run_is_that_by_hand_also_in_parts(accumulate, protocol, splits):
    exact = Splits(
        *(Dataset(s.inputs.double(), s.targets, s.classes) for s in (splits.train, splits.held_out, splits.test))
    )
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "clip_norm": 0.2, "weight_decay": 0.1, "warmup": 0.0}
    protocol = with_task(trained_by(protocol, **settings), network=Double(inner=Mlp(hidden=(12,))))
    wanted = sam_by_hand(protocol, exact, 5, 0.3)
    method = methods.from_spec("sam:rho=0.3")
    with begun(trained_by(protocol, accumulate=accumulate), exact, method) as session:
        session.learner.begin(0, 0)
        for step in range(5):
            session.update(step, 5)
        for name, p in session.model.named_parameters():
            assert (p - wanted[name]).abs().max() < 1e-12, name


def test_sam_steps_each_network_of_a_learner_by_its_own_loss():
    protocol = Protocol(task=TwoNetworks(), trainer=Trainer(batch_size=6, optimizer="sgd", learning_rate=0.01))
    ends = []
    for spec in ("base", "sam"):
        with begun(protocol, None, methods.from_spec(spec)) as session:
            session.learner.begin(0, 0)
            session.update(0, 1)
            ends.append({n: p.detach().clone() for n, p in session.model.named_parameters()})
    assert all(not torch.equal(ends[0][n], ends[1][n]) for n in ends[0] if n.endswith("weight"))
