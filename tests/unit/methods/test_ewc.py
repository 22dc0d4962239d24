"""EWC against gradients taken sample by sample, and against the dense Fisher matrix of a small model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import methods
from replastic.errors import UserError
from replastic.interventions import fisher
from replastic.interventions.attached import Attached

RunOn = Callable[..., methods.Run]
Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4)]
        model = nn.Sequential(*layers).double()
        model[1].running_mean.add_(0.3)
        return model


def batches(sizes: tuple[int, ...] = (5, 5, 2)) -> list[Batch]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 2, 4, 4, generator=draw).double(), torch.randint(0, 4, (n,), generator=draw)) for n in sizes
    ]


def by_sample(model: nn.Sequential, data: list[Batch]) -> dict[str, Tensor]:
    """Mean of the squared gradients, one sample at a time, in evaluation mode."""
    model.eval()
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for inputs, targets in data:
        for x, y in zip(inputs, targets, strict=True):
            found = torch.autograd.grad(loss_fn(model, (x[None], y[None])), list(model.parameters()))
            for name, g in zip(squares, found, strict=True):
                squares[name] += g.square()
            count += 1
    model.train()
    return {name: value / count for name, value in squares.items()}


@pytest.fixture
def run(run_on: RunOn) -> methods.Run:
    return run_on(network(), past_batches=batches, loss_fn=loss_fn, phase=1)


def crossed(run: methods.Run, spec: str = "ewc:samples=0") -> methods.Method:
    method = methods.from_spec(spec)
    methods.check_needs(method, run)
    method.setup(run)
    change = method.on_boundary(run)
    assert change is not None
    assert not list(change.proposals)
    return method


@pytest.mark.parametrize("chunk", [1, 400, 1 << 26])
def test_fisher_is_the_mean_of_squared_gradients(chunk: int, run: methods.Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(fisher, "CHUNK", chunk)
    model = run.model
    assert isinstance(model, nn.Sequential)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = crossed(run).state_dict()
    for name, wanted in by_sample(model, batches()).items():
        torch.testing.assert_close(state[f"fisher/{name}"], wanted, rtol=1e-10, atol=1e-14)
        assert torch.equal(state[f"anchor/{name}"], before[name])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_first_samples_of_each_batch(run: methods.Run) -> None:
    state = crossed(run, "ewc:samples=3").state_dict()
    assert isinstance(run.model, nn.Sequential)
    some = [(inputs[:3], targets[:3]) for inputs, targets in batches()]
    for name, wanted in by_sample(run.model, some).items():
        torch.testing.assert_close(state[f"fisher/{name}"], wanted, rtol=1e-10, atol=1e-14)


def test_drawn_labels_give_the_diagonal_of_the_true_fisher_matrix(run_on: RunOn) -> None:
    """For softmax outputs the dense Fisher matrix is the mean of J^T (diag p - p p^T) J, by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3)).double()
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(3)).double()
    many = [(x.repeat(4000, 1), torch.zeros(8000, dtype=torch.int64))]
    run = run_on(model, past_batches=lambda: many, loss_fn=loss_fn, phase=1, target_modules="0.*")
    state = crossed(run, "ewc:samples=0,fisher=true").state_dict()
    dense = torch.zeros(12, 12).double()
    for sample in x:
        share = torch.softmax(model(sample), 0).detach()
        jacobian = torch.cat([torch.kron(torch.eye(3).double(), sample[None]), torch.eye(3).double()], 1)
        dense += jacobian.T @ (share.diag() - share.outer(share)) @ jacobian / 2
    found = torch.cat([state["fisher/0.weight"].flatten(), state["fisher/0.bias"]])
    torch.testing.assert_close(found, dense.diagonal(), rtol=0.1, atol=2e-3)  # 8000 draws
    again = crossed(run, "ewc:samples=0,fisher=true").state_dict()
    assert torch.equal(again["fisher/0.weight"], state["fisher/0.weight"]), "the draw has a seed of its own"
    empirical = crossed(run, "ewc:samples=0").state_dict()
    assert not torch.allclose(empirical["fisher/0.weight"], state["fisher/0.weight"], rtol=0.2)


