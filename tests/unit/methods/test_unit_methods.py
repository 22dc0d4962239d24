"""redo, cbp and snr: scores by hand, which places are reset, when, and that a resumed run goes on alike."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import methods, networks, recipes
from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.methods import Method
from replastic.networks import Network
from replastic.networks.convnet import ConvNet
from replastic.networks.mlp import Mlp
from replastic.networks.resnet18 import ResNet18
from replastic.networks.vgg16 import Vgg16
from replastic.networks.vit_tiny import VitTiny
from replastic.probes import gradients, undisturbed
from replastic.records import RunDirectory
from replastic.seeds import derive
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol, Trainer, train
from replastic.weights.change import Change
from replastic.weights.module_store import ModuleStore
from replastic.weights.redraw import redraw
from replastic.weights.writer import write

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Bench:
    """A model in training under one method, step by step."""

    def __init__(self, model: nn.Module, method: Method, batch: Batch, lr: float = 0.0, **given: Any) -> None:
        self.model, self.method, self.batch = model, method, batch
        self.run = methods.Run(
            store=ModuleStore(model),
            recipe=recipes.load("default"),
            model=model,
            optimizer=torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=lr),
            batches=lambda: [batch],
            loss_fn=loss_fn,
            **{"pass_steps": 1, "fresh": lambda seed: redraw(model, seed), **given},
        )
        methods.check_needs(method, self.run)
        method.setup(self.run)

    def step(self, batch: Batch | None = None) -> Change | None:
        optimizer = self.run.optimizer
        assert optimizer is not None
        self.model.train()
        optimizer.zero_grad()
        loss_fn(self.model, batch or self.batch).backward()
        optimizer.step()
        self.run.step += 1
        self.updated = content(self.model)
        self.moments = {n: copy.deepcopy(optimizer.state[p]) for n, p in self.model.named_parameters()}
        change = self.method.after_step(self.run)
        if change is not None:
            change = replace(change, proposals=list(change.proposals))
            write(self.run.store, change, optimizer=optimizer, policy="keep")
        return change


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths[:-1]):
        layers += [nn.Linear(d_in, d_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:])).double()


def some_batch(size: int = 6, features: int = 3, classes: int = 2) -> Batch:
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, features, generator=g, dtype=torch.float64)
    return inputs, torch.randint(0, classes, (size,), generator=g)


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def units_of(change: Change | None, weight: str) -> list[int]:
    """Rows of a weight that were reset."""
    units = () if change is None else change.units
    return [int(u) for reset in units if reset.name == weight and reset.dim == 0 for u in reset.index]


SPECS = (
    "redo:every=1,dormancy_threshold=1.0",
    "cbp:maturity_threshold=0,replacement_rate=0.3",
    "snr:max_gap=1,percentile=0.5",
)
each = pytest.mark.parametrize("spec", SPECS)

# redo


def test_redo_resets_exactly_the_units_at_or_below_the_threshold() -> None:
    torch.manual_seed(0)
    model, batch = mlp(3, 4, 2), some_batch()
    with torch.no_grad():
        model[0].weight[1] *= 0.01
        model[0].bias[1] = 0.0
        model[0].bias[2] = -100.0
        activity = model[1](model[0](batch[0])).abs().mean(0)
    scores = activity / activity.mean()
    assert scores[2] == 0
    for threshold in (float(scores[1]) * 0.99, float(scores[1]) * 1.01):
        bench = Bench(copy.deepcopy(model), methods.from_spec("redo", dormancy_threshold=threshold), batch)
        expected = [unit for unit in range(4) if scores[unit] <= threshold]
        assert units_of(bench.step(), "0.weight") == expected != []


def test_a_silent_layer_is_dormant_as_a_whole() -> None:
    model = mlp(3, 4, 2)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    bench = Bench(model, methods.from_spec("redo", dormancy_threshold=0.0), some_batch())
    assert units_of(bench.step(), "0.weight") == [0, 1, 2, 3]


def test_redo_checks_once_per_pass_or_as_often_as_told_on_the_last_batches() -> None:
    g = torch.Generator().manual_seed(3)
    inputs = torch.randn(7, 6, 3, generator=g, dtype=torch.float64)
    model = mlp(3, 4, 2)
    for spec in ("redo:batches=2,dormancy_threshold=1.0", "redo:every=3,batches=2,dormancy_threshold=1.0"):
        bench = Bench(copy.deepcopy(model), methods.from_spec(spec), some_batch(), pass_steps=3)
        for number, x in enumerate(inputs, start=1):
            weights = copy.deepcopy(bench.model)
            found = units_of(bench.step((x, some_batch()[1])), "0.weight")
            assert bool(found) == (number % 3 == 0)
            if found:
                pair = inputs[number - 2 : number].flatten(0, 1)
                activity = weights[1](weights[0](pair)).mean(0).detach()
                assert found == torch.nonzero(activity <= activity.mean()).flatten().tolist()


def test_redo_needs_to_know_how_long_a_pass_is() -> None:
    with pytest.raises(UserError, match="give every=<updates>"):
        Bench(mlp(3, 4, 2), methods.from_spec("redo"), some_batch(), pass_steps=0)


# what a reset is


def test_rows_come_from_a_fresh_draw_columns_become_zero_and_moments_are_cleared_just_there() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 5), nn.ReLU(),
        nn.Linear(5, 2),
    )  # fmt: skip
    batch = torch.randn(8, 2, 3, 3), torch.randint(0, 2, (8,))
    with torch.no_grad():
        model[1].bias.fill_(3.0)
        model[4].bias.fill_(20.0)
        model[1].bias[2] = -100.0  # a channel without activity, and two hidden units of the Linear
        model[4].bias[[0, 3]] = -100.0
    bench = Bench(model, methods.from_spec("redo:every=3,dormancy_threshold=0.0,batches=1"), batch, lr=1e-3, seed=7)
    for _ in range(2):
        assert bench.step() is None
    before, optimizer = content(model), bench.run.optimizer
    assert optimizer is not None
    assert bench.step() is not None
    assert not torch.equal(bench.updated["0.weight"], before["0.weight"])
    fresh = redraw(model, methods_seed(bench, 0))
    expected = {name: value.clone() for name, value in bench.updated.items()}
    touched = {name: torch.zeros(value.shape, dtype=torch.bool) for name, value in expected.items()}
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        expected[name][2] = fresh[name][0]
        touched[name][2] = True
    for name in ("4.weight", "4.bias"):
        expected[name][[0, 3]] = fresh[name][[0, 1]]
        touched[name][[0, 3]] = True
    expected["4.weight"][:, 2 * 9 : 3 * 9] = 0.0
    touched["4.weight"][:, 2 * 9 : 3 * 9] = True
    expected["6.weight"][:, [0, 3]] = 0.0
    touched["6.weight"][:, [0, 3]] = True
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            old = bench.moments[name][key]
            assert torch.equal(optimizer.state[parameter][key], old.masked_fill(touched[name], 0.0)), (name, key)
        assert torch.equal(optimizer.state[parameter]["step"], bench.moments[name]["step"])


def methods_seed(bench: Bench, draw: int) -> int:
    return derive(bench.run.seed, bench.method.name, draw) % 2**32


def test_no_row_of_a_draw_is_used_twice_and_all_rows_of_a_draw_are_used() -> None:
    model = mlp(3, 4, 2)
    bench = Bench(model, methods.from_spec("cbp:maturity_threshold=0,replacement_rate=0.75"), some_batch(), seed=3)
    given = []
    for _ in range(4):
        change = bench.step()
        assert change is not None
        given += [row for reset in change.units if reset.name == "0.weight" for row in reset.values]
    draws = [redraw(model, methods_seed(bench, number))["0.weight"] for number in range(3)]
    assert torch.equal(torch.stack(given), torch.cat(draws))


# cbp


def test_cbp_by_hand() -> None:
    torch.manual_seed(0)
    decay, rate, maturity = 0.9, 0.07, 3
    model = mlp(3, 5, 2)
    method = methods.from_spec(f"cbp:decay={decay},replacement_rate={rate},maturity_threshold={maturity}")
    bench = Bench(model, method, some_batch(), lr=1e-2)
    g = torch.Generator().manual_seed(4)
    f = torch.zeros(5, dtype=torch.float64)
    u = torch.zeros(5, dtype=torch.float64)
    age, due, replaced = [0] * 5, 0.0, 0
    for _ in range(40):
        x = torch.randn(6, 3, generator=g, dtype=torch.float64)
        h = model[1](model[0](x)).detach()
        found = units_of(bench.step((x, torch.randint(0, 2, (6,), generator=g))), "0.weight")
        fed, read = bench.updated["0.weight"].abs().sum(1), bench.updated["2.weight"].abs().sum(0)
        expected = []
        for unit in range(5):
            age[unit] += 1
            f[unit] = decay * f[unit] + (1 - decay) * h[:, unit].mean()
            distance = (h[:, unit] - f[unit] / (1 - decay ** age[unit])).abs().mean()
            u[unit] = decay * u[unit] + (1 - decay) * distance * read[unit] / fed[unit]
        ranked = sorted((float(u[i]) / (1 - decay ** age[i]), i) for i in range(5) if age[i] > maturity)
        due += rate * len(ranked)
        while due >= 1 - 1e-9:
            expected.append(ranked[len(expected)][1])
            due -= 1
        for unit in expected:
            age[unit], f[unit], u[unit] = 0, 0.0, 0.0
        assert found == sorted(expected)
        replaced += len(found)
        kept = method.state_dict()
        assert torch.allclose(kept["mean"], f, rtol=1e-12)
        assert torch.allclose(kept["utility"], u, rtol=1e-12)
        assert kept["age"].tolist() == age
    assert replaced >= 5


def test_cbp_replaces_the_least_useful_mature_units() -> None:
    model = mlp(3, 5, 2)
    with torch.no_grad():
        model[2].weight[:] = torch.tensor([5.0, 0.1, 4.0, 0.2, 3.0])
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(1.0)
    batch = torch.rand(6, 3, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    bench = Bench(model, methods.from_spec("cbp:maturity_threshold=1,replacement_rate=0.4"), batch)
    assert [units_of(bench.step(), "0.weight") for _ in range(3)] == [[], [1, 3], [4]]  # 5 * .4, then 3 * .4 = 1.2


@pytest.mark.parametrize("norm", [False, True])
def test_what_a_replaced_unit_gave_on_average_goes_on_arriving(norm: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4).eval() if norm else nn.Identity(), nn.GELU(), nn.Linear(4, 2)]
    model = nn.Sequential(*layers).double()
    x = torch.randn(1, 3, dtype=torch.float64).expand(6, 3)
    bench = Bench(model, methods.from_spec("cbp:maturity_threshold=0,replacement_rate=0.5"), (x, some_batch()[1]))
    if norm:
        model[1].weight.data.fill_(0.0)  # or batch statistics of equal samples would do so
        model[1].bias.data.copy_(torch.tensor([0.3, 0.6, -0.2, 1.0]))
    model.train()
    before = model(x)
    change = bench.step()
    assert change is not None
    assert len(units_of(change, "0.weight")) == 2
    assert torch.allclose(model(x), before, rtol=1e-12)


# snr


def by_lists(fired: list[list[bool]], percentile: float, max_gap: int) -> list[list[int]]:
    """Which units are reset after each update, from lists of past gaps."""
    units = len(fired[0])
    past: list[list[int]] = [[] for _ in range(units)]
    silence = [0] * units
    resets = []
    for now in fired:
        reset = []
        for unit in range(units):
            if now[unit]:
                past[unit].append(silence[unit] + 1)
                silence[unit] = 0
            else:
                silence[unit] += 1
            gaps = sorted(past[unit])
            if silence[unit] > max_gap:
                reset.append(unit)
            elif len(gaps) * (1 - percentile) >= 1 - 1e-6:
                quantile = gaps[math.ceil(percentile * len(gaps) - 1e-9) - 1]
                if silence[unit] > quantile:
                    reset.append(unit)
        for unit in reset:
            past[unit], silence[unit] = [], 0
        resets.append(reset)
    return resets


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=20, max_size=60),
    st.sampled_from([0.5, 0.75, 0.8]),
    st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_snr_as_with_lists_of_gaps(fired: list[list[bool]], percentile: float, max_gap: int) -> None:
    method = methods.from_spec("snr", percentile=percentile, max_gap=max_gap)
    bench = Bench(mlp(2, 3, 2), method, some_batch(features=2))
    found = []
    for now in fired:
        chosen = method.decide(bench.run, torch.tensor(now).double())  # type: ignore[attr-defined]
        method.forget(chosen)  # type: ignore[attr-defined]
        found.append(chosen.tolist())
    assert found == by_lists(fired, percentile, max_gap)
    method.close()


def test_a_unit_fires_where_one_sample_or_position_is_above_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        model[0].bias.zero_()
    x = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    bench = Bench(model, methods.from_spec("snr"), (x, torch.tensor([0, 1, 0])))
    for value, silence in ((0.1, [0, 1]), (-0.1, [1, 0]), (0.0, [2, 1])):
        x[1, 0, 1, 1] = value
        assert bench.step() is None
        assert bench.method.state_dict()["silence"].tolist() == silence


# all of them


@each
def test_only_training_passes_count(spec: str) -> None:
    torch.manual_seed(0)
    model = mlp(3, 4, 2)
    bench = Bench(model, methods.from_spec(spec), some_batch())
    other = torch.randn(50, 3, dtype=torch.float64), torch.zeros(50, dtype=torch.int64)
    alone = Bench(copy.deepcopy(model), methods.from_spec(spec), some_batch())
    for _ in range(3):
        model.eval()
        model(other[0])
        model.train()
        with torch.no_grad():
            model(other[0])
        with undisturbed(model, training=True):
            model(other[0])
        list(gradients(model, [other], loss_fn))
        bench.step()
        alone.step()
        mine, theirs = bench.method.state_dict(), alone.method.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.model.parameters(), strict=True))


@each
def test_two_passes_of_half_a_batch_count_as_one(spec: str) -> None:
    torch.manual_seed(0)
    model, (x, y) = mlp(3, 4, 2), some_batch()
    if spec.startswith("cbp"):
        pytest.skip("the running mean that distances are taken from differs from pass to pass")
    whole, halves = (Bench(copy.deepcopy(model), methods.from_spec(spec), (x, y)) for _ in range(2))
    whole.model(x)
    halves.model(x[:2])
    halves.model(x[2:])
    whole.method.after_step(whole.run)
    halves.method.after_step(halves.run)
    mine, theirs = halves.method.state_dict(), whole.method.state_dict()
    assert all(torch.allclose(mine[name], theirs[name]) for name in theirs)


@each
def test_processes_decide_by_the_mean_of_what_they_see(spec: str) -> None:
    asked = []

    def average(value: Tensor) -> Tensor:
        asked.append(value)
        return torch.zeros_like(value)

    model = mlp(3, 4, 2)
    bench = Bench(model, methods.from_spec(spec.replace("=1.0", "=0.0").replace("every=1", "every=2")), some_batch())
    bench.run.average = average
    bench.step()
    assert asked
    kept = bench.method.state_dict()
    name = {"redo": "activity", "cbp": "mean", "snr": "count"}[bench.method.name]
    assert not kept[name].any()


@each
def test_resets_leave_frozen_and_excluded_weights_alone(spec: str) -> None:
    torch.manual_seed(0)
    model = mlp(3, 4, 4, 4, 4, 2)
    with torch.no_grad():
        for index in (0, 2, 4, 6):
            model[index].bias.fill_(-5.0)
            model[index].bias[0] = 1.0
    model[2].weight.requires_grad_(False)
    before = content(model)
    bench = Bench(model, methods.from_spec(spec), some_batch(), exclude_modules=("8",))
    assert {u.name for _ in range(3) for u in (bench.step() or Change()).units} == {
        "4.weight", "4.bias", "6.weight",
    }  # fmt: skip
    after = content(model)
    assert all(torch.equal(after[n], before[n]) for n in ("0.weight", "2.weight", "6.bias", "8.weight"))


@each
def test_a_network_without_such_units_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"found none it could reset \(0.weight: it is an output"):
        Bench(nn.Sequential(nn.Linear(3, 2)).double(), methods.from_spec(spec), some_batch())


@each
def test_modules_that_were_added_since_are_an_error(spec: str) -> None:
    model = mlp(3, 4, 2)
    model[0].bias.data[0] = -100.0
    bench = Bench(model, methods.from_spec(spec), some_batch())
    model[2] = nn.Sequential(model[2], nn.Linear(2, 2).double())
    with pytest.raises(UserError, match="modules were added or replaced"):
        assert [bench.step() for _ in range(2)] == []


@each
def test_hooks_go_in_the_end(spec: str) -> None:
    bench = Bench(mlp(3, 4, 2), methods.from_spec(spec), some_batch())
    bench.step()
    bench.method.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bench.model.modules())
    methods.from_spec(spec).close()


@each
def test_the_seed_decides_the_new_rows_and_nothing_else_does(spec: str) -> None:
    torch.manual_seed(0)
    model = mlp(3, 4, 2)
    with torch.no_grad():
        model[0].bias[1] = -100.0
    rows = []
    for seed, phase, noise in ((5, 1, 1), (5, 2, 2), (6, 1, 1)):
        torch.manual_seed(noise)
        bench = Bench(copy.deepcopy(model), methods.from_spec(spec), some_batch(), seed=seed, phase=phase)
        changes = [change for _ in range(2) if (change := bench.step()) is not None]
        rows.append(torch.cat([u.values for c in changes for u in c.units if (u.name, u.dim) == ("0.weight", 0)]))
    assert torch.equal(rows[0], rows[1])
    assert not torch.isin(rows[0], rows[2]).any()


def test_a_copy_of_the_model_is_not_watched() -> None:
    bench = Bench(mlp(3, 4, 2), methods.from_spec("cbp"), some_batch())
    duplicate = copy.deepcopy(bench.model)
    loss_fn(duplicate, some_batch())
    assert bench.method.after_step(bench.run) is None
    assert not any(value.any() for value in bench.method.state_dict().values())


@dataclass(frozen=True, kw_only=True)
class Quiet(Network):
    """A network whose hidden units fire in some batches only."""

    def module(self, sample_shape: Any, classes: int) -> nn.Module:
        """`sample_shape` is (1, 8, 8)."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, classes))
        nn.init.constant_(model[1].bias, -1.5)
        return model


