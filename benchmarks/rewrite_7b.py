"""Time and peak memory of `replastic rewrite` on a sharded bfloat16 folder with the shapes of Llama-2-7B.

    python benchmarks/rewrite_7b.py --layers 3 --solvers fast exact
    python benchmarks/rewrite_7b.py --complete --solvers fast --folder /big/disk

A folder with some of the 32 layers is made once, of random numbers, and rewritten by the command itself in a process of
its own. The time for all layers is that of these times 32 / layers, which counts the start and the two tables (they are
copied) more than once. ``--complete`` makes and rewrites all 32: 13.5 GB, and as much for the output. The output is
removed after each measurement; so is the folder, if it was made for this call. A rewrite takes minutes, so each is
measured once, whatever --repeats says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Row, command_line, publish
from safetensors.torch import save_file
from torch import Tensor

LAYERS, WIDTH, HIDDEN, WORDS = 32, 4096, 11008, 32000
SHARD = 9_900_000_000
"""Bytes of a shard at most, as in the published folder."""
GOALS = {"fast": 15.0, "exact": 45.0}
"""Minutes for all layers on two cores."""
MOST_MEMORY = 2.0
"""GB of resident memory at most."""


@dataclass(frozen=True)
class Measured:
    """One rewrite."""

    minutes: float
    processor_minutes: float
    gigabytes: float
    residual: float


def main() -> None:
    """Make the folder, rewrite it with each solver, print the table."""
    parser: argparse.ArgumentParser = command_line(__doc__ or "")
    parser.add_argument("--layers", type=int, default=3, help="layers of the folder")
    parser.add_argument("--complete", action="store_true", help=f"all {LAYERS} layers")
    parser.add_argument("--solvers", nargs="+", default=["fast", "exact"])
    parser.add_argument("--folder", type=Path, help="where to make it; one that is there already is used and kept")
    options = parser.parse_args()
    layers = LAYERS if options.complete else options.layers
    with tempfile.TemporaryDirectory() as temporary:
        around = options.folder or Path(temporary)
        source = around / f"llama-{layers}-layers"
        if not source.exists():
            make(source, layers)
        rows = [row for solver in options.solvers for row in measured_rows(source, layers, solver)]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    publish(f"`rewrite` of Llama-2-7B, measured on {layers} layers", rows, options.json, load=load)


def measured_rows(source: Path, layers: int, solver: str) -> Iterator[Row]:
    """One rewrite as rows of the table."""
    found = rewritten(source, solver)
    factor = LAYERS / layers
    said = f"{60 * found.minutes:.0f} s for {layers} layers, worst residual {found.residual:.1e}"
    yield Row("32 layers, wall", solver, factor * found.minutes, "min", GOALS.get(solver), "lower", said)
    yield Row("32 layers, processor", solver, factor * found.processor_minutes, "min", note="of all threads together")
    yield Row("peak of resident memory", solver, found.gigabytes, "GB", MOST_MEMORY, "lower")


def rewritten(source: Path, solver: str) -> Measured:
    """Rewrite the folder beside itself by the command, and remove the output."""
    target = source.with_name(f"{source.name}-{solver}")
    command = [sys.executable, "-m", "replastic", "rewrite", str(source), str(target), "--solver", solver, "--json"]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        said.seek(0)
        outcome = json.load(said)
    shutil.rmtree(target)
    residual = max(layer["facts"]["residual"] for layer in outcome["layers"])
    return Measured(seconds / 60, (used.ru_utime + used.ru_stime) / 60, used.ru_maxrss * 1024 / 1e9, residual)


def make(folder: Path, layers: int) -> None:
    """A folder of shards with an index and a config, its weights normal with deviation .02."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in tensors(layers):
        count = 2 * torch.Size(shape).numel()
        if size + count > SHARD:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += count
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({n: drawn(shape, generator) for n, shape in shard}, folder / file, {"format": "pt"})
        index |= {name: file for name, _ in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": WORDS,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the model."""
    yield "model.embed_tokens.weight", (WORDS, WIDTH)
    for layer in range(layers):
        start = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            yield f"{start}.self_attn.{name}_proj.weight", (WIDTH, WIDTH)
        for name in ("gate", "up"):
            yield f"{start}.mlp.{name}_proj.weight", (HIDDEN, WIDTH)
        yield f"{start}.mlp.down_proj.weight", (WIDTH, HIDDEN)
        for name in ("input", "post_attention"):
            yield f"{start}.{name}_layernorm.weight", (WIDTH,)
    yield "model.norm.weight", (WIDTH,)
    yield "lm_head.weight", (WORDS, WIDTH)


def drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random values in bfloat16; ones for a vector."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator, dtype=torch.bfloat16).mul_(0.02)


if __name__ == "__main__":
    main()
