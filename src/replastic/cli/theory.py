"""Say what the FIRE paper's theorems promise of the weights of a checkpoint, beside what is measured on data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor, nn
from torch.nn import functional

from replastic import data
from replastic.api import rebuilt
from replastic.api.promises import TheoryReport
from replastic.api.theory import theory
from replastic.cli._arguments import parse
from replastic.cli._tensors import watched
from replastic.cli._weights import Choice
from replastic.errors import UserError
from replastic.text import printable_lines

DESCRIPTION = """\
Say what the FIRE paper's theorems promise of the weights of a checkpoint, and where an assumption fails. Changes
nothing.

Theorem 3 bounds the rank of a layer's features, theorem 4 the dormancy scores of its units. Both need sqrt(DfI) < 1,
which layers with more outputs than inputs can never meet, and most trained ones do not. Theorem 2 bounds the norm of
the loss's Hessian. With the weights from before, theorem 1 bounds how far the features moved. With --data both sides
are computed, for a checkpoint that is a chain of Linears; for any other network there is
replastic.theory(model, batch, old=, loss_fn=) in Python.

PATH is a .safetensors file, a folder with model.safetensors or shards and their index, or a .pt/.pth/.bin file (read
without running code in it). Of two paths the first is the network before.

examples:
  replastic theory model.safetensors                        the hidden layers
  replastic theory model.safetensors --include head         the whole network, as theorem 2 asks for it
  replastic theory old.safetensors new.safetensors          theorem 1 as well
  replastic theory new.safetensors --old old.safetensors --data digits --activation relu
  replastic theory model/ --json | jq .verdict              for scripts
"""


@dataclass(kw_only=True)
class Arguments(Choice):
    """Arguments of `replastic theory`."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """The checkpoint; the one from before if another follows."""
    new: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NEW")] = ""
    """The checkpoint as it is now, if PATH is that from before."""
    old: str = ""
    """The checkpoint from before, for theorem 1, if only one path is given."""
    data: str = ""
    """Data set on which to measure (see `replastic list data`): its training samples, with cross-entropy as loss."""
    samples: int = 512
    """How many of its samples."""
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid", "none"] = "relu"
    """Activation function between the Linears, which a file does not tell; for --data."""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, hold the weights against the theorems, print."""
    options = parse(Arguments, prog="replastic theory", description=DESCRIPTION, args=arguments)
    if options.new and options.old:
        raise UserError("the network before is given twice, by two paths and by --old: leave one out")
    path, old = (options.new, options.path) if options.new else (options.path, options.old)
    report = _on_data(options, path, old) if options.data else _of_files(options, path, old)
    print(json.dumps({"path": path} | report.to_dict(), indent=2) if options.json else printable_lines(str(report)))
    return 0


def _of_files(options: Arguments, path: str, old: str) -> TheoryReport:
    return theory(path, old=old or None, **options.arguments(), progress=watched)


def _on_data(options: Arguments, path: str, old: str) -> TheoryReport:
    """The file as a chain of Linears, on samples of a data set."""
    if options.samples < 1:
        raise UserError(f"--samples must be at least 1, got {options.samples}")
    model = rebuilt.chain(path, options.activation)
    before = rebuilt.chain(old, options.activation) if old else None
    if before is not None and str(before) != str(model):
        raise UserError(f"{old} and {path} do not hold the same network: {_shapes(before)} and {_shapes(model)}")
    train = data.load(options.data).train
    inputs, targets = train.batch(slice(options.samples))
    batch = inputs.double(), targets
    first, last = _shapes(model)[0], _shapes(model)[-1]
    if inputs[0].numel() != first or train.classes > last:
        raise UserError(
            f"{path} takes {first} numbers and gives {last}, and samples of {options.data} have {inputs[0].numel()} "
            f"numbers and {train.classes} classes: give other data"
        )
    return theory(model, batch, old=before, loss_fn=_cross_entropy, **options.arguments(), progress=watched)


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def _shapes(model: nn.Module) -> list[Any]:
    """Widths of a chain, the inputs first."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]