NETWORKS = [
    (Mlp(hidden=(8, 8)), 8),
    (ConvNet(channels=(4, 6)), 8),
    (ResNet18.reduced(), 16),
    (Vgg16.reduced(), 64),
    (VitTiny.reduced(), 16),
]


@each
@pytest.mark.parametrize(("network", "side"), NETWORKS, ids=lambda v: type(v).__name__)
def test_every_network_trains_on(spec: str, network: Network, side: int) -> None:
    model = networks.build(network, (3, side, side), 4, 0)
    g = torch.Generator().manual_seed(0)
    batch = torch.randn(8, 3, side, side, generator=g), torch.randint(0, 4, (8,), generator=g)
    bench = Bench(
        model, methods.from_spec(spec), batch, lr=1e-3,
        fresh=lambda seed: networks.build(network, (3, side, side), 4, seed).state_dict(),
    )  # fmt: skip
    if spec.startswith("snr"):  # silence every second unit
        for group in bench.method.units.groups:  # type: ignore[attr-defined]
            table = dict(model.named_parameters())
            last = [p.tensor for p in group.incoming if p.tensor.endswith("bias")][-1]
            table[last].data[::2] = -100.0
    reset = 0
    for _ in range(3):
        reset += len(list((bench.step() or Change()).units))
    assert reset > 0
    assert all(value.isfinite().all() for value in model.state_dict().values())
    bench.method.close()


