"""Updates against torch and against plain loops by hand: clipping, rates, decay, accumulation, penalties."""

from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch
from torch.nn import functional

from replastic.data import Dataset, Splits
from replastic.methods import Method
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.parallel import distributed
from replastic.records import RunDirectory
from replastic.streams.random_labels import RandomLabels
from replastic.training import resume, train
from replastic.training.session import Session
from replastic.weights.change import Change, Proposal
from support.small_runs import begun, trained_by, with_task


def plain_loop(protocol, splits, seed, penalty=lambda model: 0.0):
    """Phase 0 by hand in float64: Adam as in its paper, clipping by the formula, the warm-up as a list."""
    learner = protocol.task.learner(splits, seed, protocol.trainer)
    model, steps = learner.model.double(), protocol.task.stream.steps
    parameters = list(model.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    losses = []
    for t, (inputs, targets) in enumerate(islice(learner.stream(0, 0), steps), start=1):
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


def squares(model):
    return 0.1 * sum(p.square().sum() for p in model.parameters())


class Squares(Method):
    """Pulls the weights to zero, and counts how often it is asked to."""

    asked = 0

    def penalty(self, run):
        self.asked += 1
        return squares(run.model)


@pytest.mark.parametrize(("method", "penalty"), [(Method, lambda model: 0.0), (Squares, squares)])
def test_a_phase_equals_a_plain_loop_in_float64(method, penalty, protocol, splits, tmp_path):
    protocol = with_task(protocol, stream=RandomLabels(tasks=2, images=50, steps=40))
    expected, losses = plain_loop(protocol, splits, seed=5, penalty=penalty)
    directory = RunDirectory(tmp_path)
    train(protocol, splits, method(), 5, directory, until=1)
    with Session(protocol, splits, method(), 5) as session:
        resume.restore(session, directory, None)
        found = dict(session.model.named_parameters())
    for name, value in expected.named_parameters():
        # float32 against float64; Adam divides by sqrt(v), so 40 steps of 1e-3 may differ by about 1e-5 in a step's
        # direction where gradients are near zero.
        assert torch.allclose(found[name].double(), value, atol=2e-5), name
    (record,) = directory.records()
    assert record["metric/train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


class Writer(Method):
    """Writes the number of the update into the bias of the head."""

    def after_step(self, run):
        return Change(proposals=[Proposal("head.bias", torch.full((10,), float(run.step)))])


def test_changes_after_an_update_are_written_into_the_parameter_itself(protocol, splits):
    with begun(protocol, splits, Writer()) as session:
        bias = session.model.head.bias
        session.learner.begin(0, 0)
        for number in range(1, 4):
            session.update(number - 1, 12)
            assert session.model.head.bias is bias
            assert torch.equal(bias, torch.full((10,), float(number)))


@dataclass(frozen=True, kw_only=True)
class Double(Network):
    """A network in float64, so that rounding does not blur what is compared."""

    inner: Network

    def module(self, sample_shape, classes):
        return self.inner.module(sample_shape, classes).double()


@pytest.fixture(scope="module")
def exact_splits():
    draw = torch.Generator().manual_seed(0)
    whole = Dataset(
        torch.randn(60, 1, 8, 8, generator=draw, dtype=torch.float64), torch.randint(10, (60,), generator=draw), 10
    )
    return Splits(whole, whole.first(5), whole.first(5))


@pytest.fixture
def exact(protocol):
    """Twenty updates in float64 without clipping and warm-up."""
    protocol = with_task(
        protocol, stream=RandomLabels(tasks=2, images=50, steps=20), network=Double(inner=Mlp(hidden=(16, 16)))
    )
    return trained_by(protocol, batch_size=10, clip_norm=0.0, warmup=0.0)


def weights_after(protocol, splits, method=None, steps=20):
    """Weights after a phase of 20 updates, and their losses."""
    with begun(protocol, splits, method or Method()) as session:
        session.learner.begin(0, 0)
        losses = [float(session.update(step, 20)) for step in range(steps)]
        return {name: p.detach().clone() for name, p in session.model.named_parameters()}, losses


def trained_by_torch(protocol, splits, make, rate=lambda step: 1.0, before_step=lambda model, lr: None):
    """The same updates by an optimizer of torch and its own scheduler; `make` gets matrices and vectors."""
    learner = protocol.task.learner(splits, 0, protocol.trainer)
    model = learner.model
    optimizer = make([p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() == 1])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for inputs, targets in islice(learner.stream(0, 0), 20):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        before_step(model, schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return dict(model.named_parameters())


def assert_equal(found, expected, tolerance=1e-13):
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= tolerance, name


def half_way(step):
    """A warm-up of ten updates, then a straight line to a fifth at the last of twenty."""
    return (step + 1) / 10 if step < 10 else 1 - 0.8 * (step - 10) / 9


SCHEDULES = [({}, lambda step: 1.0), ({"warmup": 0.5, "schedule": "linear", "final_rate": 0.2}, half_way)]


@pytest.mark.parametrize(("settings", "rate"), SCHEDULES)
def test_decoupled_decay_is_adamw_with_vectors_left_out(settings, rate, exact, exact_splits):
    protocol = trained_by(exact, weight_decay=0.5, learning_rate=0.01, **settings)
    found, _ = weights_after(protocol, exact_splits)

    def adamw(matrices, vectors):
        groups = [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.01)

    assert_equal(found, trained_by_torch(protocol, exact_splits, adamw, rate))
    without, _ = weights_after(trained_by(protocol, weight_decay=0.0), exact_splits)
    assert (without["head.weight"] - found["head.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(("settings", "rate"), SCHEDULES)
def test_sgd_is_torchs_and_its_decay_is_decoupled_from_momentum(settings, rate, exact, exact_splits):
    protocol = trained_by(exact, optimizer="sgd", momentum=0.9, learning_rate=0.1, **settings)

    def sgd(matrices, vectors):
        return torch.optim.SGD([*matrices, *vectors], lr=0.1, momentum=0.9)

    found, _ = weights_after(protocol, exact_splits)
    assert_equal(found, trained_by_torch(protocol, exact_splits, sgd, rate))

    @torch.no_grad()
    def shrink(model, lr):
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(1 - 0.3 * lr)

    found, _ = weights_after(trained_by(protocol, weight_decay=0.3), exact_splits)
    assert_equal(found, trained_by_torch(protocol, exact_splits, sgd, rate, shrink))


def test_a_weight_without_gradient_does_not_decay(exact, exact_splits):
    with begun(trained_by(exact, weight_decay=0.5), exact_splits, Method()) as session:
        frozen, free = session.model.hidden1.linear.weight, session.model.head.weight
        frozen.requires_grad_(False)
        old = frozen.clone(), free.detach().clone()
        session.learner.begin(0, 0)
        session.update(0, 20)
        assert torch.equal(frozen, old[0])
        assert not torch.equal(free, old[1])


@pytest.mark.parametrize("parts", [2, 4, 64])
@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_a_batch_in_parts_makes_the_same_updates(parts, clip_norm, exact, exact_splits):
    """Batches of 10 in parts of 3, 3, 2 and 2; more parts than samples; the whole gradient is clipped."""
    protocol = trained_by(exact, clip_norm=clip_norm)
    whole, in_parts = Squares(), Squares()
    expected, losses = weights_after(protocol, exact_splits, whole)
    found, same = weights_after(trained_by(protocol, accumulate=parts), exact_splits, in_parts)
    # Sums in another order differ in the last bits, and Adam divides by gradients that may be small.
    assert_equal(found, expected, 1e-9)
    assert same == pytest.approx(losses, rel=1e-9)
    assert whole.asked == in_parts.asked == 20, "the penalty is counted once for an update"


@pytest.mark.parametrize(("accumulate", "sizes"), [(1, [10]), (4, [3, 3, 2, 2]), (64, [1] * 10)])
def test_only_a_part_of_the_batch_is_run_at_a_time(accumulate, sizes, exact, exact_splits):
    seen = []
    with begun(trained_by(exact, accumulate=accumulate), exact_splits, Method()) as session:
        session.model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        session.learner.begin(0, 0)
        session.update(0, 20)
    assert seen == sizes


@pytest.mark.parametrize(("count", "processes"), [(7, 2), (21, 2), (10, 3), (8, 8), (64, 5)])
@pytest.mark.parametrize("accumulate", [1, 3, 4, 50])
def test_every_process_runs_equally_many_parts_and_their_shares_add_up(
    count, processes, accumulate, exact, splits, monkeypatch
):
    """Batch normalisation waits in each part for that of the other processes."""
    protocol = with_task(exact, network=Mlp(hidden=(4,)))
    learner = protocol.task.learner(splits, 0, replace(protocol.trainer, accumulate=accumulate))
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    monkeypatch.setattr(learner, "criterion", lambda outputs, targets: torch.ones(()))
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([float(share) for share in learner._parts(splits.train.batch(slice(count)))])
    assert len({len(mine) for mine in shares}) == 1
    assert len(shares[0]) == min(accumulate, count // processes)
    assert sum(map(sum, shares)) == pytest.approx(1.0)
