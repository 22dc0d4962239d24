"""Rows of the Jacobian of the outputs in some parameters: by torch.func, or by one backward pass for each row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from replastic.errors import is_out_of_memory
from replastic.probes._trees import mapped, tensors
from replastic.probes.outputs import OutputFunction

Readout = Callable[[Tensor], Tensor]
"""(samples, outputs) -> (samples, k), sample by sample."""


def jacobian_rows(f: OutputFunction, names: Sequence[str], part: slice, readout: Readout) -> Tensor:
    """The Jacobian of readout(f) in some parameters: (samples of the part, k, entries of the parameters).

    Networks whose samples depend on each other, and those that `torch.func` refuses (operations in place, kernels
    without a batching rule, values that decide what is run), take one backward pass for each row.
    """
    if f.independent:
        try:
            return _vectorised(f, names, part, readout)
        except Exception as error:
            if is_out_of_memory(error):
                raise
    return _one_by_one(f, names, part, readout)


def _vectorised(f: OutputFunction, names: Sequence[str], part: slice, readout: Readout) -> Tensor:
    count = len(range(*part.indices(f.samples)))
    moving = [t for t in tensors((f.args, f.kwargs)) if t.dim() and len(t) == f.samples]
    pieces = [t[part] for t in moving]
    places = {id(t) for t in moving}

    def one(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
        coming = iter(sample)

        def fill(tensor: Tensor) -> Tensor:
            return next(coming).unsqueeze(0) if id(tensor) in places else tensor

        return readout(f(parameters, args=mapped(fill, f.args), kwargs=mapped(fill, f.kwargs)))[0]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*performance drop because we have not yet implemented.*")
        found = vmap(jacrev(one), in_dims=(None, *[0] * len(pieces)))({n: f.parameters[n] for n in names}, *pieces)
    return torch.cat([found[name].detach().reshape(count, found[name].shape[1], -1) for name in names], dim=2)


def _one_by_one(f: OutputFunction, names: Sequence[str], part: slice, readout: Readout) -> Tensor:
    leaves = {name: f.parameters[name].detach().requires_grad_() for name in names}
    found = []
    whole = None if f.independent else readout(f(leaves))
    for index in range(*part.indices(f.samples)):
        if whole is None:
            args, kwargs = f.rows(slice(index, index + 1))
            values = readout(f(leaves, args=args, kwargs=kwargs))[0]
        else:
            values = whole[index]
        rows = [
            torch.autograd.grad(
                value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for value in values
        ]
        found.append(torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in rows]))
    return torch.stack(found)
