"""A network in training whose weights are cut over the processes of a run (FSDP2)."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import fully_shard

from replastic.errors import UserError
from replastic.parallel import distributed
from replastic.weights.shards import gathered


def shard(model: nn.Module) -> None:
    """Cut the parameters over the processes, in place: those of each block of a list together, and the rest.

    Raises:
        UserError: torchrun did not start this process as one of several.
    """
    if not distributed.is_distributed():
        raise UserError("sharded shares one run among processes: start it with torchrun, or leave it out")
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(model)


def unsharded(model: nn.Module, like: nn.Module) -> nn.Module:
    """A network made alike, given the weights of a sharded one: whole, in every process, all of which call this."""
    like.load_state_dict({name: gathered(value) for name, value in model.state_dict().items()})
    return like
