"""What the units of a network do: the output of every activation function, whether a module or a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Visitor = Callable[[str, Tensor], None]

_FUNCTIONS = (
    "relu relu_ leaky_relu leaky_relu_ elu elu_ selu selu_ celu celu_ gelu silu mish relu6 hardtanh hardswish "
    "hardsigmoid softplus tanh sigmoid"
)
ACTIVATIONS = frozenset(
    found
    for home in (functional, torch, Tensor)
    for name in _FUNCTIONS.split()
    if (found := getattr(home, name, None)) is not None
)
"""The calls that count as an activation function."""

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding)


@contextmanager
def activations(model: nn.Module, visit: Visitor) -> Iterator[None]:
    """Call `visit(layer, features)` after each activation function that runs inside the `with` block.

    `layer` is the name of the module in which the function ran (the activation module itself, where it is one), with
    ``#2``, ``#3`` for its further calls in one pass. `features` is (samples, units), detached and only valid during
    the call: units are channels, and every position of a map or of a sequence counts as a sample. Nothing else is kept,
    so memory does not grow with depth. The hooks are removed on the way out, by an error too.

    Use it inside `undisturbed`, or in a forward pass that happens anyway.
    """
    watcher = _Watcher(visit)
    hooks = []
    try:
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(watcher.entering(name, root=module is model)))
            hooks.append(module.register_forward_hook(watcher.leaving, always_call=True))
        with watcher:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Watcher(TorchFunctionMode):
    """Sees every torch call; knows which module it happens in and which axis the units are on."""

    def __init__(self, visit: Visitor) -> None:
        super().__init__()
        self.visit = visit
        self.inside: list[str] = []
        self.calls: dict[str, int] = {}
        self.channels_first: bool | None = None

    def entering(self, name: str, *, root: bool) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if root:
                self.calls.clear()
                self.channels_first = None
            self.inside.append(name)

        return hook

    def leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.inside.pop()
        if isinstance(module, _CHANNELS_FIRST):
            self.channels_first = True
        elif isinstance(module, _CHANNELS_LAST):
            self.channels_first = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in ACTIVATIONS and self.inside and isinstance(output, Tensor) and output.dim() >= 2:
            layer = self.inside[-1] or "model"
            count = self.calls[layer] = self.calls.get(layer, 0) + 1
            with torch.no_grad():
                self.visit(layer if count == 1 else f"{layer}#{count}", self._features(output.detach()))
        return output

    def _features(self, output: Tensor) -> Tensor:
        first = output.dim() > 3 if self.channels_first is None else self.channels_first
        if output.dim() > 2 and first:
            output = output.movedim(1, -1)
        return output.reshape(-1, output.shape[-1])
