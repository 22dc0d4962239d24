"""Singular values of the Jacobian of each block of a network, from what comes into the block to what it gives out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError, did_you_mean
from replastic.probes.jacobian import JacobianSpectrum, jacobian_bytes, rows_of
from replastic.probes.outputs import OutputFunction, Read


@dataclass(frozen=True)
class LayerJacobians:
    """Singular values of the blocks, and why other blocks have none."""

    spectra: Mapping[str, JacobianSpectrum]
    """By name of the block, in the order of the model."""
    skipped: Mapping[str, str]
    """Names of blocks, with the reason."""


def layer_jacobians(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    blocks: Sequence[str] = (),
    samples: int | None = None,
    outputs: Read | None = None,
    memory_gb: float = 2.0,
) -> LayerJacobians:
    """Singular values of the Jacobian of each block in its own input, sample by sample. Leaves no trace.

    A block takes one pass of the network in evaluation mode, and one backward pass of its own for each of its outputs.
    The sides of its Jacobian are all the numbers of one sample that come in and go out. A block on maps of an image can
    be too large: it is skipped, with its size.

    Args:
        model: The module.
        batch: The argument of `loss_fn`, or, without one, inputs of the model (the first of a tuple).
        loss_fn: Mean loss of the model on a batch. It shows how the model is called; its value is not used.
        blocks: Names of modules, as in `named_modules`. By default the children of the model, or of its only child; the
            entries of a list of modules count as children. The same for a child that takes or returns something else
            than one tensor of real numbers, such as the trunk of a transformer.
        samples: Taken from the start of the batch; None for all.
        outputs: From what the model returns to (samples, outputs); by default the tensor itself, or its ``logits``.
        memory_gb: Limit on the memory of the Jacobians of a block, in 10^9 bytes.

    Raises:
        UserError: No module has such a name; samples depend on each other; the outputs are no tensor
            (samples, outputs); the model has no trainable parameter.

    Reference: dynamical isometry asks them all to be near 1: Rosseau et al. (2026), section 4.
    """
    modules = dict(model.named_modules())
    for name in blocks:
        if not name or name not in modules:
            raise UserError(f"the model has no block {name!r}{did_you_mean(name, modules)}")
    f = OutputFunction(model, batch, loss_fn, outputs=outputs, samples=samples)
    f.require_independent()
    chosen = {name: modules[name] for name in blocks} if blocks else _blocks(model)
    spectra: dict[str, JacobianSpectrum] = {}
    skipped: dict[str, str] = {}
    with f.quietly():
        waiting = list(chosen.items())
        while waiting:
            name, module = waiting.pop(0)
            try:
                spectra[name] = _spectrum(f, module, memory_gb)
            except _OddError as none:
                inner = [] if blocks else list(_unpacked(module, f"{name}."))
                waiting = inner + waiting
                if not inner:
                    skipped[name] = str(none)
            except _NoneError as none:
                skipped[name] = str(none)
    return LayerJacobians(spectra, skipped)


class _NoneError(Exception):
    """A block that has no Jacobian, and the reason."""


class _OddError(_NoneError):
    """The same for a block that leads from or to something else than one tensor; its parts may have one."""


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The children of the model by name, or those of its only child."""
    prefix, outer = "", model
    while len(only := list(outer.named_children())) == 1 and list(only[0][1].children()):
        prefix, outer = f"{prefix}{only[0][0]}.", only[0][1]
    return dict(_unpacked(outer, prefix))


def _unpacked(outer: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children by name, with the entries of a list in its place."""
    for name, child in outer.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _unpacked(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _spectrum(f: OutputFunction, module: nn.Module, memory_gb: float) -> JacobianSpectrum:
    """The singular values of a block, in parts of the samples that fit."""
    given, made = _through(f, module, slice(0, 1))
    inputs, outputs = given[0].numel(), made[0].numel()
    needed = jacobian_bytes(outputs, inputs)
    count = int(memory_gb * 1e9 / needed)
    if not count:
        raise _NoneError(f"{outputs} outputs by {inputs} inputs take {needed / 1e9:.3g} GB, more than {memory_gb:g}")
    found = []
    for start in range(0, f.samples, count):
        given, made = _through(f, module, slice(start, start + count))
        found.append(torch.linalg.svdvals(rows_of(made.reshape(len(made), -1), given).double()))
    return JacobianSpectrum(torch.cat(found), outputs, inputs)


def _through(f: OutputFunction, module: nn.Module, part: slice) -> tuple[Tensor, Tensor]:
    """Input and output of a block in a pass of some samples. The graph of the output begins at the input."""
    seen: list[tuple[Tensor, Tensor]] = []
    leaves: list[Tensor] = []
    calls: list[Any] = []

    def entering(block: nn.Module, args: Any) -> Any:
        calls.append(args)
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return None
        leaves.append(args[0].detach().clone().requires_grad_())
        return leaves[-1].clone(), *args[1:]

    def leaving(block: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not leaves:
            return None
        seen.append((leaves[-1], output))
        return output.clone()

    hooks = module.register_forward_pre_hook(entering), module.register_forward_hook(leaving)
    args, kwargs = f.rows(part)
    try:
        f(args=args, kwargs=kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    if len(calls) != 1:
        raise _NoneError(f"it runs {len(calls)} times in a pass")
    samples = len(range(*part.indices(f.samples)))
    if len(seen) != 1 or any(not t.dim() or len(t) != samples for t in seen[0]):
        raise _OddError("it does not lead from one tensor of real numbers, a row for each sample, to another")
    return seen[0]
