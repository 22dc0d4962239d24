"""One update against torch by hand: clipping, warm-up, penalties, what a method does after it."""

import pytest
import torch
from replastic.training.update import warm_up
from torch.nn import functional

from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.seeds import derive
from replastic.streams.random_labels import RandomLabels
from replastic.training import supervised, train
from replastic.training.session import Session
from replastic.weights.change import Change, Proposal


def plain_loop(protocol, splits, seed, penalty=lambda model: 0.0):
    """Phase 0 by hand in float64: Adam as in its paper, clipping by the formula, the warm-up as a list."""
    session = Session(protocol, splits, Method(), seed)
    model = session.model.double()
    parameters = list(model.parameters())
    phase, steps = session.phase(0), protocol.stream.steps
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    losses = []
    drawn = supervised.batches(phase.train, 20, 0, steps, "batches", 0, seed=seed)
    for t, (inputs, targets) in enumerate(drawn, start=1):
        loss = functional.cross_entropy(model(inputs.double()), targets)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss + penalty(model), parameters)
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        clip = min(1.0, 0.5 / (float(norm) + 1e-6))
        rate = 1e-3 * min(1.0, t / round(0.1 * steps))
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * clip * g)
                v.mul_(0.999).add_(0.001 * (clip * g).square())
                p -= rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return model, losses


class Squares(Method):
    """Pulls the weights to zero."""

    def penalty(self, run):
        return 0.1 * sum(p.square().sum() for p in run.model.parameters())


@pytest.mark.parametrize("method", [Method(), Squares()])
def test_a_phase_equals_a_plain_loop_in_float64(method, protocol, splits, tmp_path):
    protocol = protocol.__class__(**{**vars(protocol), "stream": RandomLabels(tasks=2, images=50, steps=40)})
    penalty = (
        (lambda model: 0.1 * sum(p.square().sum() for p in model.parameters()))
        if type(method) is Squares
        else (lambda model: 0.0)
    )
    expected, losses = plain_loop(protocol, splits, seed=5, penalty=penalty)
    directory = RunDirectory(tmp_path)
    train(protocol, splits, method, 5, directory, until=1)
    session = Session(protocol, splits, Method(), 5)
    from replastic.training import resume

    resume.restore(session, directory, None)
    found = dict(session.model.named_parameters())
    for name, value in expected.named_parameters():
        # float32 against float64; Adam divides by sqrt(v), so 40 steps of 1e-3 may differ by about 1e-5 in a step's
        # direction where gradients are near zero.
        assert torch.allclose(found[name].double(), value, atol=2e-5), name
    (record,) = directory.records()
    assert record["metric/train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_warm_up_rises_linearly_over_its_share_and_stays():
    assert [warm_up(step, 20, 0.2) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 20, 0.0) == 1.0


class Halver(Method):
    """Halves the head after every update."""

    def after_step(self, run):
        return Change(proposals=[Proposal("head.bias", torch.full((10,), float(run.step)))])


def test_changes_after_a_step_are_written(protocol, splits, tmp_path):
    with Session(protocol, splits, Halver(), 0) as session:
        session.set_up_method()
        phase = session.phase(0)
        from replastic.training.update import update

        bias = session.model.head.bias
        for batch in supervised.batches(phase.train, 20, 0, 3, seed=0):
            update(session, batch, 1.0)
            assert session.model.head.bias is bias
            assert torch.equal(bias, torch.full((10,), float(session.position.step)))
    assert derive(0) != derive(1)
