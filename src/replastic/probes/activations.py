"""Activations of a network: the output of every activation function, whether it is a module or a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from replastic.probes.quiet import is_probed

Visitor = Callable[[str, Tensor], None]
RawVisitor = Callable[[str, Tensor, int], None]

_FUNCTIONS = (
    "relu relu_ leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ selu selu_ celu celu_ gelu silu mish relu6 hardtanh "
    "hardswish hardsigmoid softplus tanh sigmoid logsigmoid softsign hardshrink softshrink tanhshrink threshold "
    "threshold_"
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

    `layer` is the name of the module in which the function ran; for an activation module, its own name. Further calls
    in one pass get ``#2``, ``#3``. `features` is (samples, units), detached, and valid during the call alone. Units are
    channels. Every position of a map or of a sequence counts as a sample. Nothing else is kept, so memory does not grow
    with depth. The hooks are removed at the end of the block, after an error too.

    Use it inside `undisturbed`, or in a forward pass that happens anyway.
    """
    watcher = Watcher(lambda layer, output, axis: visit(layer, _as_samples(output, axis)))
    with watcher.attached(model), watcher:
        yield


class TrainingWatch:
    """Watches the activation functions of every training pass of a model, from now on until `close`.

    A training pass is a call of the model in training mode, with gradients on, outside of `undisturbed`. In other
    passes no call is watched; only the hooks that follow the running module remain.

    Args:
        model: The model as training calls it. Hooks stay on its modules until `close`.
        visit: Called as ``visit(layer, output, axis)``. `layer` is a name as in `activations`. `output` is detached,
            has its own shape, and is valid during the call alone. `axis` is the axis of its units.
        wanted: Asked before each pass. A pass for which it returns False is not watched.
        gradients: Call `visit` in the backward pass instead, with the gradient of what went into the function in the
            place of `output`. A pass that is not followed by a backward pass is then not seen.
    """

    def __init__(
        self,
        model: nn.Module,
        visit: RawVisitor,
        wanted: Callable[[], bool] = lambda: True,
        *,
        gradients: bool = False,
    ) -> None:
        self._watcher = _BackwardWatcher(visit) if gradients else Watcher(visit)
        self._wanted = wanted
        self._pass = ExitStack()
        self._hooks = ExitStack()
        self._hooks.callback(model.register_forward_pre_hook(_Hook(self._begin)).remove)
        self._hooks.enter_context(self._watcher.attached(model))
        self._hooks.callback(model.register_forward_hook(_Hook(self._end), always_call=True).remove)

    def close(self) -> None:
        """Remove the hooks."""
        self._watcher.visit = _ignore
        self._pass.close()
        self._hooks.close()

    def _begin(self, model: nn.Module, inputs: Any) -> None:
        self._pass.close()
        if model.training and torch.is_grad_enabled() and not is_probed(model) and self._wanted():
            self._pass.enter_context(self._watcher)

    def _end(self, model: nn.Module, inputs: Any, output: Any) -> None:
        self._pass.close()


class Watcher(TorchFunctionMode):
    """Sees every torch call while it is active. It knows the module that makes the call and the axis of the units."""

    def __init__(self, visit: RawVisitor) -> None:
        super().__init__()
        self.visit = visit
        self.inside: list[str] = []
        self.calls: dict[str, int] = {}
        self.channels_first: bool | None = None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Follow the running module inside the block."""
        hooks = []
        try:
            for name, module in model.named_modules():
                entering = self._entering(name, root=module is model)
                hooks.append(module.register_forward_pre_hook(_Hook(entering)))
                hooks.append(module.register_forward_hook(_Hook(self._leaving), always_call=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str, *, root: bool) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            if root:
                self.inside.clear()
                self.calls.clear()
                self.channels_first = None
            self.inside.append(name)

        return hook

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.inside.pop()
        if isinstance(module, _CHANNELS_FIRST):
            self.channels_first = True
        elif isinstance(module, _CHANNELS_LAST):
            self.channels_first = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if self.inside:
            self.saw(func, args, kwargs or {}, output)
        return output

    def saw(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Handle a torch call inside the model that has just returned."""
        if func in ACTIVATIONS and isinstance(output, Tensor) and output.dim() >= 2:
            layer = self.inside[-1] or "model"
            count = self.calls[layer] = self.calls.get(layer, 0) + 1
            given = args[0] if args else kwargs["input"]
            self.note(layer if count == 1 else f"{layer}#{count}", given, output, self._axis(output))

    def note(self, layer: str, given: Tensor, output: Tensor, axis: int) -> None:
        """Handle the call of an activation function: what went in, what came out, and the axis of the units."""
        with torch.no_grad():
            self.visit(layer, output.detach(), axis)

    def _axis(self, output: Tensor) -> int:
        first = output.dim() > 3 if self.channels_first is None else self.channels_first
        return 1 if output.dim() > 2 and first else output.dim() - 1


class _BackwardWatcher(Watcher):
    """Visits, in the backward pass, the gradient of what went into each activation function."""

    def note(self, layer: str, given: Tensor, output: Tensor, axis: int) -> None:
        """Wait for the gradient. A function in place leaves no tensor that went in; its node has the gradient."""

        def arrived(gradient: Tensor | None) -> None:
            if gradient is not None:
                with torch.no_grad():
                    self.visit(layer, gradient.detach(), axis)

        node: Any = output.grad_fn
        source: Any = given
        if output is given and node is not None:
            node.register_hook(lambda gradients, _: arrived(gradients[0]))
        elif output is not given and given.requires_grad:
            source.register_hook(arrived)


def _ignore(layer: str, value: Tensor, axis: int) -> None:
    """A visitor for gradients that come after the watch was closed."""


class _Hook:
    """A hook that has no effect in a copy of the model, or in a model read back from a file."""

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        if self._call is not None:
            self._call(*arguments)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


def _as_samples(output: Tensor, axis: int) -> Tensor:
    return output.movedim(axis, -1).reshape(-1, output.shape[axis])
