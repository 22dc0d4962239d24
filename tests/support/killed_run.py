"""A run killed (SIGKILL) before each of its writes in turn, and gone on with: `python killed_run.py FOLDER SETTINGS`.

SETTINGS are fields of the trainer as JSON, or a `benchmark`, a `method` and the number of writes between kills. Writes
one JSON object: the records of the run that was left alone, and for each kill those of the run resumed after it.
"""

import importlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from replastic import benchmarks, methods
from replastic.data import Dataset, Pixels, Splits
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.networks.resnet18 import ResNet18
from replastic.records import RunDirectory
from replastic.streams.warm_start import WarmStart
from replastic.training import Protocol, train

draw = torch.Generator().manual_seed(0)
IMAGES = Dataset(
    torch.randint(0, 256, (100, 3, 8, 8), generator=draw, dtype=torch.uint8),
    torch.randint(4, (100,), generator=draw),
    4,
    Pixels(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.25, 0.25, 0.25])),
)
SPLITS = Splits(IMAGES.first(60), IMAGES.take(torch.arange(60, 80)), IMAGES.take(torch.arange(80, 100)))


def go(folder, settings):
    if "benchmark" in settings:
        chosen = benchmarks.get(settings["benchmark"])().presets["smoke"].protocol
        chosen = replace(chosen, trainer=replace(chosen.trainer, save_seconds=0))
        train(chosen, chosen.task.open(), methods.from_spec(settings["method"]), 0, RunDirectory(folder))
        return
    protocol = Protocol(
        task=Classification(
            data="made up",
            stream=WarmStart(ratio=0.5, first_epochs=3, epochs=2),
            network=ResNet18(width=4, blocks=(1, 1), stem_stride=1, head=(8,)),
        ),
        trainer=Trainer(batch_size=16, evaluate_every=1, save_seconds=0, **settings),
    )
    train(protocol, SPLITS, methods.from_spec("fire"), 0, RunDirectory(folder))


def die_at(write):
    """Kill this process before its write number `write`: a flush to the disk or a file put in place."""
    left = [write]

    def counted(call):
        def instead(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return instead

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


def in_a_child(function, *arguments):
    """The signal that ended a process which called the function, or 0."""
    child = os.fork()
    if not child:
        function(*arguments)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status


def killed(folder, settings, write):
    die_at(write)
    go(folder, settings)


def content(folder):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in RunDirectory(folder).records()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # as the first optimizer would, in every child anew
    methods.get("fire")
    root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    assert in_a_child(go, root / "whole", settings) == 0
    resumed, write = [], 0
    while in_a_child(killed, root / str(write), settings, write):
        assert in_a_child(go, root / str(write), settings) == 0
        assert RunDirectory(root / str(write)).done
        resumed.append(content(root / str(write)))
        write += settings.get("every", 1)
    sys.stdout.write(json.dumps({"whole": content(root / "whole"), "resumed": resumed}))
