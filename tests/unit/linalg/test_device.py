"""Rounding that a caller allows is off around our products on a GPU, and back afterwards; seen without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from replastic.linalg.device import ON_A_GPU, at_once, in_working_precision

GPU, CPU = torch.device("cuda"), torch.device("cpu")
newer_switch = pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 9), reason="this torch has one switch alone"
)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.amp.autocast_mode.autocast.__enter__", lambda self: self)
    monkeypatch.setattr("torch.amp.autocast_mode.autocast.__exit__", lambda self, *error: None)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_callers_precision_is_off_inside_and_back_after_an_error(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)

    def work() -> None:
        with in_working_precision(GPU):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert torch.get_float32_matmul_precision() == precision


@newer_switch
@pytest.mark.parametrize("everywhere", [False, True])
def test_torchs_newer_switch_is_off_inside_and_back_outside(everywhere: bool) -> None:
    switch = torch.backends if everywhere else torch.backends.cuda.matmul
    torch.backends.cuda.matmul.fp32_precision = "none"  # as in a new process: the general switch counts
    before = switch.fp32_precision
    switch.fp32_precision = "tf32"
    try:
        with in_working_precision(GPU):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before


def test_a_cpu_keeps_the_product_that_its_caller_chose() -> None:
    torch.set_float32_matmul_precision("medium")
    with in_working_precision(CPU):
        assert torch.get_float32_matmul_precision() == "medium"


def test_a_gpu_takes_more_at_once_and_never_less_than_a_cpu() -> None:
    assert at_once(CPU, 100) == 100
    assert at_once(GPU, 100) == ON_A_GPU
    assert at_once(GPU, 2 * ON_A_GPU) == 2 * ON_A_GPU
