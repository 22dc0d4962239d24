"""Batch norm re-estimation against statistics computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError
from replastic.interventions.attached import Attached
from replastic.weights.writer import write

RunOn = Callable[..., methods.Run]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(3)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 4, generator=draw).double() + n, torch.zeros(n)) for n in (6, 6, 3, 1)]


def by_hand(model: nn.Sequential) -> dict[str, Tensor]:
    """Mean over the batches of two samples or more of each batch's mean and unbiased variance."""
    model = model.train()
    found: dict[str, list[Tensor]] = {}
    for inputs, _ in batches()[:3]:
        h = inputs
        for index, layer in enumerate(model):
            if isinstance(layer, nn.BatchNorm1d):
                found.setdefault(f"{index}.running_mean", []).append(h.mean(0))
                found.setdefault(f"{index}.running_var", []).append(h.var(0))
                h = (h - h.mean(0)) / (h.var(0, unbiased=False) + layer.eps).sqrt() * layer.weight + layer.bias
            else:
                h = layer(h)
    return {name: torch.stack(values).mean(0).detach() for name, values in found.items()}


def test_statistics_are_those_of_the_coming_data(run_on: RunOn) -> None:
    model = network()
    model[1].momentum = 0.3
    for bn in (model[1], model[4]):
        bn.running_mean.fill_(7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = run_on(model, batches=batches, phase=1)
    method = methods.from_spec("bn_reestimate")
    methods.check_needs(method, run)
    change = method.on_boundary(run)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "it writes itself"
    assert change is not None
    write(run.store, change)
    wanted = by_hand(network())
    for name, value in model.state_dict().items():
        if name in wanted:
            torch.testing.assert_close(value, wanted[name], rtol=1e-10, atol=1e-12)
        elif name.endswith("num_batches_tracked"):
            assert int(value) == 3
        else:
            assert torch.equal(value, before[name])
    assert (model[1].momentum, model[4].momentum) == (0.3, 0.1)


def test_after_a_projection_the_statistics_are_those_of_the_new_weights(run_on: RunOn) -> None:
    model, oracle = network(), network()
    run = run_on(model, batches=batches, phase=1)
    with Attached(methods.from_spec("fire+bn_reestimate"), run) as attached:
        attached.begin()
        assert len(attached.cross()) == 2
    oracle.load_state_dict(model.state_dict())
    for name, wanted in by_hand(oracle).items():
        torch.testing.assert_close(model.state_dict()[name], wanted, rtol=1e-10, atol=1e-12)


def test_a_network_without_statistics_says_so(run_on: RunOn) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    run = run_on(model, batches=batches)
    change = methods.from_spec("bn_reestimate").on_boundary(run)
    assert change is not None
    outcome = write(run.store, change)
    assert outcome.written == ()
    assert any("nothing to re-estimate" in skipped.reason for skipped in outcome.skipped)


def test_excluded_layers_keep_their_statistics(run_on: RunOn) -> None:
    model = network()
    run = run_on(model, batches=batches, exclude_modules=["1"])
    change = methods.from_spec("bn_reestimate").on_boundary(run)
    assert change is not None
    assert {p.name for p in change.proposals} == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}


def test_a_failing_pass_leaves_the_layers_as_they_were(run_on: RunOn) -> None:
    model = network()
    run = run_on(model, batches=lambda: [(torch.randn(3, 5).double(), None)])
    with pytest.raises(RuntimeError):
        methods.from_spec("bn_reestimate").on_boundary(run)
    assert model[1].momentum == 0.1
    assert model[1].running_var.tolist() == [1.0, 1.0, 1.0]


def test_no_data(run_on: RunOn) -> None:
    run = run_on(network(), batches=lambda: batches()[3:])
    with pytest.raises(UserError, match="bn_reestimate needs data of the coming phase"):
        methods.from_spec("bn_reestimate").on_boundary(run)


def test_generators_of_devices_that_are_not_used_are_left_alone(run_on: RunOn, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on(network(), batches=batches)
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    methods.from_spec("bn_reestimate").on_boundary(run)
    assert seeded == []


def test_dropout_is_drawn_from_the_runs_seed(run_on: RunOn) -> None:
    found = []
    for seed in (1, 1, 2):
        model = nn.Sequential(nn.Dropout(0.5), network()).double()
        torch.manual_seed(len(found))
        state = torch.get_rng_state()
        change = methods.from_spec("bn_reestimate").on_boundary(run_on(model, batches=batches, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        assert change is not None
        found.append({p.name: p.value for p in change.proposals}["1.1.running_mean"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
