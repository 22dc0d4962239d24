"""`fire_` on whole networks: the CPU's numbers, undo, moments, and every way in which a network may live on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.training.failures import memory_in_words
from support.spectra import distance

pytestmark = pytest.mark.gpu
CLOSE = 3e-4
"""Relative distance of a weight to the CPU's: the guarantee of `exact`, whose factors come another way on a GPU."""


def trained(model: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, its weights away from their initial values."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.2).add_(0.02 * torch.randn(p.shape, generator=draw))
    return model.to(device)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def close_to_the_cpus(found: nn.Module, expected: nn.Module, allowed: float = CLOSE) -> None:
    expected_state = expected.state_dict()
    for name, value in found.state_dict().items():
        truth = expected_state[name].double()
        assert truth.norm() == 0 or distance(value.flatten()[None], truth.flatten()[None]) <= allowed, name


@pytest.mark.parametrize("solver", ["exact", "iterative", "svd", "newton_schulz"])
def test_weights_are_the_cpus(solver: str, network: tuple[nn.Module, Tensor], device: torch.device, tf32: bool) -> None:
    twin = trained(copy.deepcopy(network[0]), torch.device("cpu"))
    model = trained(network[0], device)
    addresses = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    found, expected = replastic.fire_(model, solver=solver), replastic.fire_(twin, solver=solver)
    close_to_the_cpus(model, twin)
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == addresses
    assert [layer.label for layer in found.layers] == [layer.label for layer in expected.layers] != []
    for layer, other in zip(found.layers, expected.layers, strict=True):
        assert layer.sfe == pytest.approx(other.sfe, rel=1e-3)
        assert layer.facts["residual"] == pytest.approx(other.facts["residual"], rel=1e-2, abs=1.1e-8)
    assert bool(torch.isfinite(replies(model, network[1])).all())


def replies(model: nn.Module, batch: Tensor) -> Tensor:
    """The network's outputs in evaluation mode."""
    model.eval()
    with torch.no_grad():
        found = model(batch)
    return found.logits if hasattr(found, "logits") else found


@pytest.mark.parametrize("staging", ["memory", "disk"])
def test_undo_takes_back_every_bit(staging: Any, network: tuple[nn.Module, Tensor], device: torch.device) -> None:
    model = trained(network[0], device)
    before = state(model)
    outcome = replastic.fire_(model, staging=staging)
    assert any(not torch.equal(before[n], v) for n, v in state(model).items())
    outcome.undo_()
    assert all(torch.equal(before[n], v) for n, v in state(model).items())


def small(device: torch.device, **where: Any) -> nn.Sequential:
    """A network with a convolution, a norm and three Linears."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 24),
            nn.ReLU(),
            nn.Linear(24, 24),
            nn.ReLU(),
            nn.Linear(24, 4),
        )
    return layers.to(device, **where)


def images(device: torch.device) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, 6, 6, generator=draw).to(device), torch.randint(4, (16,), generator=draw).to(device)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


@pytest.mark.parametrize("policy", ["keep", "reset_touched", "reset_all"])
@pytest.mark.parametrize("kind", [{}, {"foreach": True}, {"fused": True}, {"capturable": True}], ids=str)
def test_moments_on_the_device_follow_the_policy(policy: Any, kind: dict[str, bool], device: torch.device) -> None:
    if device.type == "cpu" and "capturable" in kind:
        pytest.skip("is for CUDA graphs")
    model = small(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **kind)
    for _ in range(2):
        step(model, optimizer, images(device))
    before = {n: copy.deepcopy(optimizer.state[p]) for n, p in model.named_parameters()}
    outcome = replastic.fire_(model, optimizer, policy=policy)
    for name, p in model.named_parameters():
        kept = policy == "keep" or (policy == "reset_touched" and name not in outcome.written)
        if kept:
            assert torch.equal(optimizer.state[p]["exp_avg"], before[name]["exp_avg"])
        else:
            assert not optimizer.state[p] or not optimizer.state[p]["exp_avg"].any()
    outcome.undo_()
    for name, p in model.named_parameters():
        assert torch.equal(optimizer.state[p]["exp_avg"], before[name]["exp_avg"])
    replastic.fire_(model, optimizer, policy=policy)
    step(model, optimizer, images(device))
    assert all(optimizer.state[p]["exp_avg"].device == p.device for p in model.parameters())


def test_a_follower_and_a_follower_elsewhere(device: torch.device) -> None:
    model = small(device)
    here, away = copy.deepcopy(model), copy.deepcopy(model).cpu()
    replastic.fire_(model, followers={"here": here, "away": away})
    for copied in (here, away):
        assert all(torch.equal(v.cpu(), w.cpu()) for v, w in zip(copied.parameters(), model.parameters(), strict=True))
    assert all(p.device.type == "cpu" for p in away.parameters())


def test_initial_weights_may_be_elsewhere(device: torch.device) -> None:
    model, twin = small(device), small(torch.device("cpu"))
    init = {name: 1.5 * value.float() for name, value in twin.state_dict().items()}
    for method in ("interpolation", "fire:scale=init"):
        name, _, option = method.partition(":")
        options = {"scale": "init"} if option else {}
        replastic.apply_(name, model, init=init, **options)
        replastic.apply_(name, twin, init=init, **options)
        close_to_the_cpus(model, twin)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_stay(dtype: torch.dtype, device: torch.device) -> None:
    model, twin = small(device, dtype=dtype), small(torch.device("cpu"), dtype=dtype)
    replastic.fire_(model)
    replastic.fire_(twin)
    assert {p.dtype for p in model.parameters()} == {dtype}
    unit = torch.finfo(dtype).eps
    close_to_the_cpus(model, twin, CLOSE + unit)


def test_channels_last_stays(device: torch.device) -> None:
    model, twin = small(device, memory_format=torch.channels_last), small(torch.device("cpu"))
    stride = model[0].weight.stride()
    replastic.fire_(model)
    replastic.fire_(twin)
    assert model[0].weight.stride() == stride
    close_to_the_cpus(model, twin)


def test_a_callers_autocast_rounds_nothing(device: torch.device) -> None:
    model, twin = small(device), small(device)
    with torch.autocast(device.type, torch.bfloat16):
        replastic.fire_(model)
    replastic.fire_(twin)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_callers_precision_is_put_back(device: torch.device, tf32: bool) -> None:
    before = torch.get_float32_matmul_precision()
    replastic.fire_(small(device))
    assert torch.get_float32_matmul_precision() == before


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    """torch.compile, with nothing left behind."""
    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, in what it imports to compile
def test_a_compiled_model_sees_the_new_weights(compiled: Callable[..., Any], device: torch.device) -> None:
    model = small(device).eval()
    fast, (inputs, _) = compiled(model), images(device)
    with torch.no_grad():
        fast(inputs)
        replastic.fire_(fast)
        torch.testing.assert_close(fast(inputs), model(inputs), rtol=1e-3, atol=1e-4)


def test_a_captured_graph_sees_the_new_weights(only_cuda: torch.device) -> None:
    model, (inputs, _) = small(only_cuda).eval(), images(only_cuda)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(3):
            model(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        outputs = model(inputs)
    graph.replay()
    old = outputs.clone()
    replastic.fire_(model)
    graph.replay()
    with torch.no_grad():
        torch.testing.assert_close(outputs, model(inputs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs, old, rtol=1e-3)


def test_a_side_stream_gives_the_same(only_cuda: torch.device) -> None:
    model, twin, side = small(only_cuda), small(only_cuda), torch.cuda.Stream()
    spin = torch.randn(4096, 4096, device=only_cuda)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(20):
            spin = spin @ spin / 64  # the stream is busy when the call begins
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.5)
        replastic.fire_(model, scale="preserve")
    torch.cuda.current_stream().wait_stream(side)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1.5)
    replastic.fire_(twin, scale="preserve")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_no_tensor_stays_on_the_device(only_cuda: torch.device) -> None:
    model = small(only_cuda)
    replastic.fire_(model)  # libraries allocate workspaces at their first use
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    outcome = replastic.fire_(model, staging="disk")
    del outcome
    assert torch.cuda.memory_allocated() == before
    kept = replastic.fire_(model)
    weights = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if n in kept.written)
    assert torch.cuda.memory_allocated() - before <= 2 * weights + 4096 * len(list(model.parameters()))
    del kept
    assert torch.cuda.memory_allocated() == before


def test_peak_memory_is_bounded(only_cuda: torch.device) -> None:
    model = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(32)], nn.Linear(1024, 4)).to(only_cuda)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    replastic.fire_(model, staging="disk")
    assert torch.cuda.max_memory_allocated() - before <= 2**31 + 3 * weights


def test_nothing_is_written_where_memory_runs_out(only_cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(only_cuda)
    before = state(model)

    def full(*args: object, **kwargs: object) -> Tensor:
        return torch.empty(2**50, device=only_cuda)

    monkeypatch.setattr("replastic.linalg.iterative.spectral_bound", full)
    with pytest.raises((UserError, torch.OutOfMemoryError)):
        replastic.fire_(model)
    assert all(torch.equal(before[n], v) for n, v in state(model).items())


def test_memory_that_runs_out_in_training_is_said_with_advice(only_cuda: torch.device) -> None:
    with (
        pytest.raises(UserError, match="out of memory on cuda with batches of 64 samples: try --batch-size 32"),
        memory_in_words(Trainer(), "cuda"),
    ):
        torch.empty(2**50, device=only_cuda)


def test_diagnose_and_a_probe(device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    model = small(device)

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    replastic.fire_(model, probe=(images(device), loss))
    assert "loss" in capsys.readouterr().out
    assert str(replastic.diagnose(model, images(device), loss, trial=3))
