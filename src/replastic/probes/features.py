"""Features of the last layers of a network: the inputs of its last Linears and convolutions, differentiable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LINEAR, _ADDMM = functional.linear, torch.addmm
_CONVOLUTIONS = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}
"""Calls by the number of the axes over which they run."""


def last_features(forward: Callable[[], object], count: int) -> list[Tensor]:
    """The features that the last layers of a pass read, in the order of the pass; of at most `count` layers.

    A layer is a call of a Linear or a convolution, of a module or of torch itself. Its features are its input as
    (samples, units); every position of a map or of a sequence counts as a sample. Inputs that depend on no weight, as
    that of the first layer, are no features. Gradients flow through them.

    Args:
        forward: Runs the network, with gradients on.
        count: How many layers, from the last one back.
    """
    watch = _Inputs(count)
    with watch:
        forward()
    return list(watch.found)


class _Inputs(TorchFunctionMode):
    """Keeps the inputs of the last layers that ran."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.found: deque[Tensor] = deque(maxlen=count)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        features = _read_by(func, args, given)
        if features is not None and features.requires_grad:
            self.found.append(features)
        return func(*args, **given)


def _read_by(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The input of a layer as (samples, units), None where the call is no layer.

    It is a copy, because some networks write over it later in the pass.
    """
    if func is _LINEAR or func in _CONVOLUTIONS:
        read = args[0] if args else kwargs["input"]
        axis = -1 if func is _LINEAR else -1 - _CONVOLUTIONS[func]
    elif func is _ADDMM:
        read, axis = args[1] if len(args) > 1 else kwargs["mat1"], -1
    else:
        return None
    return read.movedim(axis, -1).flatten(0, -2).clone() if isinstance(read, Tensor) and read.dim() > 1 else None
