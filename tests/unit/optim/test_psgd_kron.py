"""Kron against numbers from kron-torch, against its update by hand, and in the ways optimizers are used."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic.errors import UserError
from replastic.optim import PsgdKron
from replastic.optim.psgd_kron import factors, update_share
from support.training_bench import build, data, lively, loss_fn

# From kron-torch 0.3.3 after 60 steps in float64: without torch.compile, with the same random matrices, its random
# balancing off, and its damping done on a copy (there it is added to the mean gradient itself).
KRON_TORCH = (
    (0.5424120579744423, -0.11632638874388904, 0.01592174229771886),
    (-0.24262557848342486, 0.3504606906309885, -0.04166480560609336),
    (0.09926082629956416, -0.29261293422141055, -0.056541901118371624),
    (0.14901059021063515, -0.05655960029395692, 0.05394572628255588),
)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


X, Y = torch.randn(40, 5, generator=torch.Generator().manual_seed(7)).double(), torch.arange(40) % 3


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    dtype = next(model.parameters()).dtype
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X.to(dtype)), Y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_kron_torch_gives_the_same_numbers() -> None:
    model = network()
    train(model, PsgdKron(model.parameters(), lr=1e-2, weight_decay=0.1, seed=3), 60)
    for p, wanted in zip(model.parameters(), KRON_TORCH, strict=True):
        assert p.detach().flatten()[:3].tolist() == pytest.approx(wanted, rel=1e-9)


def test_the_update_is_the_mean_gradient_between_two_preconditioners() -> None:
    model = network()
    optimizer = PsgdKron(model.parameters(), lr=1e-3, momentum=0.5)
    train(model, optimizer, 30)
    w = model[0].weight
    state, before = optimizer.state[w], w.detach().clone()
    mean = state["momentum_buffer"].clone()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    assert w.grad is not None
    mean = (0.5 * mean + 0.5 * w.grad) / (1 - 0.5**31)
    optimizer.step()
    left, right = factors(state)
    assert torch.equal(left, left.triu())
    assert torch.equal(right, right.triu())
    white = left.T @ left @ mean @ right.T @ right
    white = white * min(1.0, 1.1 / float(white.square().mean().sqrt()))
    torch.testing.assert_close(before - w.detach(), 1e-3 * white, rtol=1e-9, atol=1e-12)


def test_preconditioners_whiten_gradients() -> None:
    """Gradients with a covariance far from the identity become nearly white, as the fixed point of Q says."""
    g = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = PsgdKron([p], lr=0.0, momentum=0.0)
    rows, columns = torch.diag(torch.tensor([9.0, 3.0, 1.0, 0.3])).double(), torch.randn(3, 3, generator=g).double()

    def gradient() -> Tensor:
        return rows @ torch.randn(4, 3, generator=g, dtype=torch.float64) @ columns

    for _ in range(400):
        p.grad = gradient()
        optimizer.step()
    left, right = factors(optimizer.state[p])
    white = torch.stack([(left.T @ left @ gradient() @ right.T @ right).flatten() for _ in range(4000)])
    assert float(torch.linalg.cond(white.T @ white / 4000)) < 8
    raw = torch.stack([gradient().flatten() for _ in range(4000)])
    assert float(torch.linalg.cond(raw.T @ raw / 4000)) > 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_taken_up_again_ends_the_same_to_the_bit(dtype: torch.dtype) -> None:
    whole = network().to(dtype)
    optimizer = PsgdKron(whole.parameters(), lr=1e-2, seed=5)
    train(whole, optimizer, 7)
    file = io.BytesIO()
    torch.save((whole.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    train(whole, optimizer, 5)
    weights, state = torch.load(file, weights_only=True)
    again = network().to(dtype)
    again.load_state_dict(weights)
    other = PsgdKron(again.parameters(), lr=1.0)
    other.load_state_dict(state)
    assert other.state[again[0].weight]["left"].dtype == torch.float32
    train(again, other, 5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_sides_vectors_and_kernels() -> None:
    shapes = {(): [()], (5,): [(5,)], (1, 4): [(1,), (4, 4)], (3, 9): [(3, 3), (9,)], (2, 2, 2): [(2, 2), (4, 4)]}
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = PsgdKron(parameters, largest=8)
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, (shape, sides) in zip(parameters, shapes.items(), strict=True):
        expected = [(1,)] if shape == () else sides
        assert [tuple(q.shape) for q in factors(optimizer.state[p])] == expected
        assert p.isfinite().all()


def test_it_lowers_the_loss_draws_from_no_global_generator_and_can_be_copied() -> None:
    model = network()
    optimizer = PsgdKron(model.parameters(), lr=1e-2)
    first, rng = train(model, optimizer, 1), torch.get_rng_state()
    assert train(model, optimizer, 200) < 0.8 * first
    assert torch.equal(torch.get_rng_state(), rng)
    assert copy.deepcopy(optimizer).state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    model2 = network()
    closed = PsgdKron(model2.parameters(), lr=1e-2)

    def closure() -> Tensor:
        closed.zero_grad()
        loss = nn.functional.cross_entropy(model2(X), Y)
        loss.backward()
        return loss

    for _ in range(201):
        closed.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), model2.parameters(), strict=True))


def test_the_share_of_updates_falls() -> None:
    assert [update_share(step) for step in (0, 500)] == [1.0, 1.0]
    assert update_share(1500) == pytest.approx(0.36787944)
    assert update_share(10_000) == 0.03


def test_factors_live_on_where_units_are_reset() -> None:
    """A factor of a square weight has the weight's shape, and yet no row of it is cleared."""
    model, init = build()
    given = torch.optim.Adam(model.parameters())
    arguments = {"init": init, "batches": data(0), "loss_fn": loss_fn}
    with replastic.during(f"{lively('redo')}+kron", model, given, **arguments) as method:
        for batch in data(0) * 2:
            method.optimizer.zero_grad()
            loss_fn(model.train(), batch).backward()
            method.optimizer.step()
            method.after_update()
        for state in method.optimizer.state.values():
            for q in factors(state):
                assert (q.diagonal() if q.dim() > 1 else q).abs().min() > 0
        assert all(p.isfinite().all() for p in model.parameters())


def test_wrong_settings_are_named() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    for name, value in (("lr", -1.0), ("momentum", 1.0), ("precond_lr", -0.1), ("weight_decay", float("nan"))):
        with pytest.raises(ValueError, match=f"{name} is out of its range"):
            PsgdKron([p], **{name: value})
    table = nn.Embedding(3, 2, sparse=True)
    table(torch.tensor([0])).sum().backward()
    with pytest.raises(UserError, match="PsgdKron takes no sparse gradients"):
        PsgdKron(table.parameters()).step()
