"""Short runs of a language model, alone or as one process of several: `python language_run.py FOLDER CASE ...`."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from replastic import methods
from replastic.learners import Trainer
from replastic.learners.language import Language
from replastic.networks.gpt import Gpt
from replastic.parallel import distributed
from replastic.records import RunDirectory
from replastic.training import Protocol, train

TASK = Language(
    first="grammar:count=12,sentences=10",
    second="grammar:count=12,sentences=10,dialect=1+grammar:count=12,sentences=10",
    tokenizer="bpe:size=280",
    block=16,
    first_updates=8,
    updates=6,
    evaluations=2,
    validation=5,
    plasticity_corpus="grammar:count=12,sentences=10,dialect=3",
    plasticity_updates=5,
    network=Gpt(depth=2, heads=2, dim=12),
)
TRAINER = Trainer(
    batch_size=10,
    accumulate=2,
    learning_rate=1e-2,
    beta2=0.95,
    weight_decay=0.1,
    clip_norm=1.0,
    schedule="cosine",
    final_rate=0.1,
    checkpoints=True,
    save_seconds=0,
)
CASES = {
    "base": (TASK, TRAINER, "base"),
    "kept": (TASK, replace(TRAINER, optimizer_policy="keep"), "fire"),
    "best": (TASK, TRAINER, "from_checkpoint:at=best+fire:solver=exact+replay:share=0.2"),
    "bfloat16": (TASK, replace(TRAINER, precision="bfloat16", learning_rate=1e-3), "fire:solver=exact"),
}
SHARDED = "sharded-"
"""Before the name of a case: the processes share the weights."""


def run(name: str, folder: str) -> None:
    """In two parts, so that the second goes on from what the first saved."""
    task, trainer, method = CASES[name.removeprefix(SHARDED)]
    task = replace(task, sharded=name.startswith(SHARDED) and distributed.world_size() > 1)
    protocol = Protocol(
        task=task, trainer=trainer, recipe="paper-gpt", metrics=("dfi",), boundary_metrics=("sfe",), probe_samples=4
    )
    for until in (1, 2):
        train(protocol, task.open(), methods.from_spec(method), 0, RunDirectory(folder), until=until)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.processes("cpu"):
        for case in sys.argv[2:]:
            run(case, f"{sys.argv[1]}/{case}")
