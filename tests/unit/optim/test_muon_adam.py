"""Muon and Adam as one optimizer, against torch's two on plain parameters."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.optim import MuonAdam
from replastic.weights.optimizer_state import OptimizerState

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(layout: torch.memory_format) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    kernel = drawn(6, 4, 3, 3, seed=1).to(memory_format=layout)
    matrices = [nn.Parameter(drawn(5, 3)), nn.Parameter(kernel), nn.Parameter(drawn(4, 2, 3, seed=2))]
    return matrices, [nn.Parameter(drawn(5, seed=3)), nn.Parameter(drawn(1, 2, 3, seed=4))]


def step(optimizer: torch.optim.Optimizer, owned: list[nn.Parameter], number: int) -> None:
    for index, parameter in enumerate(owned):
        parameter.grad = drawn(*parameter.shape, seed=100 * number + index)
    optimizer.step()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_steps_as_torchs_two_do_on_plain_matrices(layout: torch.memory_format) -> None:
    matrices, others = parameters(layout)
    plain = [nn.Parameter(p.detach().contiguous().flatten(1).clone()) for p in matrices]
    beside = [nn.Parameter(p.detach().clone()) for p in others]
    joint = MuonAdam(matrices, others, lr=0.02, momentum=0.9, adam_lr=3e-3)
    muon = torch.optim.Muon(plain, lr=0.02, momentum=0.9, weight_decay=0.0)
    adam = torch.optim.Adam(beside, lr=3e-3, betas=(0.9, 0.95))
    for number in range(4):
        gradients = [drawn(*p.shape, seed=10 * number + i) for i, p in enumerate((*matrices, *others))]
        for parameter, gradient in zip((*matrices, *others), gradients, strict=True):
            parameter.grad = gradient.clone()
        for twin, gradient in zip((*plain, *beside), gradients, strict=True):
            twin.grad = gradient.reshape(twin.shape).clone()
        joint.step()
        muon.step()
        adam.step()
    for parameter, twin in zip(matrices, plain, strict=True):
        # torch orthogonalises in bfloat16; the order of a kernel's columns in memory changes its rounding.
        close = {"rtol": 0.0, "atol": 0.0 if parameter.is_contiguous() else 2e-3}
        torch.testing.assert_close(parameter.detach().flatten(1), twin.detach(), **close)
    for parameter, twin in zip(others, beside, strict=True):
        torch.testing.assert_close(parameter.detach(), twin.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_and_state_keep_their_shape_and_memory(layout: torch.memory_format) -> None:
    matrices, others = parameters(layout)
    before = [(p.data_ptr(), p.stride()) for p in (*matrices, *others)]
    joint = MuonAdam(matrices, others)
    step(joint, [*matrices, *others], 0)
    assert [(p.data_ptr(), p.stride()) for p in (*matrices, *others)] == before
    assert set(joint.state) == {*matrices, *others}
    for parameter in matrices:
        assert joint.state[parameter]["momentum_buffer"].stride() == parameter.stride()
    assert [g["lr"] for g in joint.param_groups] == [1e-3, 1e-2]


def test_a_rate_of_zero_moves_nothing_and_each_group_has_its_own() -> None:
    for stopped, moves in ((0, 1), (1, 0)):
        matrices, others = parameters(torch.contiguous_format)
        joint = MuonAdam(matrices, others)
        joint.param_groups[stopped]["lr"] = 0.0
        before = [[p.detach().clone() for p in group["params"]] for group in joint.param_groups]
        step(joint, [*matrices, *others], 0)
        after = [group["params"] for group in joint.param_groups]
        assert all(torch.equal(a, b) for a, b in zip(after[stopped], before[stopped], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(after[moves], before[moves], strict=True))


def interrupted(keep: Callable[[MuonAdam, MuonAdam], None]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters after four steps of one optimizer, and of one that another takes over after two."""
    ends = []
    for stop in (False, True):
        matrices, others = parameters(torch.contiguous_format)
        joint, owned = MuonAdam(matrices, others), [*matrices, *others]
        for number in range(4):
            if stop and number == 2:
                again = MuonAdam(matrices, others)
                keep(joint, again)
                joint = again
            step(joint, owned, number)
        ends.append([p.detach().clone() for p in owned])
    return ends[0], ends[1]


def test_state_dict_and_state_by_parameter_take_over() -> None:
    def by_parameter(old: MuonAdam, new: MuonAdam) -> None:
        for parameter, state in old.state.items():
            new.state[parameter] = {k: v.clone() for k, v in state.items()}

    for keep in (by_parameter, lambda old, new: new.load_state_dict(old.state_dict())):
        whole, parted = interrupted(keep)
        assert all(torch.equal(a, b) for a, b in zip(whole, parted, strict=True))
    whole, parted = interrupted(lambda old, new: None)
    assert not torch.equal(whole[0], parted[0])