class Stop(Exception):
    """As sudden as a kill."""


@each
def test_killed_and_resumed_a_run_has_the_same_records(spec: str, tmp_path: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    whole = Dataset(torch.randn(120, 1, 8, 8, generator=draw), torch.randint(10, (120,), generator=draw), 10)
    splits = Splits(whole.take(torch.arange(80)), whole.take(torch.arange(80, 100)), whole.take(torch.arange(100, 120)))
    protocol = Protocol(
        data="digits",
        stream=RandomLabels(tasks=3, images=50, steps=12),
        network=Quiet(),
        trainer=Trainer(batch_size=20, evaluate_every=1, save_seconds=0, learning_rate=0.02),
        methods_from=1,
    )

    def run(name: str, stop_at: float = math.inf) -> list[dict[str, Any]]:
        directory = RunDirectory(tmp_path / name)

        def progress(phases: float) -> None:
            if phases >= stop_at:
                raise Stop

        try:
            train(protocol, splits, methods.from_spec(spec), 3, directory, progress=progress)
        except Stop:
            assert not directory.done
        return [{k: v for k, v in record.items() if k != "seconds"} for record in directory.records()]

    expected = run("whole")
    assert expected != [
        {k: v for k, v in r.items() if k != "seconds"} for r in trained(protocol, splits, tmp_path / "base").records()
    ]
    for stop in (1.3, 2.0, 2.6):
        run(str(stop), stop)
        assert run(str(stop)) == expected, stop


def trained(protocol: Protocol, splits: Splits, path: Any) -> RunDirectory:
    directory = RunDirectory(path)
    train(protocol, splits, methods.from_spec("base"), 3, directory)
    return directory


def test_the_state_of_other_units_is_refused() -> None:
    state = Bench(mlp(3, 4, 2), methods.from_spec("redo"), some_batch()).method.state_dict()
    other = Bench(mlp(3, 5, 2), methods.from_spec("redo"), some_batch())
    with pytest.raises(UserError, match="the saved activity is of shape"):
        other.method.load_state_dict(state)
