"""A tiny GPT in shards beside a whole one, and what compares the two; for `sharded_ranks`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from replastic.errors import UserError
from replastic.networks.gpt import Gpt

CLOSE = 1e-5
WORDS, BLOCK = 13, 4


def gpt(*, bias: bool = False, sharded: bool = False, seed: int = 0) -> Any:
    """Width 6: with two processes 18 rows of q, k, v are cut at 9, inside k; with three 4 positions leave no row."""
    torch.manual_seed(seed)
    model = Gpt(depth=2, heads=2, dim=6, bias=bias).module((BLOCK,), WORDS)
    with torch.no_grad():
        for parameter in model.parameters():  # far from orthonormal, biases and norms too
            parameter.add_(0.3 * torch.randn(parameter.shape))
    if sharded:
        shard(model)
    return model


def shard(model: Any, **options: Any) -> None:
    for block in model.transformer["h"]:
        fully_shard(block, **options)
    fully_shard(model, **options)


def tokens(seed: int) -> Tensor:
    return torch.randint(WORDS, (2, BLOCK + 1), generator=torch.Generator().manual_seed(seed))


def loss_fn(model: nn.Module, batch: Tensor) -> Tensor:
    return functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One step on the same batch in every process, so that means over processes change nothing."""
    optimizer.zero_grad()
    loss_fn(model, tokens(seed)).backward()
    optimizer.step()


def full(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
    return whole.clone()


def weights(model: nn.Module) -> dict[str, Tensor]:
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return {name: full(parameter) for name, parameter in model.named_parameters()}


def same(mine: dict[str, Tensor], other: dict[str, Tensor], close: float = CLOSE) -> None:
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert float((value - other[name]).abs().max()) <= close, name


def same_outcomes(sharded: Any, whole: Any) -> None:
    """Numbers of every layer: those of the whole model, and to the bit the same in all processes."""
    assert [layer.label for layer in sharded.layers] == [layer.label for layer in whole.layers]
    assert sharded.written == whole.written
    assert sharded.skipped == whole.skipped
    for one, other in zip(sharded.layers, whole.layers, strict=True):
        for field in ("sfe", "normalised_sfe", "norm_before", "norm_after"):
            a, b = getattr(one, field), getattr(other, field)
            assert abs(a - b) <= CLOSE * max(1.0, abs(b)), (one.label, field, a, b)
        assert one.facts.keys() == other.facts.keys()
        for name, fact in one.facts.items():
            if isinstance(fact, float):
                assert abs(fact - other.facts[name]) <= CLOSE, (one.label, name)
            else:
                assert fact == other.facts[name]
    everywhere: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, repr(sharded.layers))
    assert len(set(everywhere)) == 1


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name} {key}": full(value)
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def pair(*, bias: bool = False) -> list[tuple[Any, torch.optim.Optimizer]]:
    """A whole model and a sharded one after two equal steps each."""
    made = []
    for sharded in (False, True):
        model = gpt(bias=bias, sharded=sharded)
        # The gradient of the biases of k is rounding alone, and a small eps would make steps of it.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
        for seed in range(2):
            step(model, optimizer, seed)
        made.append((model, optimizer))
    return made


class Counted(TorchDispatchMode):
    """The collectives of a call in this process, by name, and the numbers of each all-reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.reduced: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.calls[func._schema.name.partition("::")[2]] += 1
            if "allreduce" in func._schema.name:
                self.reduced.append(sum(t.numel() for t in args[0]))
        return func(*args, **(kwargs or {}))


def assert_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        call()
