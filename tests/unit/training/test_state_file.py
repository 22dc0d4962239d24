"""The file with the state of a run: what a public reader finds in it, the memory it takes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from replastic.training import state_file


def test_the_safetensors_library_reads_what_was_written(tmp_path):
    whole = torch.randn(5, 4, 3, 3)
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(3),
        "half": torch.randn(3).bfloat16(),
        "view": whole[1:3],
        "same memory": whole[1:3],
        "turned": whole[0, 0].T,
        "channels last": whole.to(memory_format=torch.channels_last),
        "tracked": torch.nn.Parameter(torch.randn(2)),
    }
    state_file.write(tmp_path / "deep" / "state", tensors, {"position": {"step": 7}})
    found = load_file(tmp_path / "deep" / "state")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    again, facts = state_file.read(tmp_path / "deep" / "state")
    assert all(torch.equal(again[name], value) for name, value in tensors.items())
    assert facts == {"position": {"step": 7}}
    assert state_file.updates(tmp_path / "deep" / "state") == 7


def memory(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def test_writing_a_large_state_takes_no_second_copy_of_it(tmp_path):
    forget = Path("/proc/self/clear_refs")
    if not forget.exists():
        pytest.skip("needs Linux")
    replay = torch.randint(255, (64 << 20,), dtype=torch.uint8)
    state_file.write(tmp_path / "small", {"some": torch.zeros(3)}, {})
    forget.write_text("5")
    before = memory("VmRSS")
    state_file.write(tmp_path / "state", {"replay": replay, "weights": torch.randn(10)}, {})
    assert memory("VmHWM") - before < replay.numel() / 4
