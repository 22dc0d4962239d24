"""What `undo_` says of all that has changed since the write and is not put back."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from replastic.weights import witness
from replastic.weights.change import Change, Proposal
from replastic.weights.module_store import ModuleStore
from replastic.weights.outcome import Outcome
from replastic.weights.writer import write
from support.writing import Net, assert_same, doubled, state_of, train

WRITTEN = ("conv.weight", "mid.weight")


def undone(outcome: Outcome) -> str:
    """What the undo says; empty if it says nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome.undo_()
    assert len(caught) <= 1
    assert all(w.filename == __file__ for w in caught), "it points at who calls undo_"
    return str(caught[0].message) if caught else ""


def test_at_once_there_is_nothing_to_say(net: Net) -> None:
    before, optimizer = state_of(net), torch.optim.Adam(net.parameters())
    first = write(ModuleStore(net), doubled(net), optimizer=optimizer)
    second = write(ModuleStore(net), doubled(net, ("mid.bias",)), optimizer=optimizer, policy="keep")
    assert undone(second) == ""
    assert undone(first) == ""
    assert_same(net.state_dict(), before)


def test_parameters_that_were_replaced_get_the_old_values(net: Net) -> None:
    """`load_state_dict(assign=True)` puts other objects in place; the optimizer then trains none of the model's."""
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    before = state_of(net)
    outcome = write(ModuleStore(net), doubled(net, WRITTEN), optimizer=optimizer)
    old = net.mid.weight
    net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)
    assert net.mid.weight is not old
    said = undone(outcome)
    assert_same(net.state_dict(), before)
    assert "the optimizer's parameters, as the model has other ones since: make a new optimizer" in said
    assert "changed since" not in said


def test_without_an_optimizer_replaced_parameters_are_no_matter(net: Net) -> None:
    before = state_of(net)
    outcome = write(ModuleStore(net), doubled(net))
    net.load_state_dict({k: v.clone() for k, v in net.state_dict().items()}, assign=True)
    assert undone(outcome) == ""
    assert_same(net.state_dict(), before)


def test_weights_behind_a_new_module_are_found_again(net: Net) -> None:
    before, mid = net.mid.weight.detach().clone(), net.mid
    outcome = write(ModuleStore(net), doubled(net, WRITTEN))
    net.mid = nn.Sequential(mid, nn.Linear(4, 4))  # type: ignore[assignment]
    said = undone(outcome)
    assert torch.equal(mid.weight, before)
    assert "parameters that are gone (mid.weight, mid.bias)" in said
    assert "parameters that were added (mid.0.weight, mid.0.bias, mid.1.weight and 1 more)" in said


def test_a_weight_that_is_gone_is_named(net: Net) -> None:
    before = state_of(net)
    outcome = write(ModuleStore(net), doubled(net, WRITTEN))
    net.mid = nn.Linear(4, 5)
    said = undone(outcome)
    assert "mid.weight, which is no longer in the model" in said
    assert torch.equal(net.conv.weight, before["conv.weight"])


def test_a_module_of_the_write_itself_is_no_change(net: Net) -> None:
    new = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    outcome = write(ModuleStore(net), Change(doubled(net, ("conv.weight",)).proposals, modules={"mid": new}))
    assert undone(outcome) == ""


def test_statistics_and_trained_weights_are_named(net: Net) -> None:
    optimizer = torch.optim.SGD([net.mid.bias, net.conv.weight, net.mid.weight], lr=0.1, momentum=0.9)
    train(net, optimizer)
    outcome = write(ModuleStore(net), doubled(net, WRITTEN), optimizer=optimizer)
    train(net, optimizer)
    said = undone(outcome)
    assert "weights that changed since (bn.running_mean, bn.running_var, bn.num_batches_tracked and 1 more)" in said
    assert "the optimizer's state of other parameters" in said
    assert "keep copies of model.state_dict() and optimizer.state_dict()" in said


def test_what_is_kept_is_named_when_the_optimizer_has_stepped(net: Net) -> None:
    net.bn.eval()
    optimizer = torch.optim.SGD([net.mid.weight], lr=0.1, momentum=0.9)
    train(net, optimizer)
    for policy, words in (("keep", "the optimizer's state"), ("reset_touched", "")):
        outcome = write(ModuleStore(net), doubled(net, ("mid.weight",)), optimizer=optimizer, policy=policy)  # type: ignore[arg-type]
        train(net, optimizer)
        assert words in undone(outcome)


def test_sparse_and_data_writes_are_seen(net: Net) -> None:
    outcome = write(ModuleStore(net), doubled(net, WRITTEN))
    net.table.weight.data[5, 3] += 1e-3
    assert "(table.weight, head.weight)" in undone(outcome)


def test_followers_that_were_replaced_get_the_old_values(net: Net) -> None:
    target = copy.deepcopy(net)
    before = state_of(target)
    outcome = write(ModuleStore(net), doubled(net), followers={"target": target})
    target.load_state_dict({k: v.clone() for k, v in target.state_dict().items()}, assign=True)
    assert undone(outcome) == ""
    assert_same(target.state_dict(), before)
    table = state_of(net)
    outcome = write(ModuleStore(net), doubled(net), followers={"table": table})
    del table["mid.weight"]
    assert "mid.weight of follower 'table', which is gone" in undone(outcome)


def test_state_that_was_loaded_anew_goes_back(net: Net) -> None:
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    held = copy.deepcopy(optimizer.state_dict()["state"])
    place = [id(p) for p in net.parameters()].index(id(net.mid.weight))
    outcome = write(ModuleStore(net), doubled(net, WRITTEN), optimizer=optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    undone(outcome)
    assert_same(optimizer.state[net.mid.weight], held[place])


def test_numbers_of_every_kind_have_checksums() -> None:
    model = nn.Module()
    model.mid = nn.Linear(2, 2)
    for name, value in {
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(3),
        "short": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.empty(0),
        "nan": torch.tensor(float("nan")),
        "waves": torch.ones(2, dtype=torch.complex64),
    }.items():
        model.register_buffer(name, value)
    outcome = write(ModuleStore(model), Change([Proposal("mid.weight", torch.eye(2))]))
    model.get_buffer("flags")[1] = True
    assert "(flags)" in undone(outcome)


@pytest.mark.parametrize("shape", [(3, 70_000), (768, 192), (2**21,), (5, 3, 300, 300), (64, 64)])
def test_a_checksum_copies_a_small_part_at_a_time(shape: tuple[int, ...]) -> None:
    """A reduction in float64 would copy a tensor of float32 as a whole, at twice its size."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).transpose(0, -1)
    parts = witness._parts(tensor)
    assert sum(part.numel() for part in parts) == tensor.numel()
    assert all(part.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for part in parts)
    assert max(part.numel() for part in parts) <= max(2**15, tensor.numel() // 64)
    assert len(parts) <= 128
    total, norm = witness._checksum(tensor).tolist()
    assert total == pytest.approx(float(tensor.double().sum()), rel=1e-12)
    assert norm == pytest.approx(float(tensor.double().norm()), rel=1e-12)
