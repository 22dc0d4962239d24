"""Copies follow a write or are refused by name, and modules are put in place and back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from replastic.errors import UserError
from replastic.weights.change import Change, Proposal, UnitReset
from replastic.weights.followers import PartCopy
from replastic.weights.module_store import ModuleStore
from replastic.weights.writer import write
from support.writing import STAGINGS, Net, assert_same, doubled, state_of, train

# followers


@pytest.mark.parametrize("staging", STAGINGS)
@pytest.mark.parametrize(
    "make", [copy.deepcopy, AveragedModel, lambda net: {k: v.double() for k, v in state_of(net).items()}]
)
def test_followers_get_the_touched_weights_and_keep_the_rest(
    net: Net, make: Callable[[Net], Any], staging: str
) -> None:
    follower = make(net)
    train(net, torch.optim.SGD(net.parameters(), lr=0.1))
    tensors = follower.state_dict() if isinstance(follower, nn.Module) else follower
    average = {k: v.clone() for k, v in tensors.items()}
    outcome = write(ModuleStore(net), doubled(net), followers={"target": follower}, staging=staging)
    prefix = "module." if isinstance(follower, AveragedModel) else ""
    assert torch.equal(tensors[prefix + "mid.weight"], net.mid.weight.to(tensors[prefix + "mid.weight"].dtype))
    assert torch.equal(
        tensors[prefix + "bn.running_mean"], net.bn.running_mean.to(tensors[prefix + "bn.running_mean"].dtype)
    )
    assert torch.equal(tensors[prefix + "mid.bias"], average[prefix + "mid.bias"])
    assert not torch.equal(net.mid.bias.to(average[prefix + "mid.bias"].dtype), average[prefix + "mid.bias"])
    assert outcome.followers == ("target",)
    outcome.undo_()
    assert_same(tensors, average)


def test_followers_that_undo_ties_get_both_copies(net: Net) -> None:
    loose = copy.deepcopy(net)
    loose.head.weight = nn.Parameter(loose.head.weight.detach().clone())
    write(ModuleStore(net), doubled(net, ("table.weight",)), followers={"loose": loose})
    assert torch.equal(loose.head.weight, net.table.weight)
    assert torch.equal(loose.table.weight, net.table.weight)


def test_followers_that_do_not_fit_are_refused_by_name(net: Net) -> None:
    before = state_of(net)
    cases: list[tuple[Any, str]] = [
        ({k: v for k, v in state_of(net).items() if k != "mid.weight"}, r"follower 'ema' has no mid\.weight"),
        ({**state_of(net), "mid.weight": torch.zeros(3, 4)}, r"follower 'ema' has mid\.weight in shape \(3, 4\)"),
        ([net], "follower 'ema' must be a module or a mapping"),
    ]
    for follower, words in cases:
        with pytest.raises(UserError, match=words):
            write(ModuleStore(net), doubled(net), followers={"ema": follower})
    assert_same(net.state_dict(), before)


# modules


def test_modules_are_replaced_and_put_back(net: Net) -> None:
    old, new = net.mid, nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    store = ModuleStore(net)
    outcome = write(store, Change(doubled(net, ("conv.weight",)).proposals, modules={"mid": new}))
    assert net.mid is new
    assert outcome.modules == ("mid",)
    assert "mid.0.weight" in {e.name for e in store.entries()}
    outcome.undo_()
    assert net.mid is old
    assert "mid.weight" in {e.name for e in store.entries()}


def test_an_unknown_module_rolls_back(net: Net) -> None:
    before = state_of(net)
    with pytest.raises(UserError, match="no module 'middle' to replace"):
        write(ModuleStore(net), Change(doubled(net).proposals, modules={"middle": nn.Identity()}))
    assert_same(net.state_dict(), before)


def test_followers_cannot_follow_a_change_of_modules(net: Net) -> None:
    with pytest.raises(UserError, match=r"followers \(ema\) cannot follow a change of modules \(mid\)"):
        write(ModuleStore(net), Change(modules={"mid": nn.Identity()}), followers={"ema": copy.deepcopy(net)})


def test_a_copy_of_a_part_follows_that_part_alone() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"actor": nn.Linear(3, 2), "critic": nn.Linear(3, 2)})
    target = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    proposals = [Proposal(f"{part}.weight", torch.full((2, 3), 7.0)) for part in ("actor", "critic")]
    followers = {"target": PartCopy(target, "critic")}
    outcome = write(ModuleStore(model), Change(proposals), followers=followers)
    assert torch.equal(target.weight, torch.full((2, 3), 7.0))
    assert torch.equal(target.bias, before["bias"])
    outcome.undo_()
    assert torch.equal(target.weight, before["weight"])
    write(ModuleStore(model), Change(proposals[:1]), followers=followers)
    assert torch.equal(target.weight, before["weight"]), "the actor has no place in the critic's target"


def test_a_copy_of_a_part_must_have_its_weights() -> None:
    model = nn.ModuleDict({"critic": nn.Linear(3, 2)})
    with pytest.raises(UserError, match=r"has no critic\.weight"):
        write(
            ModuleStore(model),
            Change([Proposal("critic.weight", torch.zeros(2, 3))]),
            followers={"target": PartCopy({"bias": torch.zeros(2)}, "critic")},
        )


# units


@pytest.mark.parametrize("staging", STAGINGS)
@pytest.mark.parametrize("dim", [0, 1])
def test_of_units_that_are_reset_a_copy_takes_over_just_those(net: Net, dim: int, staging: str) -> None:
    average = copy.deepcopy(net).double()
    with torch.no_grad():
        average.mid.weight.add_(1.0)
    old = average.mid.weight.detach().clone()
    where = (slice(None), [0, 2]) if dim else ([0, 2], slice(None))
    unit = UnitReset("mid.weight", dim, torch.tensor([0, 2]), torch.full((4, 2) if dim else (2, 4), 0.3))
    outcome = write(ModuleStore(net), Change(units=[unit]), followers={"average": average}, staging=staging)
    expected = old.clone()
    expected[where] = net.mid.weight.detach().double()[where]
    assert torch.equal(average.mid.weight, expected)
    outcome.undo_()
    assert torch.equal(average.mid.weight, old)


def test_what_is_added_to_a_weight_is_added_to_its_copy(net: Net) -> None:
    """Beside it, rows that are reset are those of the weight; a weight that is rewritten is copied as a whole."""
    average = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.fill_(2.0)
    added = torch.tensor([0.5, 0.25, 0.0, -1.0])
    change = Change(
        [
            Proposal("mid.bias", net.mid.bias.detach() + added, shift=True),
            Proposal("conv.bias", net.conv.bias.detach() + added),
        ],
        [UnitReset("mid.bias", 0, torch.tensor([1]), torch.tensor([7.0]))],
    )
    outcome = write(ModuleStore(net), change, followers={"average": average})
    assert average.mid.bias.tolist() == pytest.approx([2.5, 7.0, 2.0, 1.0])
    assert torch.equal(average.conv.bias, net.conv.bias)
    outcome.undo_()
    assert average.mid.bias.tolist() == average.conv.bias.tolist() == [2.0] * 4