def test_penalty_and_its_gradient(run: methods.Run) -> None:
    method = crossed(run, "ewc:samples=0,strength=3.0")
    model = run.model
    assert isinstance(model, nn.Sequential)
    fisher = by_sample(model, batches())
    at_anchor = method.penalty(run)
    assert at_anchor is not None
    assert float(at_anchor.detach()) == 0.0
    shifts = {
        n: torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).to(p) for n, p in model.named_parameters()
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(shifts[name])
    value = method.penalty(run)
    assert value is not None
    wanted = 1.5 * sum(float((fisher[n] * shifts[n].square()).sum()) for n in shifts)
    assert float(value.detach()) == pytest.approx(wanted, rel=1e-9)
    for (name, _), g in zip(
        model.named_parameters(), torch.autograd.grad(value, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(g, 3.0 * fisher[name] * shifts[name], rtol=1e-9, atol=1e-14)


def test_fisher_adds_up_over_phases_and_the_anchor_moves(run: methods.Run) -> None:
    method = crossed(run, "ewc:samples=0,decay=0.5")
    first = {name: value.clone() for name, value in method.state_dict().items()}
    model = run.model
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    run.phase = 2
    run.past_batches = lambda: batches((4,))
    method.on_boundary(run)
    second = method.state_dict()
    for name, newest in by_sample(model, batches((4,))).items():
        wanted = newest + 0.5 * first[f"fisher/{name}"]
        torch.testing.assert_close(second[f"fisher/{name}"], wanted, rtol=1e-10, atol=1e-14)
    assert torch.equal(second["anchor/0.weight"], model[0].weight.detach())


def test_fisher_keeps_no_graph_where_weights_are_left_alone(run_on: RunOn) -> None:
    """Weights that are not held are differentiated through, but must not be remembered."""
    run = run_on(network(), past_batches=batches, loss_fn=loss_fn, phase=1, exclude_modules=["0"])
    method = crossed(run)
    assert not any(value.requires_grad for value in method.state_dict().values())
    for _ in range(2):
        penalty = method.penalty(run)
        assert penalty is not None
        penalty.backward()


def test_no_penalty_without_a_past(run_on: RunOn) -> None:
    run = run_on(network(), loss_fn=loss_fn)
    method = crossed(run)
    assert method.penalty(run) is None
    assert method.state_dict() == {}
    run.past_batches = list
    with pytest.raises(UserError, match="ewc needs data of the past phase, but there is none"):
        method.on_boundary(run)


def test_order_in_a_combination_decides_what_is_held(run: methods.Run) -> None:
    ends = {}
    for spec in ("ewc:samples=0+fire", "fire+ewc:samples=0"):
        run.model.load_state_dict(network().state_dict())
        with Attached(methods.from_spec(spec), run) as attached:
            attached.begin()
            assert len(attached.cross()) == 2
            penalty = attached.penalty()
            assert penalty is not None
        ends[spec] = float(penalty.detach())
    assert ends["fire+ewc:samples=0"] == 0.0
    assert ends["ewc:samples=0+fire"] > 0.0


def test_attention_is_differentiated_sample_by_sample(run_on: RunOn) -> None:
    from replastic.networks.vit_tiny import VitTiny

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VitTiny(patch=4, dim=12, depth=1, heads=3, mlp=8).module((2, 4, 4), 4).double()
    run = run_on(model, past_batches=batches, loss_fn=loss_fn, phase=1)
    state = crossed(run).state_dict()
    for name, wanted in by_sample(model, batches()).items():
        torch.testing.assert_close(state[f"fisher/{name}"], wanted, rtol=1e-8, atol=1e-14)
