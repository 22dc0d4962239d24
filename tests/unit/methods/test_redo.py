"""redo: which units are dormant by hand, and when it looks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError
from support.unit_bench import Bench, mlp, some_batch, units_of


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


def normalised(seed: int = 0) -> nn.Sequential:
    """GELU after layer normalisation, with two units that learn nothing though they are far from silent.

    Nothing reads unit 2. What goes into the GELU of unit 5 is always -0.7518, where its derivative is zero.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        model[3].weight[:, 2] = 0.0
        model[1].weight[5], model[1].bias[5] = 0.0, -0.7517915246935645
    return model


def score_of_gradients(model: nn.Sequential, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean |d loss / d z| of every unit over the samples, divided by the mean over the layer."""
    z = model[1](model[0](batch[0]))
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model[3](model[2](z)), batch[1]), z)
    mean = gradient.abs().mean(0)
    return mean / mean.mean()


def test_gradients_tell_what_activations_do_not_with_gelu_and_layer_norm() -> None:
    model, batch = normalised(), some_batch()
    with torch.no_grad():
        activity = model[:3](batch[0]).abs().mean(0)
    assert (activity / activity.mean()).min() > 0.1, "no unit is silent"
    assert torch.nonzero(score_of_gradients(model, batch) < 1e-6).flatten().tolist() == [2, 5]
    by_activation = Bench(copy.deepcopy(model), methods.from_spec("redo"), batch)
    assert by_activation.step() is None
    by_gradient = Bench(copy.deepcopy(model), methods.from_spec("redo:score=gradient,dormancy_threshold=1e-6"), batch)
    assert units_of(by_gradient.step(), "0.weight") == [2, 5]


@pytest.mark.parametrize("inplace", [False, True])
def test_the_threshold_is_one_of_the_relative_gradient(inplace: bool) -> None:
    torch.manual_seed(1)
    model, batch = mlp(3, 6, 2), some_batch()
    model[1].inplace = inplace
    with torch.no_grad():
        model[0].bias[4] = -100.0
    z = model[0](batch[0])
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model[2](z.relu()), batch[1]), z)
    scores = gradient.abs().mean(0) / gradient.abs().mean(0).mean()
    assert scores[4] == 0, "a dead unit learns nothing, though something reads it"
    middle = float(scores.sort().values[2])
    for threshold in (0.0, middle * 0.999, middle * 1.001):
        bench = Bench(
            copy.deepcopy(model), methods.from_spec("redo:score=gradient", dormancy_threshold=threshold), batch
        )
        assert units_of(bench.step(), "0.weight") == torch.nonzero(scores <= threshold).flatten().tolist()


def test_the_gradients_of_several_passes_of_an_update_count_by_their_samples() -> None:
    model, batch = normalised(3), some_batch()
    parts = [(batch[0][:4], batch[1][:4]), (batch[0][4:], batch[1][4:])]
    bench = Bench(model, methods.from_spec("redo:score=gradient,every=2"), batch)
    for inputs, targets in parts:
        nn.functional.cross_entropy(model(inputs), targets).backward()
    assert bench.method.after_step(bench.run) is None

    def mean(inputs: Tensor, targets: Tensor) -> Tensor:
        z = model[1](model[0](inputs))
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model[3](model[2](z)), targets), z)
        return gradient.abs().mean(0)

    expected = (4 * mean(*parts[0]) + 2 * mean(*parts[1])) / 6
    torch.testing.assert_close(bench.method.state_dict()["activity"], expected, rtol=1e-12, atol=1e-15)


def test_passes_without_a_backward_pass_are_refused_in_a_sentence() -> None:
    bench = Bench(normalised(), methods.from_spec("redo:score=gradient,every=2"), some_batch())
    for _ in range(2):
        bench.model(bench.batch[0])
        if bench.run.step:
            with pytest.raises(
                UserError, match=r"redo: no gradient of all hidden units was seen in 2 updates; .*backprop"
            ):
                bench.method.after_step(bench.run)
        else:
            assert bench.method.after_step(bench.run) is None
        bench.run.step += 1


def test_a_backward_pass_after_the_end_is_ignored() -> None:
    bench = Bench(normalised(), methods.from_spec("redo:score=gradient"), some_batch())
    loss = bench.model(bench.batch[0]).sum()
    bench.method.close()
    loss.backward()
    assert bench.method.after_step is not None
