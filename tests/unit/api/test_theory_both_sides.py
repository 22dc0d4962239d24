"""Both sides of theorem 1, theorem 2 and corollary 1: bounds of `replastic.theory` beside what is measured."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import replastic
from replastic.errors import UserError


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain(*weights: Tensor, between: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for w in weights:
        layer = nn.Linear(w.shape[1], w.shape[0], bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(w)
        layers += [layer, between()]
    return nn.Sequential(*layers[:-1])


def random_chain(widths: list[int], size: float, seed: int, between: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    scaled = [size * draw(b, a, seed=seed + k) / math.sqrt(a) for k, (a, b) in enumerate(pairwise(widths))]
    return chain(*scaled, between=between)


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(1).mean()


def crossed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def dense_norm(model: nn.Module, batch: Any, loss_fn: Any) -> float:
    """Of the whole Hessian, by differentiating a function of all weights twice."""
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    sizes = [math.prod(shape) for shape in shapes]

    def loss(flat: Tensor) -> Tensor:
        table = {n: part.view(shape) for n, part, shape in zip(names, flat.split(sizes), shapes, strict=True)}
        return loss_fn(lambda x: torch.func.functional_call(model, table, (x,)), batch)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return float(torch.linalg.matrix_norm(torch.autograd.functional.hessian(loss, flat), ord=2))


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    samples=st.integers(1, 12),
    size=st.floats(0.2, 2.5),
    relu=st.booleans(),
    entropy=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_theorem_2_and_corollary_1_hold(
    widths: list[int], samples: int, size: float, relu: bool, entropy: bool, seed: int
) -> None:
    """For any chain, whatever its DfI, and any inputs: beta and gamma are found on the batch."""
    model = random_chain(widths, size, seed, nn.ReLU if relu else nn.Identity)
    z = draw(samples, widths[0], seed=seed + 50)
    target = draw(samples, widths[-1], seed=seed + 51)
    batch = (z, target.argmax(1)) if entropy else (z, target)
    loss_fn = crossed if entropy else squared
    found = replastic.theory(model, batch, loss_fn=loss_fn, recipe="all").hessian
    exact = dense_norm(model, batch, loss_fn)
    assert found.obstacles == ()
    assert found.measured == pytest.approx(exact, rel=1e-3, abs=1e-9)
    assert found.bound is not None
    assert exact <= found.bound * (1 + 1e-9) + 1e-12
    interpolated = replastic.theory(model, (z, model(z).detach()), loss_fn=squared, recipe="all").hessian
    assert interpolated.gamma == pytest.approx(0, abs=1e-12)
    assert interpolated.beta == pytest.approx(1)
    assert interpolated.corollary is not None
    assert interpolated.measured is not None
    assert interpolated.measured <= interpolated.corollary * (1 + 1e-9) + 1e-12


def test_beta_and_gamma_are_those_of_the_worst_sample() -> None:
    model, z = random_chain([5, 4, 3], 1.0, 3), draw(7, 5, seed=1)
    target = draw(7, 3, seed=2).argmax(1)
    found = replastic.theory(model, (z, target), loss_fn=crossed, recipe="all").hessian
    p = model(z).detach().softmax(1)
    hessians = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    assert found.beta == pytest.approx(float(torch.linalg.matrix_norm(hessians, ord=2).max()))
    assert found.gamma == pytest.approx(float((p - functional.one_hot(target, 3)).norm(dim=1).max()))
    given_ = replastic.theory(model, (z, target), loss_fn=crossed, beta=2, gamma=3, recipe="all").hessian
    assert (given_.beta, given_.gamma) == (2, 3)
    assert given_.measured == found.measured


def test_whitening_and_gates_are_told() -> None:
    """The counterexample to theorem 2 as the paper prints it, by the call itself."""
    width = 16
    z = math.sqrt(200) * torch.linalg.qr(draw(200, width))[0]
    read = torch.full((1, width), width**-0.5, dtype=torch.float64)
    model = chain(torch.eye(width, dtype=torch.float64), read)
    report = replastic.theory(model, (z, model(z).detach()), loss_fn=squared, recipe="all")
    found = report.hessian
    assert found.whitening == pytest.approx(1)
    assert found.as_printed == pytest.approx(2)
    assert found.gates == pytest.approx(float(z.abs().min()))
    assert found.measured is not None
    assert found.corollary is not None
    assert found.as_printed < found.measured <= found.corollary
    text = str(report)
    assert "these are whitened (lambda_max 1)" in text
    assert "the pattern of the ReLUs is fixed around these weights" in text
    zeros = replastic.theory(
        model, (torch.zeros(4, width).double(), torch.zeros(4, 1).double()), loss_fn=squared, recipe="all"
    )
    assert "changes at these weights: an input is 0" in str(zeros)


def test_the_norm_is_measured_where_no_bound_can_be_given() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2)).double()
    batch = draw(9, 5), draw(9, 2, seed=1)
    found = replastic.theory(model, batch, loss_fn=squared, recipe="all").hessian
    assert any("biases" in reason for reason in found.obstacles)
    assert found.bound is None
    assert found.measured == pytest.approx(dense_norm(model, batch, squared), rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    samples=st.integers(2, 10),
    between=st.sampled_from([nn.ReLU, nn.Tanh, nn.Identity, nn.GELU, nn.LeakyReLU, nn.SiLU, nn.ELU]),
    change=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
def test_theorem_1_holds_at_every_layer(
    widths: list[int], samples: int, between: type[nn.Module], change: float, seed: int
) -> None:
    old = random_chain(widths, 1.5, seed, between)
    new = copy.deepcopy(old)
    with torch.no_grad():
        for k, p in enumerate(new.parameters()):
            p += change * draw(*p.shape, seed=seed + 70 + k)
    report = replastic.theory(new, draw(samples, widths[0], seed=seed + 60), old=old, recipe="all")
    found = report.covariance
    assert found is not None
    assert found.obstacles == ()
    assert len(found.gaps) == len(widths) - 1
    for gap in found.gaps:
        if gap.measured is None:
            continue  # all units of one network are silent
        assert gap.bound is not None
        assert gap.measured <= gap.bound * (1 + 1e-9) + 1e-12
        assert gap.corollary is None or gap.bound <= gap.corollary * (1 + 1e-9)


def test_old_may_be_a_module_its_state_or_a_file(tmp_path: Any) -> None:
    old, new, z = random_chain([4, 5, 3], 1.0, 0), random_chain([4, 5, 3], 1.0, 9), draw(8, 4)
    save_file(old.state_dict(), tmp_path / "old.safetensors")
    save_file(new.state_dict(), tmp_path / "new.safetensors")
    reports = [
        replastic.theory(new, z, old=given, recipe="all").covariance
        for given in (old, old.state_dict(), tmp_path / "old.safetensors")
    ]
    assert reports[0] == reports[1] == reports[2]
    of_files = replastic.theory(
        tmp_path / "new.safetensors",
        old=tmp_path / "old.safetensors",
        recipe="all",
        layout=("0:transposed=false", "2:transposed=false"),
    )
    assert of_files.covariance is not None
    assert reports[0] is not None
    assert of_files.covariance.sfe == pytest.approx(reports[0].sfe)
    last = reports[0].gaps[-1]
    least = min(float(model(z).detach().norm()) for model in (old, new))
    assert of_files.covariance.factor is not None
    assert last.bound == pytest.approx(of_files.covariance.factor * float(z.norm()) / least)
    assert "||Z||_F / m" in str(of_files)
    assert json.loads(json.dumps(of_files.to_dict()))["covariance"]["factor"] == of_files.covariance.factor


def test_fire_moves_features_less_than_the_bound() -> None:
    model = random_chain([6, 6, 6], 1.0, 4)
    old = copy.deepcopy(model)
    replastic.fire_(model, recipe="all")
    report = replastic.theory(model, draw(20, 6), old=old, recipe="all")
    assert "theorem 1, change of the normalised feature covariances" in str(report)
    assert report.covariance is not None
    assert all(g.measured and g.bound and 0 < g.measured < g.bound for g in report.covariance.gaps)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double(), "the network has biases (0.weight has"),
        (chain(draw(4, 4), draw(2, 4), between=nn.Sigmoid), "Sigmoid does not map 0 to 0, which the proof needs"),
        (nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4)).double(), "it contains LayerNorm, so that no"),
    ],
)
def test_what_stands_against_theorem_1(model: nn.Module, said: str) -> None:
    old = copy.deepcopy(model)
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)
    report = replastic.theory(model, draw(6, 4), old=old, recipe="all")
    assert report.covariance is not None
    assert any(reason.startswith(said) for reason in report.covariance.obstacles)
    assert all(gap.bound is None for gap in report.covariance.gaps)
    assert "no bound, as" in str(report)


def test_other_orders_are_found_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    model.forward = lambda x: model[0](model[1](x))  # type: ignore[method-assign]
    report = replastic.theory(model, draw(6, 4), old=copy.deepcopy(model.state_dict()), recipe="all")
    assert report.covariance is not None
    assert report.covariance.obstacles == ("its layers do not run in the order in which they are listed",)


def test_nothing_is_left_behind() -> None:
    model, z = random_chain([4, 5, 3], 1.0, 0), draw(8, 4)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    old = {name: value + 1 for name, value in before.items()}
    replastic.theory(model, (z, draw(8, 3)), loss_fn=squared, old=old, recipe="all")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"old": 3}, "old must be a module, a state dict or the path of a checkpoint, got int"),
        ({"old": {}}, "old lacks 0.weight: it must hold the same network as it was before"),
        ({"old": {"0.weight": torch.zeros(2, 2), "2.weight": torch.zeros(3, 5)}}, r"0.weight has shape \(5, 4\) now"),
        ({"loss_fn": 3}, "loss_fn"),
        ({"loss_fn": squared, "batch": None}, "loss_fn is taken on a batch: pass batch="),
        ({"loss_fn": lambda model, batch: model(batch).sum().detach()}, "loss_fn must not detach it"),
        ({"loss_fn": lambda model, batch: model(batch)}, "must return the mean loss as a tensor of one number"),
    ],
)
def test_wrong_input_is_one_sentence(given_: dict[str, Any], said: str) -> None:
    model = random_chain([4, 5, 3], 1.0, 0)
    with pytest.raises(UserError, match=said):
        replastic.theory(model, **{"batch": draw(8, 4), "recipe": "all", **given_})


def test_a_loss_of_more_than_the_outputs_is_a_note() -> None:
    model, batch = random_chain([4, 5, 3], 1.0, 0), (draw(8, 4), draw(8, 3))

    def with_decay(model: nn.Module, batch: Any) -> Tensor:
        return squared(model, batch) + sum(p.square().sum() for p in model.parameters())

    report = replastic.theory(model, batch, loss_fn=with_decay, recipe="all")
    assert any("the loss looks at more than the model's outputs: pass beta= and gamma=" in n for n in report.notes)
    assert report.hessian.measured is not None
    assert report.hessian.bound is None
