"""The empirical neural tangent kernel of a network on a batch, a sum over layers of products of Gram matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.errors import UserError
from replastic.probes._factors import Layer, Layers
from replastic.probes._rows import Readout, jacobian_rows
from replastic.probes.outputs import OutputFunction, Read

NtkKind = Literal["full", "trace", "sum"]
_BYTES = 8
"""Of a float64."""
_COPIES = 4
"""Kernels in memory at the same time: the sum, one layer's, a product on the way, and the work space of eigenvalues."""


@dataclass(frozen=True)
class LayerKernel:
    """The part of the kernel that comes from the parameters of one layer."""

    kernel: Tensor
    """(n, n), as `Ntk.matrix`."""
    forward: Tensor | None = None
    """(samples, samples): Gram matrix of what comes into the layer, plus 1 for its bias; a Linear on vectors only."""
    backward: Tensor | None = None
    """(n, n): Gram matrix of the gradients in the layer's output. The kernel is the entrywise product of both."""


@dataclass(frozen=True)
class Ntk:
    """A kernel with its eigenvalues.

    For ``kind="full"`` its size n is samples * outputs, the outputs of one sample beside each other; else n = samples.
    """

    matrix: Tensor
    """(n, n)."""
    samples: int
    outputs: int
    kind: NtkKind
    layers: dict[str, LayerKernel] = field(default_factory=dict)
    """By name of the weight, if they were asked for. Parameters outside of Linears, convolutions and norms are together
    under ``rest``."""

    @cached_property
    def eigenvalues(self) -> Tensor:
        """(n,) float64, descending, at least 0."""
        found: Tensor = torch.linalg.eigvalsh(self.matrix.double()).flip(0).clamp_min(0)
        return found

    @property
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue; infinite where the smallest is 0 within rounding."""
        values = self.eigenvalues
        if float(values[-1]) <= self.rounding * float(values[0]):
            return float("inf")
        return float(values[0] / values[-1])

    @property
    def effective_rank(self) -> float:
        """exp(entropy of the eigenvalues divided by their sum), from 1 to n; 0 for a kernel of zeros."""
        return float(linalg.Spectrum(self.eigenvalues).effective_rank())

    @property
    def rounding(self) -> float:
        """Share of the largest eigenvalue below which one cannot be told from 0."""
        return len(self.matrix) * torch.finfo(self.matrix.dtype).eps


def ntk(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    kind: NtkKind = "full",
    samples: int | None = None,
    entries: int | None = None,
    outputs: Read | None = None,
    by_layer: bool = False,
    products: bool = True,
    memory_gb: float = 2.0,
) -> Ntk:
    """The empirical NTK J J^T of the outputs in the trainable parameters, in evaluation mode. Leaves no trace.

    Of Linears and convolutions it takes the product, entry by entry, of a forward and a backward Gram matrix, summed
    over layers: one backward pass for each output. A convolution counts as a Linear on its patches. Batch and layer
    norms are taken in the same pass. Other parameters, such as tied weights and parametrized weights, are
    differentiated sample by sample.

    Args:
        model: The module. Frozen parameters have no part in the kernel.
        batch: The argument of `loss_fn`, or, without one, inputs of the model (the first of a tuple).
        loss_fn: Mean loss of the model on a batch. It shows how the model is called; its value is not used.
        kind: ``full``: of every pair (sample, output), n = samples * outputs. ``trace``: the mean over outputs of the
            kernel of that output alone, n = samples. ``sum``: the kernel of the sum of the outputs, n = samples.
        samples: Taken from the start of the batch; None for all.
        entries: Limit on samples times outputs, for which fewer samples are taken, though never fewer than 2.
        outputs: From what the model returns to (samples, outputs); by default the tensor itself, or its ``logits``.
        by_layer: Also keep the part of each layer; one more kernel in memory for each.
        products: False takes all parameters sample by sample, as a check on the sum over layers.
        memory_gb: Limit on the memory of the computation, in 10^9 bytes, beside the pass of the network.

    Raises:
        UserError: The kernel would not fit; no trainable parameter; the outputs are no tensor (samples, outputs); a
            value is not allowed.

    Reference: Jacot et al. (2018), arXiv 1806.07572; the sum over layers: Rosseau et al. (2026), equations 7 and 8.
    """
    if kind not in get_args(NtkKind):
        raise UserError(f"kind must be one of {', '.join(get_args(NtkKind))}, got {kind!r}")
    if not memory_gb > 0:
        raise UserError(f"memory_gb must be above 0, got {memory_gb!r}")
    f = OutputFunction(model, batch, loss_fn, outputs=outputs, samples=samples, entries=entries)
    readouts = _readouts(f, kind)
    size = f.samples * (f.outputs if kind == "full" else 1)
    budget = _Budget(f, kind, size, memory_gb)
    matrix = torch.zeros(size, size, dtype=f.dtype, device=f.device)
    parts: dict[str, LayerKernel] = {}
    with f.quietly():
        for readout in readouts:
            for name, part in _parts(f, readout, size // f.samples, budget, products):
                matrix += part.kernel
                if by_layer:
                    parts[name] = _sum(parts[name], part) if name in parts else part
    shares = len(readouts)
    scaled = {name: _scaled(part, 1 / shares) for name, part in parts.items()}
    return Ntk(matrix.div_(shares), f.samples, f.outputs, kind, scaled)


def _readouts(f: OutputFunction, kind: NtkKind) -> list[Readout]:
    """The functions of the outputs whose kernels are averaged."""
    if kind == "full":
        return [lambda y: y]
    if kind == "sum":
        return [lambda y: y.sum(1, keepdim=True)]
    return [lambda y, index=index: y[:, index : index + 1] for index in range(f.outputs)]  # type: ignore[misc]


class _Budget:
    """The memory that is left beside the kernel."""

    def __init__(self, f: OutputFunction, kind: NtkKind, size: int, memory_gb: float) -> None:
        self._f, self._kind, self._limit = f, kind, memory_gb * 1e9
        self._kernel = _COPIES * _BYTES * size**2
        self.require(0, "")
        self.free = self._limit - self._kernel

    def require(self, more: float, why: str) -> None:
        """See that so many bytes fit beside the kernel."""
        needed = self._kernel + more
        if needed <= self._limit:
            return
        f = self._f
        fewer = int(f.samples * min((self._limit / needed) ** 0.5, self._limit / needed if more else 1))
        advice = [f"samples={fewer}"] if fewer else []
        advice += ["kind='trace'"] if self._kind == "full" and f.outputs > 1 else []
        raise UserError(
            f"the kernel of {f.samples} samples and {f.outputs} outputs would take {needed / 1e9:.3g} GB{why}, more "
            f"than memory_gb={self._limit / 1e9:g}: pass {' or '.join([*advice, f'memory_gb={_above(needed / 1e9)}'])}"
        )


def _above(gigabytes: float) -> str:
    """At least as many, in two or three digits."""
    digits = 10.0 ** (math.floor(math.log10(gigabytes)) - 1)
    return f"{math.ceil(gigabytes / digits) * digits:.3g}"


def _parts(
    f: OutputFunction, readout: Readout, k: int, budget: _Budget, products: bool
) -> Iterator[tuple[str, LayerKernel]]:
    """The kernel of each layer, and that of all other parameters."""
    layers: list[Layer] = []
    if products and f.independent:
        values, layers = _layers(f, readout)
        for group in _groups(layers, f.samples, k, budget):
            yield from _products(values, group, k, budget)
    covered = {name for layer in layers for name in (layer.weight, layer.bias)}
    rest = [name for name in f.parameters if name not in covered]
    if rest:
        yield "rest", LayerKernel(_rest(f, rest, readout, k, budget))


def _layers(f: OutputFunction, readout: Readout) -> tuple[Tensor, list[Layer]]:
    """One pass, and its Linears and convolutions. Their first axis is that of the samples, as a pass of one shows."""
    leaves = {name: p.detach().requires_grad_() for name, p in f.parameters.items()}
    names = {id(p): name for name, p in leaves.items()}
    alone = Layers(names, 1)
    args, kwargs = f.rows(slice(0, 1))
    with torch.no_grad(), alone:
        f(leaves, args=args, kwargs=kwargs)
    known = {(layer.weight, layer.bias, layer.positions) for layer in alone.layers()}
    together = Layers(names, f.samples)
    with together:
        values = readout(f(leaves))
    found = [layer for layer in together.layers() if (layer.weight, layer.bias, layer.positions) in known]
    return values, [layer for layer in found if layer.output.requires_grad]


def _groups(layers: Sequence[Layer], samples: int, k: int, budget: _Budget) -> Iterator[list[Layer]]:
    """Layers whose gradients fit into half of the free memory together."""
    group: list[Layer] = []
    filled = 0
    for layer in layers:
        signals = _BYTES * samples * k * layer.output[0].numel()
        patches = _BYTES * samples * layer.groups * layer.fan_in * layer.positions
        row = _BYTES * samples * k * layer.fan_in
        budget.require(signals + patches + row, f" with the gradients at {layer.name}")
        if group and filled + signals + patches > budget.free / 2:
            yield group
            group, filled = [], 0
        group.append(layer)
        filled += signals
    if group:
        yield group


def _products(values: Tensor, group: Sequence[Layer], k: int, budget: _Budget) -> Iterator[tuple[str, LayerKernel]]:
    """The kernels of some layers, by one backward pass for each output."""
    signals: list[list[Tensor]] = [[] for _ in group]
    for index in range(k):
        found = torch.autograd.grad(
            values[:, index].sum(),
            [layer.output for layer in group],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for kept, layer, gradient in zip(signals, group, found, strict=True):
            kept.append(layer.backward(gradient))
    for layer, kept in zip(group, signals, strict=True):
        b = torch.stack(kept, dim=1)
        kept.clear()
        if layer.fan_in == layer.fan_out == 1:
            yield layer.name, _on_channels(layer, b)
        else:
            yield layer.name, _on_vectors(layer, b) if layer.positions == 1 else _on_positions(layer, b, budget)


def _on_channels(layer: Layer, b: Tensor) -> LayerKernel:
    """The Gram matrix of the gradients of a norm: sum_t b_ct h_ct in each channel's factor, sum_t b_ct in its bias."""
    b = b[:, :, :, 0].flatten(0, 1)
    h = layer.forward()[:, :, 0].repeat_interleave(len(b) // len(layer.output), 0)
    parts = [(b * h).sum(-1)] if layer.weight is not None else []
    parts += [b.sum(-1)] if layer.bias is not None else []
    gradients = torch.cat(parts, dim=1)
    return LayerKernel(gradients @ gradients.mT)


def _on_vectors(layer: Layer, b: Tensor) -> LayerKernel:
    """K[(n, o), (m, p)] = (h_n . h_m + 1) (b_no . b_mp), summed over groups; b is (samples, k, groups, fan_out, 1)."""
    h = layer.forward()[..., 0]
    samples, k = b.shape[:2]
    kernel = b.new_zeros(samples * k, samples * k)
    for group in range(layer.groups):
        signals = b[:, :, group, :, 0].flatten(0, 1)
        forward = h.new_zeros(samples, samples)
        if layer.weight is not None:
            forward += h[:, group] @ h[:, group].mT
        if layer.bias is not None:
            forward += 1
        backward = signals @ signals.mT
        blocks = backward.view(samples, k, samples, k) * forward[:, None, :, None]
        kernel += blocks.view_as(kernel)
    if layer.groups > 1:
        return LayerKernel(kernel)
    return LayerKernel(kernel, forward, backward)


def _on_positions(layer: Layer, b: Tensor, budget: _Budget) -> LayerKernel:
    """The gradients sum_t b_t h_t^T, some rows of the weight at a time, and their Gram matrix."""
    samples, k = b.shape[:2]
    kernel = b.new_zeros(samples * k, samples * k)
    if layer.bias is not None:
        sums = b.sum(-1).flatten(2).flatten(0, 1)
        kernel += sums @ sums.mT
    if layer.weight is None:
        return LayerKernel(kernel)
    h = layer.forward()
    count = max(1, int(budget.free / 4 / (_BYTES * samples * k * layer.fan_in)))
    for group in range(layer.groups):
        for rows in torch.split(b[:, :, group], count, dim=2):
            gradient = rows.flatten(1, 2) @ h[:, group].mT
            flat = gradient.reshape(samples * k, -1)
            kernel += flat @ flat.mT
    return LayerKernel(kernel)


def _rest(f: OutputFunction, names: Sequence[str], readout: Readout, k: int, budget: _Budget) -> Tensor:
    """J J^T in some parameters, for two blocks of samples at a time."""
    row = _BYTES * k * sum(f.sizes[name] for name in names)
    budget.require(3 * row, " with the gradients of one sample")
    count = min(f.samples, int(budget.free / (3 * row)))
    parts = [slice(start, min(start + count, f.samples)) for start in range(0, f.samples, count)]
    kernel = torch.zeros(f.samples * k, f.samples * k, dtype=f.dtype, device=f.device)
    for i, first in enumerate(parts):
        rows = jacobian_rows(f, names, first, readout).flatten(0, 1)
        here = slice(first.start * k, first.stop * k)
        kernel[here, here] = rows @ rows.mT
        for second in parts[:i]:
            there = slice(second.start * k, second.stop * k)
            kernel[here, there] = rows @ jacobian_rows(f, names, second, readout).flatten(0, 1).mT
            kernel[there, here] = kernel[here, there].mT
    return kernel


def _sum(first: LayerKernel, second: LayerKernel) -> LayerKernel:
    backward = None if first.backward is None or second.backward is None else first.backward + second.backward
    return LayerKernel(first.kernel + second.kernel, first.forward, backward)


def _scaled(part: LayerKernel, factor: float) -> LayerKernel:
    backward = None if part.backward is None else part.backward * factor
    return LayerKernel(part.kernel * factor, part.forward, backward)
