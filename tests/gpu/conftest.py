"""The device of these tests: a GPU, or with REPLASTIC_TEST_DEVICE=cpu the CPU, so that they can be tried anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from torch import nn

from replastic.linalg.device import ON_A_GPU
from replastic.linalg.iterative import by_float64_gram
from replastic.networks import build
from replastic.networks.resnet18 import ResNet18
from replastic.networks.vit_tiny import VitTiny

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic products need, before the first one
WANTED = os.environ.get("REPLASTIC_TEST_DEVICE", "cuda")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the tensors of a test are."""
    chosen = torch.device(WANTED)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; REPLASTIC_TEST_DEVICE=cpu runs the same on the CPU")
    return torch.device("cuda", torch.cuda.current_device()) if chosen.type == "cuda" else chosen


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, let `exact` solve as it does on a GPU, and let it take as many matrices at once."""
    if WANTED == "cpu":
        for usual in ("by_eigenvectors", "by_products"):
            monkeypatch.setattr(import_module("replastic.linalg.exact"), usual, by_float64_gram)
        for room in ("linalg.polar", "linalg.tall", "interventions.solve", "interventions.parts"):
            monkeypatch.setattr(import_module(f"replastic.{room}"), "at_once", lambda device, on_cpu: ON_A_GPU)


@pytest.fixture
def only_cuda(device: torch.device) -> torch.device:
    """The device, for tests of what a CPU does not have."""
    if device.type != "cuda":
        pytest.skip("a CPU has no streams, graphs or memory of its own")
    return device


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Kernels that add in one order, so that equal work gives equal bits."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.fixture(params=["as it is", "TF32 allowed"])
def tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Run a test twice: once with the caller's products rounded to TF32."""
    allowed = request.param == "TF32 allowed"
    if allowed and WANTED == "cpu":
        pytest.skip("a CPU has no TF32")
    if allowed:
        torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32, before = allowed, torch.backends.cudnn.allow_tf32
    yield allowed
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=["resnet18", "vit_tiny", "gpt2"])
def network(request: pytest.FixtureRequest, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """A small network on the CPU, and a batch of its input on the device."""
    model, batch = {"resnet18": _resnet18, "vit_tiny": _vit, "gpt2": _gpt2}[request.param]()
    return model, batch.to(device)


def _resnet18() -> tuple[nn.Module, torch.Tensor]:
    return build(ResNet18(width=16), (3, 32, 32), 10, 0), torch.randn(8, 3, 32, 32)


def _vit() -> tuple[nn.Module, torch.Tensor]:
    return build(VitTiny(patch=8, dim=48, depth=2, heads=2, mlp=96), (3, 32, 32), 10, 0), torch.randn(8, 3, 32, 32)


def _gpt2() -> tuple[nn.Module, torch.Tensor]:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=101, n_positions=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config), torch.arange(32).reshape(2, 16)
