"""Sharded weights in a group of one process, and how a group cuts them; several: tests/integration/test_sharded.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

import replastic
from replastic.errors import UserError
from replastic.parallel.owners import share
from replastic.weights import shards
from replastic.weights.module_store import ModuleStore


@pytest.fixture
def one_of_one() -> Iterator[None]:
    """A group with this process alone in it."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))


class Cut(shards.Sharding):
    """A cut among so many processes, without these."""

    @property
    def size(self) -> int:
        return int(self.group.size)


@given(length=st.integers(0, 40), size=st.integers(1, 9))
def test_processes_hold_what_torch_chunk_gives(length: int, size: int) -> None:
    numbers = torch.arange(length)
    expected = [part.tolist() for part in torch.chunk(numbers, size)] if length else []
    expected += [[]] * (size - len(expected))
    cut = Cut(SimpleNamespace(size=size), 0)
    assert [numbers[cut.rows(length, place)].tolist() for place in range(size)] == expected
    assert sum(cut.shape((length, 3), place)[0] for place in range(size)) == length


@given(work=st.lists(st.integers(0, 50), max_size=20), owners=st.integers(1, 6))
def test_work_is_shared_out_within_the_largest_piece(work: list[int], owners: int) -> None:
    shares = share(work, owners)
    assert sorted(k for own in shares for k in own) == list(range(len(work)))
    loads = [sum(work[k] for k in own) for own in shares]
    assert max(loads) - min(loads) <= max(work, default=0)


@pytest.mark.parametrize("solver", ["exact", "newton_schulz"])
def test_a_sharded_model_is_rewritten_like_a_whole_one(one_of_one: None, solver: str) -> None:
    whole, model = network(), network()
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters())
    old = copy.deepcopy(whole.state_dict())
    outcome = replastic.fire_(model, optimizer, solver=solver)
    expected = replastic.fire_(whole, solver=solver)
    assert outcome.written == expected.written
    assert [layer.sfe for layer in outcome.layers] == pytest.approx([layer.sfe for layer in expected.layers], rel=1e-5)
    for parameter, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(shards.local(parameter), other, atol=1e-6)
    outcome.undo_()
    for name, parameter in model.named_parameters():
        assert torch.equal(shards.local(parameter), old[name])


def test_parameters_that_a_pass_gathered_are_sharded_again(one_of_one: None) -> None:
    model = network()
    fully_shard(model)
    with torch.no_grad():
        model(torch.zeros(2, 6))
    assert not shards.is_sharded(model[0].weight)
    entries = ModuleStore(model).entries()
    assert shards.is_sharded(model[0].weight)
    assert all(entry.sharded for entry in entries)


def test_a_whole_value_gives_each_process_its_part(one_of_one: None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    whole = torch.arange(12.0).view(4, 3)
    like: Any = distribute_tensor(torch.zeros(4, 3), mesh, [Shard(1)])
    assert torch.equal(shards.own_part(whole, like), whole)
    assert torch.equal(shards.whole_of(whole, like).full_tensor(), whole)  # type: ignore[attr-defined]
    assert shards.sharding(like) is not None
    assert shards.sharding(whole) is None
    assert shards.alike(like, like)
    assert not shards.alike(like, whole)
    assert not shards.alike(like, distribute_tensor(whole, mesh, [Shard(0)]))


def test_other_ways_of_sharding_are_refused(one_of_one: None) -> None:
    mesh = init_device_mesh("cpu", (1, 1))
    model = network()
    for placed, problem in (
        ([Shard(0), Shard(1)], "not along one axis alone"),
        ([Replicate(), Replicate()], "not along one axis alone"),
        ([Replicate(), Shard(0)], ""),
    ):
        model[0].weight = nn.Parameter(distribute_tensor(network()[0].weight.detach(), mesh, placed))
        refusal = ModuleStore(model).entries()[0].refusal
        assert problem in refusal
        assert bool(refusal) == bool(problem)


def test_methods_and_measures_that_need_whole_weights_say_so(one_of_one: None) -> None:
    model = network()
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(UserError, match=r"redo needs whole weights while it works, and 0\.weight is sharded"):
        replastic.during("redo", model, optimizer, batches=[torch.zeros(2, 6)], loss_fn=lambda m, x: m(x).mean())
    with pytest.raises(UserError, match="is sharded over processes"):
        replastic.diagnose(model)
    with pytest.raises(UserError, match="of the model itself"):
        replastic.fire_(model, init=model.state_dict(), scale="init")
