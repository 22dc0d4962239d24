"""Values of the measures against their formulas, and how layers become one number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import methods, metrics, recipes
from replastic.errors import UserError
from replastic.weights.entries import MatrixInfo
from replastic.weights.module_store import ModuleStore
from replastic.weights.recipe import Recipe, Rule

LINEAR = recipes.load("default")
WEIGHTS = Recipe("weights", (Rule(("*.weight",)),))


def compute(name: str, *arguments: Any) -> Tensor:
    return metrics.get(name).compute(*arguments)


@settings(deadline=None, max_examples=15)
@given(d_out=st.integers(1, 8), d_in=st.integers(1, 8), taps=st.sampled_from([1, 9]), seed=st.integers(0, 10**6))
def test_measures_of_weights(d_out: int, d_in: int, taps: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(3, d_out, d_in, generator=g, dtype=torch.float64)
    info = MatrixInfo("w", "conv", 3, d_out, d_in, taps=taps)
    eye = torch.eye(d_out, dtype=torch.float64)
    scaled = w * taps / math.sqrt(d_out / d_in)
    s = torch.linalg.svdvals(w)
    share = s / s.sum(-1, keepdim=True)
    expected = {
        "dfi": (w @ w.mT - eye).square().sum((-2, -1)),
        "dfi_scaled": (scaled @ scaled.mT - eye).square().sum((-2, -1)),
        "weight_norm": s.square().sum(-1).sqrt(),
        "stable_rank": s.square().sum(-1) / s[:, 0].square(),
        "singular_mean_square": s.square().mean(-1),
        "singular_top": s[:, 0],
        "singular_spread": (s[:, 0] / s[:, -1]).log10().clamp(max=-math.log10(max(d_out, d_in) * 2**-52)),
        "effective_rank": torch.exp(-(share * share.clamp_min(1e-300).log()).sum(-1)),
    }
    for name, value in expected.items():
        assert torch.allclose(compute(name, w, info), value, rtol=1e-8, atol=1e-8), name
    old = torch.randn(w.shape, generator=g, dtype=torch.float64)
    error, energy = (w - old).square().sum((-2, -1)), old.square().sum((-2, -1))
    assert torch.allclose(compute("sfe", w, old, info), error)
    assert torch.allclose(compute("normalised_sfe", w, old, info), error / energy)


def test_fire_brings_dfi_scaled_to_zero() -> None:
    w = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    info = MatrixInfo("w", "conv", 2, 4, 6, taps=9)
    fire = methods.from_spec("fire", solver="svd")
    new = fire.solve(w, info, None, torch.Generator()).weight
    assert compute("dfi_scaled", new, info).abs().max() < 1e-20
    assert compute("dfi", new, info).min() > 1


def test_dormant_units_by_hand() -> None:
    # Mean activity 1, 0.03, 0.02, 0 -> scores 3.81, 0.114, 0.076, 0 against the mean of 0.2625.
    h = torch.tensor([[1.0, 0.06, -0.02, 0.0], [1.0, 0.0, 0.02, 0.0]])
    assert compute("dormant", h).tolist() == [0, 0, 0, 1]
    assert metrics.get("dormant").compute(h, threshold=0.08).tolist() == [0, 0, 1, 1]
    assert compute("dormant", torch.zeros(3, 2)).tolist() == [1, 1], "a silent layer is dormant as a whole"


def test_dead_and_active_units_by_hand() -> None:
    h = torch.tensor([[0.0, 2.0, 0.0, -1.0], [0.0, 1.0, 3.0, -2.0], [-0.0, 4.0, 0.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
    assert compute("dead", h).tolist() == [1, 0, 0, 0]
    assert compute("active_units", h).tolist() == [0, 1, 0.25, 0]


def test_what_one_penalty_fixes_and_another_leaves_free() -> None:
    """A spectrum may have the mean square or the largest value of an isometry and be far from one."""
    info = MatrixInfo("w", "linear", 1, 4, 4)
    names = ("singular_mean_square", "singular_top", "singular_spread")
    spectra = {
        (2.0, 1e-6, 1e-6, 1e-6): (1.0, 2.0, 6.30103),
        (1.0, 1.0, 0.1, 0.1): (0.505, 1.0, 1.0),
        (1.0, 1.0, 1.0, 1.0): (1.0, 1.0, 0.0),
    }
    for values, expected in spectra.items():
        w = torch.diag(torch.tensor(values, dtype=torch.float64))[None]
        assert [float(compute(name, w, info)) for name in names] == pytest.approx(expected, abs=1e-6)
    zero = torch.zeros(1, 4, 6)
    assert [float(compute(name, zero, info)) for name in names] == pytest.approx([0, 0, -math.log10(6 * 2**-52)])


@settings(deadline=None, max_examples=10)
@given(samples=st.integers(1, 12), units=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_feature_srank_by_its_definition(samples: int, units: int, seed: int) -> None:
    features = torch.randn(samples, units, generator=torch.Generator().manual_seed(seed))
    s = torch.linalg.svdvals(features.double())
    expected = next(k for k in range(1, len(s) + 1) if s[:k].sum() >= 0.99 * s.sum() * (1 - 1e-12))
    assert compute("feature_srank", features) == expected


def test_layers_and_the_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, -1.0
    store = ModuleStore(model)
    names = ["dfi", "dormant", "weight_norm"]
    found = metrics.measure(names, store=store, recipe=WEIGHTS, model=model, batch=torch.randn(5, 2, 3, 3))
    taps = model[0].weight.detach().double().permute(2, 3, 0, 1).flatten(0, 1)
    dfi = (taps @ taps.mT - torch.eye(3).double()).square().sum((-2, -1))
    assert found["metric/dfi/0.weight"] == pytest.approx(float(dfi.sum()))
    assert found["metric/dfi"] == pytest.approx(found["metric/dfi/0.weight"] + found["metric/dfi/3.weight"])
    assert found["metric/dormant/1"] == pytest.approx(1 / 3)
    norms = [*torch.linalg.matrix_norm(taps), model[3].weight.detach().norm()]
    assert found["metric/weight_norm"] == pytest.approx(float(sum(norms)) / 5)


def test_a_share_counts_units_and_not_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 8), nn.ReLU())
    with torch.no_grad():
        for layer, dead in ((0, 1), (2, 2)):
            model[layer].weight.abs_()
            model[layer].bias.fill_(1.0)
            model[layer].weight[:dead] = 0
            model[layer].bias[:dead] = -1
    found = metrics.measure(["dormant"], store=ModuleStore(model), recipe=LINEAR, model=model, batch=torch.rand(4, 2))
    assert found == {"metric/dormant": 0.3, "metric/dormant/1": 0.5, "metric/dormant/3": 0.25}


def test_only_the_blocks_of_the_recipe_are_looked_at() -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 12)})
    rule = Rule(("qkv",), layout={"split": ["q", "k", "v"]}, blocks=("q", "k"))
    found = metrics.measure(["weight_norm"], store=ModuleStore(model), recipe=Recipe("qk", (rule,)))
    q, k, _ = model["qkv"].weight.detach().double().chunk(3)
    assert set(found) == {"metric/weight_norm", "metric/weight_norm/qkv.weight[q]", "metric/weight_norm/qkv.weight[k]"}
    assert found["metric/weight_norm"] == pytest.approx(float(q.norm() + k.norm()) / 2)


def test_spectrum_of_a_layer_is_the_mean_of_its_sorted_spectra() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 2, bias=False), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([[0, 4.0], [6, 0]])], -1))
        model[1].weight.copy_(torch.tensor([[0.0, 5, 0], [0, 0, 2]]))
    found = metrics.measure(["spectrum", "weight_norm"], store=ModuleStore(model), recipe=WEIGHTS)
    assert found.pop("metric/spectrum/0.weight") == pytest.approx([4.5, 2.5])  # (3, 1) and (6, 4)
    assert found.pop("metric/spectrum/1.weight") == pytest.approx([5, 2])
    assert set(found) == {"metric/weight_norm", "metric/weight_norm/0.weight", "metric/weight_norm/1.weight"}


def test_a_vector_of_features_is_recorded_by_layer_and_one_of_the_loss_for_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = metrics.Metric(lambda h: h.mean(0), "features", "mean activity", vector=True)
    top = metrics.Metric(lambda *_, generator: torch.tensor([2.0, math.nan]), "loss", "eigenvalues", vector=True)
    monkeypatch.setattr("replastic.metrics._metric.get", {"profile": profile, "top": top}.get)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    batch = torch.tensor([[1.0, 4.0], [2.0, -4.0]])
    found = metrics.measure(
        ["profile", "top"],
        store=ModuleStore(model),
        recipe=WEIGHTS,
        model=model,
        batch=batch,
        loss_fn=lambda m, b: m(b).mean(),
    )
    assert found["metric/profile/1"] == [1.5, 2.0]
    assert found["metric/top"][0] == 2.0
    assert math.isnan(found["metric/top"][1])
    assert set(found) == {"metric/profile/1", "metric/top"}


def test_a_vector_has_no_share() -> None:
    with pytest.raises(UserError, match="'spectra' is a vector, so it cannot have a share"):
        metrics.Metric(lambda w, info: w, "weight", "spectra", vector=True, share=lambda w, info: w)


def test_change_since_a_snapshot() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    store = ModuleStore(model)
    where = {"store": store, "recipe": WEIGHTS}
    old = metrics.snapshot(**where)
    with torch.no_grad():
        model[1].weight.add_(0.5)
    found = metrics.measure(["sfe"], old=old, **where)
    assert found["metric/sfe/0.weight"] == 0.0
    assert found["metric/sfe"] == pytest.approx(9 * 0.25, rel=1e-6)
    with pytest.raises(UserError, match=r"1\.weight is missing from the old weights"):
        metrics.measure(["sfe"], old={"0.weight": old["0.weight"]}, **where)


def test_normalised_sfe_of_a_network_is_the_error_over_the_energy_of_all_its_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Linear(12, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[2].weight.zero_()
    where = {"store": ModuleStore(model), "recipe": WEIGHTS}
    old = metrics.snapshot(**where)
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight))
        model[1].weight.neg_()
    found = metrics.measure(["normalised_sfe"], old=old, **where)
    conv, linear = (model[i].weight.detach().double() for i in (0, 1))
    error, energy = (conv - old["0.weight"]).square().sum(), old["0.weight"].double().square().sum()
    assert found["metric/normalised_sfe/0.weight"] == pytest.approx(float(error / energy))
    assert found["metric/normalised_sfe/1.weight"] == pytest.approx(4.0)
    whole = (error + 4 * linear.square().sum()) / (energy + linear.square().sum())
    assert found["metric/normalised_sfe"] == pytest.approx(float(whole))


def test_unknown_measure() -> None:
    with pytest.raises(UserError, match="did you mean 'dormant'"):
        metrics.measure(["dorment"], store=ModuleStore(nn.Linear(2, 2)), recipe=LINEAR)


def test_churn_of_a_linear_model_is_that_of_one_sign_step_by_hand():
    """The first step of Adam moves every weight by its step size against the sign of the gradient."""
    torch.manual_seed(0)
    model, lr = nn.Linear(3, 2), 1e-2
    batch = torch.randn(40, 3), torch.randn(40, 2)

    def loss_fn(m, given):
        return nn.functional.mse_loss(m(given[0]), given[1])

    metric = metrics.from_spec(f"churn:lr={lr},batch_size=8")
    found = metric.compute(model, [batch], loss_fn, generator=torch.Generator().manual_seed(4))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    x, y = batch[0][order[:8]], batch[1][order[:8]]
    residual = (model(x) - y).detach()
    step = {"weight": -lr * (residual.T @ x).sign(), "bias": -lr * residual.sum(0).sign()}
    reference = batch[0][order[8:]]
    moved = (reference @ step["weight"].T + step["bias"]).abs().mean()
    assert float(found) == pytest.approx(float(moved / model(reference).detach().abs().mean()), rel=1e-4)
