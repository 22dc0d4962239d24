"""The weights whose scale is without effect, because a normalisation layer follows them directly; seen in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from replastic.errors import UserError
from replastic.probes._trees import tensors
from replastic.probes.quiet import undisturbed

_LAYERS = frozenset(("linear", *(f"{kind}{axes}d" for kind in ("conv", "conv_transpose") for axes in (1, 2, 3))))
_NORMS = frozenset(("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"))
_SAME = frozenset(
    (
        *("contiguous", "clone", "detach", "to", "float", "half", "bfloat16", "double", "type_as"),
        *("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze"),
        *("permute", "transpose", "swapaxes", "movedim"),
    )
)
"""Calls that keep every number, so that what follows them follows the layer."""


def normalised_weights(
    model: nn.Module,
    sample: Any,
    forward: Callable[[nn.Module, Any], object] = lambda model, sample: model(sample),
) -> frozenset[str]:
    """Weights of Linears and convolutions whose outputs go into normalisation layers and nowhere else.

    Such a weight times a positive number gives the same function, but for the eps of the normalisation and, before a
    layer or group normalisation, for the bias of the layer. The layers may be modules or calls of torch; one that is
    written out by hand is not seen. The pass is in training mode and leaves no trace in the model.

    Args:
        model: Any module but one that `torch.compile` made, which is refused.
        sample: A batch, of two samples or more if the network has batch normalisation.
        forward: Runs the model on the sample. It may be a loss.

    Returns:
        Their names, as in `named_parameters`.

    Raises:
        UserError: The model is compiled, or does not run on the sample.
    """
    if hasattr(model, "_orig_mod"):
        raise UserError("a compiled model shows no layers: pass the model itself, not torch.compile(model)")
    trace = _Trace(model)
    with undisturbed(model, training=True), torch.no_grad():
        try:
            with trace:
                forward(model, sample)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"cannot look for normalisation layers: the model fails on the sample: {error}") from error
    return trace.found()


@dataclass(eq=False)
class _Output:
    """The result of one call of a layer, and who read it."""

    normalised: bool = False
    read_otherwise: bool = False


class _Trace(TorchFunctionMode):
    """Notes who reads the output of every Linear and convolution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in reversed(list(model.named_parameters(remove_duplicate=False)))}
        self._outputs: dict[str, list[_Output]] = defaultdict(list)
        self._spoiled: set[str] = set()
        self._holders: dict[int, _Output] = {}
        self._alive: list[Tensor] = []  # else a new tensor could get the id of one that is gone

    def found(self) -> frozenset[str]:
        """The weights, after the pass."""
        return frozenset(
            name
            for name, outputs in self._outputs.items()
            if name not in self._spoiled and all(o.normalised and not o.read_otherwise for o in outputs)
        )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = list(tensors((args, kwargs or {})))
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) or any(True for _ in tensors(output)):
            self._note(getattr(func, "__name__", "").removesuffix("_"), given, output)
        return output

    def _note(self, kind: str, given: list[Tensor], output: Any) -> None:
        self._alive += [*given, *tensors(output)]
        first = self._holders.get(id(given[0])) if given else None
        if kind in _SAME and isinstance(output, Tensor):
            if first is not None:
                self._holders[id(output)] = first
            rest = given[1:]
        elif kind in _NORMS:
            if first is not None:
                first.normalised = True
            rest = given[1:]
        else:
            rest = given
        for holder in (self._holders[id(tensor)] for tensor in rest if id(tensor) in self._holders):
            holder.read_otherwise = True
        weight = self._names.get(id(given[1])) if kind in _LAYERS and len(given) > 1 else None
        self._spoiled |= {self._names[id(t)] for t in given if id(t) in self._names} - {weight}
        if weight is not None and isinstance(output, Tensor):
            self._outputs[weight].append(_Output())
            self._holders[id(output)] = self._outputs[weight][-1]