def saved_and_loaded(optimizer: MuonAdam) -> MuonAdam:
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_a_copy_goes_on_by_itself(copied: Callable[[MuonAdam], MuonAdam]) -> None:
    matrices, others = parameters(torch.contiguous_format)
    joint = MuonAdam(matrices, others, momentum=0.8, adam_lr=2e-3)
    step(joint, [*matrices, *others], 0)
    again = copied(joint)
    twins = [p for group in reversed(again.param_groups) for p in group["params"]]
    before = [p.detach().clone() for p in twins]
    step(joint, [*matrices, *others], 1)
    assert all(torch.equal(a, b) for a, b in zip(twins, before, strict=True))
    step(again, twins, 1)
    assert all(torch.equal(a, b) for a, b in zip(twins, [*matrices, *others], strict=True))


@pytest.mark.parametrize("copied", [lambda optimizer: optimizer, copy.deepcopy])
def test_added_parameters_are_adams_unless_the_group_says_otherwise(copied: Callable[[MuonAdam], MuonAdam]) -> None:
    kernel, bias, added = (nn.Parameter(drawn(*shape)) for shape in ((4, 4), (4,), (3, 2)))
    whole = [nn.Parameter(p.detach().clone()) for p in (kernel, bias, added)]
    joint = copied(MuonAdam([kernel], [], lr=0.02, momentum=0.8, adam_lr=2e-3, betas=(0.8, 0.9)))
    (kernel,) = joint.param_groups[0]["params"]
    joint.add_param_group({"params": [bias]})
    joint.add_param_group({"params": iter([added]), "muon": True, "lr": 0.5})
    oracle = MuonAdam([whole[0], whole[2]], [whole[1]], lr=0.02, momentum=0.8, adam_lr=2e-3, betas=(0.8, 0.9))
    assert [group["lr"] for group in joint.param_groups] == [0.02, 2e-3, 0.5]
    joint.param_groups[2]["lr"] = 0.02
    for number in range(2):
        step(joint, [kernel, bias, added], number)
        step(oracle, whole, number)
    for parameter, wanted in zip((kernel, bias, added), whole, strict=True):
        assert torch.equal(parameter, wanted)


def test_what_cannot_be_added_is_refused() -> None:
    joint = MuonAdam([nn.Parameter(drawn(3, 3))], [])
    with pytest.raises(UserError, match=r"two axes or more, got one of shape \(5,\)"):
        joint.add_param_group({"params": nn.Parameter(drawn(5)), "muon": True})
    assert len(joint.param_groups) == 1
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        joint.add_param_group({"params": joint.param_groups[0]["params"]})


def test_the_writer_drops_and_clears_its_state() -> None:
    matrices, others = parameters(torch.contiguous_format)
    joint = MuonAdam(matrices, others)
    step(joint, [*matrices, *others], 0)
    kernel = matrices[1]
    old = joint.state[kernel]["momentum_buffer"].clone()
    undo = OptimizerState(joint).clear_rows(kernel, 1, torch.tensor([2]))
    assert not joint.state[kernel]["momentum_buffer"][:, 2].any()
    undo()
    assert torch.equal(joint.state[kernel]["momentum_buffer"], old)
    OptimizerState(joint).drop([kernel])
    assert kernel not in joint.state
    step(joint, [*matrices, *others], 1)
    wanted = 0.05 * kernel.grad  # the momentum of a first step
    torch.testing.assert_close(joint.state[kernel]["momentum_buffer"], wanted)


def test_parameters_without_gradient_stay() -> None:
    matrices, others = parameters(torch.contiguous_format)
    joint = MuonAdam(matrices, others)
    before = [p.detach().clone() for p in (*matrices, *others)]
    matrices[0].grad = torch.ones_like(matrices[0])
    joint.step()
    moved = [not torch.equal(a, b) for a, b in zip((*matrices, *others), before, strict=True)]
    assert moved == [True, False, False, False, False]
    joint.zero_grad()
    assert matrices[0].grad is None


def test_bfloat16_parameters_keep_a_true_momentum() -> None:
    """torch 2.13 overwrites the momentum of bfloat16 parameters without Nesterov's form, which is not used here."""
    weight = nn.Parameter(drawn(4, 4).bfloat16())
    joint = MuonAdam([weight], [])
    weight.grad = drawn(4, 4, seed=1).bfloat16()
    joint.step()
    wanted = (0.05 * weight.grad.float()).bfloat16()
    torch.testing.assert_close(joint.state[weight]["momentum_buffer"], wanted, rtol=2e-2, atol=1e-3)


def test_a_closure_gives_the_loss() -> None:
    weight = nn.Parameter(drawn(3, 3))
    joint = MuonAdam([weight], [])

    def closure() -> Tensor:
        joint.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    before = float(weight.detach().square().sum())
    assert float(joint.step(closure).detach()) == pytest.approx(before)
    assert float(weight.detach().square().sum()) < before
