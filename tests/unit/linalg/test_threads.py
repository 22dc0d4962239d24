"""Chunks over threads: the same numbers, the caller's settings untouched, and the first error told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from replastic.errors import MatrixError
from replastic.linalg import polar
from replastic.linalg.threads import for_each

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_chunks_run_in_threads_with_one_thread_each_and_all_settings_come_back() -> None:
    seen: dict[int, tuple[str, int, bool]] = {}
    both = threading.Barrier(2, timeout=20)

    def work(chunk: slice) -> None:
        both.wait()
        name = threading.current_thread().name
        seen[chunk.start] = (name, torch.get_num_threads(), torch.is_grad_enabled())

    for_each(work, [slice(0, 1), slice(1, 2)], CPU)
    assert sorted(seen) == [0, 1]
    assert len({name for name, _, _ in seen.values()}) == 2
    assert {(threads, grad) for _, threads, grad in seen.values()} == {(1, False)}
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 2
    assert later == [2]


def test_settings_come_back_after_an_error_and_it_is_that_of_the_first_chunk() -> None:
    def work(chunk: slice) -> None:
        raise ValueError(str(chunk.start))

    with pytest.raises(ValueError, match="3"):
        for_each(work, [slice(3, 4), slice(5, 6)], CPU)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("chunks", [[slice(0, 1)], [slice(0, 1), slice(1, 2)]])
def test_one_chunk_or_one_thread_stays_in_the_calling_thread(chunks: list[slice]) -> None:
    torch.set_num_threads(2 if len(chunks) == 1 else 1)
    names: list[str] = []
    for_each(lambda chunk: names.append(threading.current_thread().name), chunks, CPU)
    assert names == [threading.current_thread().name] * len(chunks)


@pytest.mark.parametrize("solver", ["exact", "iterative", "newton_schulz", "fast", "svd"])
def test_threads_do_not_change_the_factor(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["replastic.linalg.polar"], "CHUNK_ELEMENTS", 500)
    w = torch.randn(9, 24, 10, generator=torch.Generator().manual_seed(0))
    two = polar(w, solver)
    torch.set_num_threads(1)
    one = polar(w, solver)
    assert torch.equal(one.factor, two.factor)
    assert torch.equal(one.residual, two.residual)
    assert one.iterations == two.iterations


def test_under_inference_mode_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["replastic.linalg.polar"], "CHUNK_ELEMENTS", 100)
    with torch.inference_mode():
        w = torch.randn(4, 12, 8, generator=torch.Generator().manual_seed(0))
        assert float(polar(w, out=w).residual.max()) < 1e-8


def test_a_matrix_without_an_answer_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["replastic.linalg.polar"], "CHUNK_ELEMENTS", 100)
    w = torch.randn(6, 12, 8)
    w[4] = 0
    with pytest.raises(MatrixError, match="matrix 4 of the batch is all zero"):
        polar(w)
