"""The Linears, convolutions and norms of one pass: inputs and outputs, as factors of the gradients of their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from replastic.probes._trees import tensors


@dataclass(frozen=True)
class Layer:
    """One call of a Linear or a convolution, in groups; or of a norm, each of whose channels is a group of one by one.

    The gradient of an output of the network in a group's weight is sum_t b_t h_t^T over positions t, where h are the
    inputs that its rows see (`forward`) and b is the gradient in the layer's output (`backward`).
    """

    weight: str | None
    """Name of the trainable weight, None if it is not trained; so for `bias`."""
    bias: str | None
    output: Tensor
    """In its own shape, part of the graph."""
    channels: int
    """Axis of the channels in `output`."""
    groups: int
    fan_in: int
    """Of a group, taps included."""
    seen: Callable[[], Tensor]
    is_matrix: bool = True
    """Whether the weight is a matrix or a kernel; False for the gains of a norm."""

    @property
    def name(self) -> str:
        """Name of the weight, or of the bias if the weight is not trained."""
        return self.weight or self.bias or ""

    @property
    def positions(self) -> int:
        """Tokens of a sequence or places of a map; 1 for a Linear on vectors."""
        return self.output[0].numel() // self.output.shape[self.channels]

    @property
    def fan_out(self) -> int:
        """Of a group."""
        return self.output.shape[self.channels] // self.groups

    def forward(self) -> Tensor:
        """Inputs of a Linear, patches of a convolution, normalised inputs: (samples, groups, fan_in, positions)."""
        return self.seen().reshape(len(self.output), self.groups, self.fan_in, self.positions)

    def backward(self, gradient: Tensor) -> Tensor:
        """A gradient in `output` as (samples, groups, fan_out, positions)."""
        return gradient.movedim(self.channels, 1).reshape(len(gradient), self.groups, self.fan_out, self.positions)


class Layers(TorchFunctionMode):
    """Notes each Linear, convolution and norm with a trainable parameter that runs inside the `with` block.

    `layers()` has those whose parameters are used once and in no other way. What they return is copied, so that an
    operation in place leaves the noted output as it was.

    Args:
        names: Names of the trainable parameters, by identity.
        samples: Samples of the batch, the length of the first axis.
    """

    def __init__(self, names: Mapping[int, str], samples: int) -> None:
        super().__init__()
        self._names = dict(names)
        self._samples = samples
        self._uses: Counter[str] = Counter()
        self._found: list[Layer] = []

    def layers(self) -> list[Layer]:
        """The layers, in the order of their calls."""
        found = self._found
        return [one for one in found if all(n is None or self._uses[n] == 1 for n in (one.weight, one.bias))]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        used = [self._names[id(t)] for t in tensors((args, kwargs)) if id(t) in self._names]
        if not used or not any(True for _ in tensors(out)):
            return out
        self._uses.update(used)
        see = _SEEN.get(getattr(func, "__name__", ""))
        if see is None:
            return out
        layer = see(self, out, *args, **kwargs)
        if layer is None:
            self._uses.update(used)  # used in a way that is not known
            return out
        self._found.append(layer)
        return out.clone()

    def linear(self, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Layer | None:
        """A call of `linear`."""
        if input.dim() < 2 or input.shape[0] != self._samples:
            return None
        seen = partial(_tokens, input.detach())
        names = self._name(weight), self._name(bias)
        return Layer(*names, out, out.dim() - 1, 1, weight.shape[1], seen)

    def conv(
        self,
        out: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Layer | None:
        """A call of `conv1d`, `conv2d` or `conv3d`."""
        if input.dim() != weight.dim() or input.shape[0] != self._samples:
            return None
        seen = partial(unfolded, input.detach(), weight.shape[2:], stride, padding, dilation)
        names = self._name(weight), self._name(bias)
        return Layer(*names, out, 1, groups, weight[0].numel(), seen)

    def batch_norm(
        self,
        out: Tensor,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Layer | None:
        """A call of `batch_norm` with running statistics."""
        if training or running_mean is None or running_var is None or input.shape[0] != self._samples:
            return None
        seen = partial(functional.batch_norm, input.detach(), running_mean, running_var, eps=eps)
        return Layer(self._name(weight), self._name(bias), out, 1, input.shape[1], 1, seen, is_matrix=False)

    def layer_norm(
        self,
        out: Tensor,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Layer | None:
        """A call of `layer_norm` over the last axis."""
        if len(normalized_shape) != 1 or input.dim() < 2 or input.shape[0] != self._samples:
            return None
        seen = partial(_scaled_by_layer_norm, input.detach(), eps)
        names = self._name(weight), self._name(bias)
        return Layer(*names, out, out.dim() - 1, input.shape[-1], 1, seen, is_matrix=False)

    def _name(self, tensor: Tensor | None) -> str | None:
        return self._names.get(id(tensor))


_SEEN: dict[str, Callable[..., Layer | None]] = {
    "linear": Layers.linear,
    "conv1d": Layers.conv,
    "conv2d": Layers.conv,
    "conv3d": Layers.conv,
    "batch_norm": Layers.batch_norm,
    "layer_norm": Layers.layer_norm,
}


def _tokens(x: Tensor) -> Tensor:
    """(samples, ..., fan_in) -> (samples, fan_in, positions)."""
    return x.flatten(1, -2).mT if x.dim() > 2 else x.unsqueeze(-1)


def _scaled_by_layer_norm(x: Tensor, eps: float) -> Tensor:
    """(samples, ..., channels) -> (samples, channels, positions), each position normalised."""
    return functional.layer_norm(x, x.shape[-1:], eps=eps).movedim(-1, 1).flatten(1 if x.dim() == 2 else 2)


def unfolded(x: Tensor, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Tensor:
    """The patches that a convolution sees: (samples, channels, *map) -> (samples, channels * taps, positions)."""
    axes = len(kernel)
    steps, gaps = _each(stride, axes), _each(dilation, axes)
    spans = [gap * (size - 1) for gap, size in zip(gaps, kernel, strict=True)]
    if padding == "same":
        edges = [(span // 2, span - span // 2) for span in spans]
    else:
        edges = [(p, p) for p in _each(0 if padding == "valid" else padding, axes)]
    x = functional.pad(x, [end for pair in reversed(edges) for end in pair])
    for axis, (span, step) in enumerate(zip(spans, steps, strict=True)):
        x = x.unfold(2 + axis, span + 1, step)
    for axis, gap in enumerate(gaps):
        x = x[(slice(None),) * (2 + axes + axis) + (slice(None, None, gap),)]
    maps = tuple(range(2, 2 + axes))
    taps = tuple(range(2 + axes, 2 + 2 * axes))
    return x.permute(0, 1, *taps, *maps).flatten(2 + axes).flatten(1, 1 + axes)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * axes
    return tuple(value) * (axes if len(value) == 1 else 1)
