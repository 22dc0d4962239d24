"""Tensors that wait in memory or in a file without a name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replastic.errors import UserError
from replastic.weights.staging import DiskStage, MemoryStage, Stage, open_stage

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([MemoryStage, DiskStage]),
    st.lists(
        st.tuples(st.lists(st.integers(0, 4), max_size=3).map(tuple), st.sampled_from(DTYPES)), min_size=1, max_size=4
    ),
    st.integers(0, 2**31),
)
def test_tensors_come_back_bit_by_bit(
    kind: type[Stage], wanted: list[tuple[tuple[int, ...], torch.dtype]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return (torch.randn(shape, generator=generator) * 3).to(dtype)

    stage = kind()
    first = [draw(*w) for w in wanted]
    keys = [stage.put(t) for t in first]
    for key, tensor in zip(keys, first, strict=True):
        assert stage.get(key).dtype == tensor.dtype
        assert torch.equal(stage.get(key), tensor)
    second = [draw(*w) for w in wanted]
    for key, tensor in zip(reversed(keys), reversed(second), strict=True):
        stage.replace(key, tensor)
    for key, tensor in zip(keys, second, strict=True):
        assert torch.equal(stage.get(key), tensor)
    stage.close()


@pytest.mark.parametrize("kind", [MemoryStage, DiskStage])
def test_strides_do_not_matter_and_replacing_copies(kind: type[Stage]) -> None:
    turned = torch.randn(4, 3).T
    stage = kind()
    key = stage.put(torch.zeros(3, 4))
    stage.replace(key, turned)
    expected = turned.clone()
    turned.zero_()
    assert torch.equal(stage.get(key), expected)


@pytest.mark.parametrize("shape", [(7, 3, 2), (2, 50), (13,), ()])
def test_large_tensors_are_written_in_pieces(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replastic.weights.staging.PIECE", 10)
    stage = DiskStage()
    tensors = [torch.randn(shape).mT if len(shape) > 1 else torch.randn(shape) for _ in range(2)]
    keys = [stage.put(t) for t in tensors]
    for key, tensor in zip(keys, tensors, strict=True):
        assert torch.equal(stage.get(key), tensor)


def test_the_file_has_no_name_and_its_space_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    stage = DiskStage()
    stage.put(torch.ones(1000))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before + 1
    stage.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_told_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match=r"cannot stage weights in .*No space left on device.*TMPDIR"):
        DiskStage().put(torch.ones(3))


def test_unknown_staging() -> None:
    assert isinstance(open_stage("memory"), MemoryStage)
    assert isinstance(open_stage("disk"), DiskStage)
    with pytest.raises(UserError, match="staging must be one of memory, disk, got 'ram'"):
        open_stage("ram")
