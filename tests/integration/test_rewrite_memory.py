"""A checkpoint larger than what a rewrite may take passes through it one tensor at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

SHARDS, TENSORS, WIDTH = 6, 12, 1024  # 302 MB in float32
LIMIT = 100_000_000

SCRIPT = """
import sys
from replastic.api.checkpoints import rewrite

def kilobytes(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))

rewrite(sys.argv[2], None, dry_run=True)  # what a first call loads once: kernels, libraries
before = kilobytes("VmRSS")
outcome = rewrite(sys.argv[1], sys.argv[3], "shrink_perturb")
print(len(outcome.written), 1024 * (kilobytes("VmHWM") - before))
"""


def make(folder: Path, shards: int, tensors: int, width: int) -> None:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    index = {}
    for shard in range(shards):
        names = [f"layers.{shard}.{i}.weight" for i in range(tensors)]
        file = f"model-{shard}.safetensors"
        save_file({n: torch.randn(width, width, generator=generator) for n in names}, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_memory_is_a_few_tensors(tmp_path: Path) -> None:
    make(tmp_path / "in", SHARDS, TENSORS, WIDTH)
    make(tmp_path / "small", 1, 1, 8)
    arguments = [str(tmp_path / name) for name in ("in", "small", "out")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True, timeout=300
    )
    written, extra = map(int, done.stdout.split())
    assert written == SHARDS * TENSORS
    assert sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors")) > 3 * LIMIT
    assert extra < LIMIT, f"{extra / 1e6:.0f} MB"
