"""A new random draw of a model's weights, made the way the model's own modules make theirs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from replastic.errors import UserError


def redraw(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """State dict of a copy of `model` whose modules drew their parameters anew.

    Every module that holds parameters must have `reset_parameters`, as the layers of torch do; otherwise nobody but
    the author of the model knows how it is initialised. The model and the global generators are left as they were.

    Args:
        model: Read only; copied once.
        seed: Seed of the draw.

    Raises:
        UserError: A module holds parameters and has no `reset_parameters`; the message names it.
    """
    duplicate = copy.deepcopy(model)
    devices = sorted({p.device.index or 0 for p in duplicate.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for name, module in duplicate.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise UserError(
                    f"cannot draw {name or 'the model'} anew: {type(module).__name__} holds parameters but has no "
                    "reset_parameters(); add that method, or pass fresh=<function seed -> state dict>"
                )
    return {name: value.detach() for name, value in duplicate.state_dict().items()}
