"""`diagnose(..., measures=...)`: every registered measure in one call; one that cannot be taken hides no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import replastic
from replastic import metrics
from replastic.errors import UserError

CHANGES = {name for name in metrics.names() if metrics.get(name).on == "change"}
FEATURES = {name for name in metrics.names() if metrics.get(name).on == "features"}
WEIGHTS = {name for name in metrics.names() if metrics.get(name).on == "weight"}
DRAW = torch.Generator().manual_seed(0)
BATCH = (torch.randn(40, 12, generator=DRAW), torch.randint(4, (40,), generator=DRAW))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU(),
            nn.Linear(16, 4),
        )  # fmt: skip


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def test_all_measures_leave_no_trace_and_say_their_cost_beforehand(capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    model[4].eval()
    model[0].weight.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    shuffle = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(*BATCH), batch_size=20, shuffle=True, generator=shuffle)
    states = torch.get_rng_state(), shuffle.get_state()
    for data in (BATCH, loader):
        found = replastic.diagnose(model, data, loss_fn, measures="all", seed=1)
        assert {t.name for t in found.measures} == set(metrics.names()) - CHANGES
        assert [t.problem for t in found.measures if t.problem] == []
        assert json.dumps(found.to_dict(), allow_nan=False)
        said = capsys.readouterr().err
        assert "measures: at most about" in said
        assert "ms a gradient" in said
        assert "MiB beside the model" in said
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not model[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(shuffle.get_state(), states[1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_values_are_those_of_the_registered_measures(capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    specs = ["hessian_top", "plasticity:steps=3,tasks=1,batch_size=0,learning_rate=0.1", "dormant", "spectrum", "dfi"]
    found = replastic.diagnose(model, BATCH, loss_fn, measures=specs)
    values = {t.name: t for t in found.measures}
    assert list(values) == ["hessian_top", "plasticity", "dormant", "spectrum", "dfi"]
    assert found.sharpness == values["hessian_top"].value
    assert values["dormant"].layers.keys() == {"2", "5"}
    assert values["spectrum"].value is None
    assert len(values["spectrum"].layers["0.weight"]) == 12  # type: ignore[arg-type]
    dfi = {x.label: x.dfi for x in found.weights.layers}
    assert values["dfi"].layers == pytest.approx(dfi)
    assert "lists, in to_dict()" in str(found)
    assert found.to_dict()["measures"]["dfi"]["value"] == pytest.approx(sum(dfi.values()))
    assert replastic.diagnose(model, BATCH, loss_fn, measures="dfi").measures == (values["dfi"],)
    assert capsys.readouterr().err.count("measures:") == 1, "measures of weights cost nothing worth telling"


def test_all_takes_what_the_arguments_allow() -> None:
    assert {t.name for t in replastic.diagnose(network(), measures="all").measures} == WEIGHTS
    assert {t.name for t in replastic.diagnose(network(), BATCH[0], measures="all").measures} == WEIGHTS | FEATURES


def test_what_one_cannot_do_hides_no_other() -> None:
    few = (BATCH[0][:3], BATCH[1][:3])
    found = replastic.diagnose(network(), few, loss_fn, measures=["readiness", "ntk_top", "feature_srank"])
    problems = {t.name: t.problem for t in found.measures}
    assert "must hold at least 8, got 3" in problems.pop("readiness")
    assert not any(problems.values())
    text = str(found)
    assert "not measured: readiness: " in text
    assert "the batch is too small for the effective rank of 2 of 2 layers of units" in text
    assert "has 16 units, seen on 3 samples; give 16 or more" in text


def test_a_model_without_gradients() -> None:
    model = network().requires_grad_(False)
    found = replastic.diagnose(model, BATCH, loss_fn, measures=["dfi", "dead", "gradient_norm", "plasticity"])
    problems = {t.name: t.problem for t in found.measures}
    assert not problems["dfi"]
    assert not problems["dead"]
    assert "requires_grad=True" in problems["gradient_norm"]
    assert "requires_grad=True" in problems["plasticity"]
    assert found.loss is not None
    assert found.units
    assert "gradients and curvature were not measured" in str(found)


def test_an_error_of_another_kind_is_named_with_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, generator: torch.Generator) -> Tensor:
        raise RuntimeError("out of luck\nand of memory")

    known = metrics.Metric(broken, "loss", "broken")
    original = metrics.get
    monkeypatch.setattr("replastic.metrics._metric.get", lambda name: known if name == "broken" else original(name))
    found = replastic.diagnose(network(), BATCH, loss_fn, measures=["broken", "dfi"])
    assert [t.problem for t in found.measures] == ["RuntimeError: out of luck", ""]


def test_a_copy_that_learns_nothing_is_a_sign() -> None:
    model = network()
    with torch.no_grad():
        model[6].weight.zero_()
        model[4].weight.zero_()
        model[4].bias.fill_(-1)
    spec = "plasticity:steps=5,tasks=1,batch_size=0"
    found = replastic.diagnose(model, BATCH, loss_fn, measures=[spec])
    assert "a copy removes 0.0% of the excess loss of random tasks (plasticity)" in found.verdict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": "plasticty"}, "did you mean 'plasticity'"),
        ({"measures": 3}, "measures must be 'all' or names of measures"),
        ({"measures": [3]}, "measures must be 'all' or names of measures"),
        ({"measures": "sfe"}, "the measure sfe compares two states of the weights"),
        ({"measures": "ntk_top", "loss_fn": None}, "the measure ntk_top needs loss_fn: pass loss_fn="),
        ({"measures": "dead", "batch": None, "loss_fn": None}, "the measure dead needs batch: pass batch="),
        ({"measures": "all", "loss_fn": lambda m, b: m(b[0])}, "tensor of one number, got a tensor of shape"),
        ({"measures": ["plasticity", "plasticity:steps=3"]}, "asked for twice"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"batch": BATCH, "loss_fn": loss_fn} | arguments
    with pytest.raises(UserError, match=message):
        replastic.diagnose(network(), **given)
