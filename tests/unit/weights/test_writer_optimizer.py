"""What a write does to the optimizer's memory: of rewritten weights, and of the rows of replaced units."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.weights.change import Change, Proposal, UnitReset
from replastic.weights.module_store import ModuleStore
from replastic.weights.writer import write
from support.writing import Net, assert_same, doubled, moments, state_of, train

# the optimizer


def test_reset_touched_forgets_just_the_touched(net: Net) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    train(net, optimizer)
    groups = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
    kept = moments(optimizer, net.mid.bias)
    outcome = write(ModuleStore(net), doubled(net), optimizer=optimizer)
    for touched in (net.conv.weight, net.mid.weight, net.table.weight):
        assert touched not in optimizer.state
    assert_same(moments(optimizer, net.mid.bias), kept)
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups
    assert "dropped" in outcome.optimizer
    train(net, optimizer)
    assert optimizer.state[net.mid.weight]["step"] == 2
    assert optimizer.state[net.mid.bias]["step"] == 4


@pytest.mark.parametrize(("policy", "reset", "left"), [("keep", False, 7), ("reset_all", False, 0), ("keep", True, 0)])
def test_other_policies(net: Net, policy: Any, reset: bool, left: int) -> None:
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    held = moments(optimizer, net.mid.weight)
    change = Change(doubled(net).proposals, reset_optimizer=reset)
    outcome = write(ModuleStore(net), change, optimizer=optimizer, policy=policy)
    assert len(optimizer.state) == left
    outcome.undo_()
    assert len(optimizer.state) == 7
    assert_same(moments(optimizer, net.mid.weight), held)


def test_several_optimizers(net: Net) -> None:
    first = torch.optim.SGD([net.conv.weight, net.conv.bias], lr=0.1, momentum=0.9)
    second = torch.optim.Adam([p for n, p in net.named_parameters() if not n.startswith("conv")])
    train(net, first)
    train(net, second)
    write(ModuleStore(net), doubled(net), optimizer=[first, second])
    assert net.conv.weight not in first.state
    assert net.conv.bias in first.state
    assert net.mid.weight not in second.state


def test_an_optimizer_of_something_else_is_refused_by_name(net: Net) -> None:
    before = state_of(net)
    others = [torch.optim.Adam(Net().parameters()), torch.optim.Adam(net.mid.parameters())]
    for other in others:
        with pytest.raises(UserError, match=r"does not hold conv\.weight: pass the optimizer of this very model"):
            write(ModuleStore(net), doubled(net), optimizer=other)
    assert_same(net.state_dict(), before)


def test_weights_that_are_not_trained_need_no_optimizer(net: Net) -> None:
    net.mid.requires_grad_(False)
    before = net.mid.weight.clone()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    write(ModuleStore(net), doubled(net), optimizer=optimizer)
    assert torch.equal(net.mid.weight, before * 2)


def test_fp32_masters_are_refused_until_they_follow(net: Net) -> None:
    net = net.bfloat16()
    masters = {n: nn.Parameter(p.detach().float()) for n, p in net.named_parameters()}
    optimizer = torch.optim.Adam(masters.values())
    for master in masters.values():
        master.grad = torch.ones_like(master)
    optimizer.step()
    names = ("conv.weight", "mid.weight")
    with pytest.raises(UserError, match=r"does not hold conv\.weight.*fp32 copies.*followers="):
        write(ModuleStore(net), doubled(net, names), optimizer=optimizer)
    outcome = write(ModuleStore(net), doubled(net, names), optimizer=optimizer, followers={"masters": masters})
    assert torch.equal(masters["mid.weight"], net.mid.weight.float())
    assert masters["mid.weight"] not in optimizer.state
    assert masters["mid.bias"] in optimizer.state
    outcome.undo_()
    assert masters["mid.weight"] in optimizer.state


def test_dropping_the_state_needs_an_optimizer(net: Net) -> None:
    with pytest.raises(UserError, match="pass optimizer="):
        write(ModuleStore(net), Change(reset_optimizer=True))


# units


@pytest.mark.parametrize("policy", ["keep", "reset_touched"])
def test_units_clear_just_their_rows(net: Net, policy: Any) -> None:
    optimizer = torch.optim.Adam(net.parameters(), amsgrad=True)
    train(net, optimizer)
    before, held = state_of(net), moments(optimizer, net.mid.weight)
    rows = UnitReset("mid.weight", 0, torch.tensor([2, 0]), torch.arange(8.0).reshape(2, 4))
    columns = UnitReset("mid.weight", 1, torch.tensor([3]), torch.zeros(4, 1))
    outcome = write(ModuleStore(net), Change(units=[rows, columns]), optimizer=optimizer, policy=policy)
    expected = before["mid.weight"].clone()
    expected[2], expected[0] = torch.arange(4.0), torch.arange(4.0, 8.0)
    expected[:, 3] = 0
    assert torch.equal(net.mid.weight, expected)
    state = optimizer.state[net.mid.weight]
    assert state["step"] == 2
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        cleared = held[key].clone()
        cleared[[0, 2]] = 0
        cleared[:, 3] = 0
        assert held[key][1, 1] != 0
        assert torch.equal(state[key], cleared)
    assert "rows of replaced units cleared" in outcome.optimizer
    outcome.undo_()
    assert_same(net.state_dict(), before)
    assert_same(moments(optimizer, net.mid.weight), held)


def test_units_of_a_weight_that_is_rewritten_come_on_top(net: Net) -> None:
    before = net.mid.weight.detach().clone()
    proposed = before * 2
    unit = UnitReset("mid.weight", 0, torch.tensor([1]), torch.ones(1, 4))
    write(ModuleStore(net), Change([Proposal("mid.weight", proposed)], units=[unit]))
    assert torch.equal(net.mid.weight[1], torch.ones(4))
    assert torch.equal(net.mid.weight[[0, 2, 3]], before[[0, 2, 3]] * 2)
    assert torch.equal(proposed, before * 2), "the proposed tensor was changed"


@pytest.mark.parametrize(
    ("dim", "index", "values"), [(0, [4], torch.ones(1, 4)), (2, [0], torch.ones(1, 4)), (0, [0], torch.ones(2, 4))]
)
def test_units_that_do_not_fit(net: Net, dim: int, index: list[int], values: Tensor) -> None:
    before = state_of(net)
    with pytest.raises(UserError, match=r"mid\.weight: cannot reset 1 units along axis"):
        write(ModuleStore(net), Change(units=[UnitReset("mid.weight", dim, torch.tensor(index), values)]))
    assert_same(net.state_dict(), before)
