"""Probes leave flags, statistics, generators and `.grad` as they were, and gradients are the right ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from replastic.probes import gradients, undisturbed
from replastic.seeds import seed_global


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 2))


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def snapshot(model: nn.Module) -> object:
    flags = [m.training for m in model.modules()]
    tensors = {n: v.clone() for n, v in model.state_dict().items()}
    return flags, [t.tolist() for t in tensors.values()], torch.get_rng_state().tolist()


@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_is_left_behind(model: nn.Sequential, training: bool | None, fails: bool) -> None:
    model.train()
    model[1].eval()
    statistics = model[1].running_mean
    before = snapshot(model)
    try:
        with undisturbed(model, training=training):
            assert model[4].training == (True if training is None else training)
            assert model[1].training == (False if training is None else training)
            model.train()
            model(torch.randn(8, 4))
            model[1].running_mean = torch.zeros(6)
            assert snapshot(model) != before
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert snapshot(model) == before
    assert model[1].running_mean is statistics


def test_seeding_reaches_the_named_devices_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(torch.Generator().manual_seed(1) for _ in range(3))
    monkeypatch.setattr(torch.cuda, "default_generators", gpus)
    with torch.random.fork_rng(devices=[]):
        seed_global(7, [2])
        assert torch.initial_seed() == 7
    assert [g.initial_seed() for g in gpus] == [1, 1, 7]


def test_gradients_of_each_batch(model: nn.Sequential) -> None:
    model[0].bias.requires_grad_(False)
    model[4].bias.grad = torch.ones(2)
    batches = [torch.randn(8, 4) for _ in range(2)]
    before = snapshot(model)
    found = list(gradients(model, batches, loss_fn, training=False))
    assert snapshot(model) == before
    assert torch.equal(model[4].bias.grad, torch.ones(2))
    assert len(found) == 2
    assert list(found[0]) == [n for n, p in model.named_parameters() if p.requires_grad]
    model.eval()
    for batch, grads in zip(batches, found, strict=True):
        model.zero_grad()
        loss_fn(model, batch).backward()
        for name, g in grads.items():
            assert torch.equal(g, model.get_parameter(name).grad), name


def test_training_mode_uses_the_statistics_of_the_batch(model: nn.Sequential) -> None:
    batch = torch.randn(8, 4) * 5 + 3
    (train,) = gradients(model, [batch], loss_fn, training=True)
    (evaluation,) = gradients(model, [batch], loss_fn, training=False)
    assert not torch.allclose(train["4.weight"], evaluation["4.weight"])


def test_a_parameter_without_part_in_the_loss_has_gradient_zero() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    (found,) = gradients(model, [torch.randn(3, 2)], lambda m, b: m["used"](b).sum())
    assert not found["idle.weight"].any()
    assert found["used.bias"].any()


def test_a_seed_decides_what_dropout_draws(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_device_of_the_model(seed: int) -> None:
        raise AssertionError("the generators of devices that the model is not on were seeded")

    batches = [torch.randn(8, 4) for _ in range(2)]
    monkeypatch.setattr(torch.cuda, "manual_seed_all", no_device_of_the_model)
    found = []
    for seed in (1, 1, 2):
        torch.default_generator.manual_seed(len(found))
        before = snapshot(model)
        found.append([g["4.weight"] for g in gradients(model, batches, loss_fn, seed=seed)])
        assert snapshot(model) == before
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))
