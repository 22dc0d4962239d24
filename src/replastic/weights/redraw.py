"""A new random draw of a model's weights, made by the model's own modules."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from replastic.errors import UserError
from replastic.seeds import drawing_from


def redraw(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """State dict of a copy of `model` whose modules drew their parameters anew.

    Every module that holds parameters must have `reset_parameters`, as the layers of torch do, or `_reset_parameters`,
    as attention does. Without it the initialisation is unknown. A module is drawn after the modules inside it, as in
    their constructors. The model and the state of the global generators do not change.

    Args:
        model: The model. It is copied once and not changed.
        seed: Seed of the draw.

    Raises:
        UserError: A module holds parameters but has no `reset_parameters`; the message names it.
    """
    duplicate = _without_hooks(model)
    with drawing_from(seed, duplicate):
        for name, module in _inside_out("", duplicate, set()):
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise UserError(
                    f"cannot draw {name or 'the model'} anew: {type(module).__name__} holds parameters but has no "
                    "reset_parameters(); add that method, or pass fresh=<function seed -> state dict>"
                )
    return {name: value.detach() for name, value in duplicate.state_dict().items()}


def _without_hooks(model: nn.Module) -> nn.Module:
    """A copy that does not call, nor copy, what watches the passes of the model."""
    hooks = [
        table
        for module in model.modules()
        for name, table in vars(module).items()
        if name.startswith(("_forward_", "_backward_")) and "hooks" in name
    ]
    return copy.deepcopy(model, {id(table): type(table)() for table in hooks})


def _inside_out(name: str, module: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, after the modules inside it."""
    for child_name, child in module.named_children():
        if child not in seen:
            yield from _inside_out(f"{name}.{child_name}" if name else child_name, child, seen)
    seen.add(module)
    yield name, module
