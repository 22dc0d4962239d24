"""Measure the weights of a checkpoint and say in words whether its layers have collapsed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from replastic.api.checkpoints import inspect
from replastic.api.diagnose import Diagnosis
from replastic.api.diagnosis import WeightReport
from replastic.api.on_data import SAMPLES, inspect_on
from replastic.cli._arguments import parse
from replastic.cli._tensors import watched
from replastic.cli._weights import Choice
from replastic.errors import UserError
from replastic.text import printable_lines

DESCRIPTION = """\
Measure the weights of a checkpoint and say in words whether its layers have collapsed. Changes nothing.

A layer counts as collapsed if its effective rank is below a quarter of the directions it has, min(d_out, d_in); random
weights use 0.7 of them or more. Layers with fewer than 8 directions are not judged.

PATH is a .safetensors file, a folder with model.safetensors or shards and their index, or a .pt/.pth/.bin file (read
without running code in it).

With --data the network itself is run: units, features, gradients, curvature and --measures, as replastic.diagnose
does. A checkpoint holds no code, so --model names a function that makes the network; of the folder of an unfinished
run (`replastic run`) the network is known. --data is a data set (`replastic list data`), of which the test split is
taken, or a file of tensors: .pt with a pair or a table, .safetensors with inputs and targets. The loss is cross-entropy
for whole-number labels, and the mean squared error for others.

examples:
  replastic inspect model.safetensors                       the hidden layers
  replastic inspect model.pt --model net.py:make --data cifar10
  replastic inspect model.pt --model net.py:make --data batch.pt --measures ntk_condition plasticity:steps=50
  replastic inspect runs/mine/base/seed-0 --data digits --measures all
  replastic inspect model/ --recipe paper-gpt --include embedding
  replastic inspect model/ --json | jq .collapsed_layers    for scripts
  replastic inspect model/ --exit-code                      0 if all is well, 3 if not

Exit codes: 0 measured; 2 wrong input; with --exit-code, 3 if a layer has collapsed or holds NaN or infinite numbers.
"""

UNSOUND = 3
"""Exit code for collapsed layers. It is none that wrong input (2) or a crash (1) ends with."""


@dataclass(kw_only=True)
class Arguments(Choice):
    """Arguments of `replastic inspect`."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """The checkpoint."""
    data: str = ""
    """A data set or a file of inputs and targets: run the network on it."""
    model: str = ""
    """FILE.py:FUNCTION or MODULE:FUNCTION that makes the network, without arguments; for --data."""
    samples: int = SAMPLES
    """Samples of the data that are looked at."""
    measures: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Measures to take beside the common ones (`replastic list metrics`), or all; with --data."""
    exit_code: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with code 3 if a layer has collapsed or holds numbers that are not finite."""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, measure, print."""
    options = parse(Arguments, prog="replastic inspect", description=DESCRIPTION, args=arguments)
    if options.data:
        measures = "all" if options.measures == ("all",) else options.measures
        asked = {"model": options.model, "samples": options.samples, "measures": measures}
        found: Diagnosis | WeightReport = inspect_on(options.path, options.data, **asked, **options.arguments())
    else:
        if idle := [flag for flag in ("model", "measures") if getattr(options, flag)]:
            raise UserError(f"--{idle[0]} needs --data: weights alone are measured without it")
        found = inspect(options.path, **options.arguments(), progress=watched)
    print(
        json.dumps({"path": options.path} | found.to_dict(), indent=2) if options.json else printable_lines(str(found))
    )
    weights = found.weights if isinstance(found, Diagnosis) else found
    return UNSOUND if options.exit_code and not weights.sound else 0
