"""Splitting batches and joining what processes found; runs of two processes are in tests/integration/test_parallel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as group
from torch import nn
from torch.nn import functional

from replastic.errors import UserError
from replastic.parallel import distributed
from replastic.parallel.joint_batch_norm import joint_batch_norm


@pytest.fixture
def one_of_one():
    """A group with this process alone in it, through which every exchange goes."""
    group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
    yield
    group.destroy_process_group()


def test_alone_nothing_happens(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert not distributed.launched()
    with distributed.processes("meta") as device:
        assert device == "meta"
        assert not distributed.is_distributed()
        distributed.barrier()
        value = torch.ones(3)
        assert distributed.total(value) is value
        assert distributed.averager(8)(value) is value
        assert (distributed.rank(), distributed.world_size(), distributed.share(8)) == (0, 1, 1.0)


def test_a_process_that_torchrun_started_alone_is_alone(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not distributed.launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.launched()
    with pytest.raises(UserError, match="several processes can train on cpu or cuda, not on 'meta'"):
        distributed.processes("meta").__enter__()


@given(count=st.integers(1, 300), processes=st.integers(1, 9))
def test_portions_share_a_batch_evenly_and_leave_nothing_out(count, processes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: processes)
        taken, shares = [], []
        for rank in range(processes):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            taken.append(list(range(count))[distributed.portion(count)])
            shares.append(distributed.share(count))
    assert [index for one in taken for index in one] == list(range(count))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    assert shares == [len(one) / count for one in taken]


def test_more_processes_than_samples_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    with pytest.raises(UserError, match="a batch of 5 samples cannot be split over 8 processes"):
        distributed.averager(5)


def test_an_exchange_that_breaks_off_is_told_as_the_end_of_another_process(one_of_one, monkeypatch):
    def gone(value, group=None):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1234\nmore")

    monkeypatch.setattr(group, "all_reduce", gone)
    said = r"another process of this run has ended .* \(Connection closed by peer \[127\.0\.0\.1\]:1234\)$"
    value = torch.ones(2, requires_grad=True)
    with pytest.raises(distributed.LostProcessError, match=said):
        distributed.total(value)
    monkeypatch.undo()
    summed = distributed.total(value).sum()
    monkeypatch.setattr(group, "all_reduce", gone)
    with pytest.raises(distributed.LostProcessError, match=said):
        summed.backward()


def test_a_sum_is_differentiated_as_the_sum_of_what_all_make_of_it(one_of_one):
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    summed = distributed.total(value)
    assert summed is not value
    assert torch.equal(summed, value)
    (summed.square().sum()).backward()
    assert torch.equal(value.grad, torch.tensor([2.0, 4.0]))


def test_gradients_are_summed_in_their_own_memory_layout(one_of_one):
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))
    unused = nn.Parameter(torch.ones(2))
    slope = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    (weight * slope).sum().backward()
    loss = distributed.sum_gradients([weight, unused], torch.tensor(3.0, requires_grad=True))
    assert torch.equal(weight.grad, slope)
    assert weight.grad.stride() == weight.stride()
    assert unused.grad is None
    assert loss == 3.0
    assert not loss.requires_grad


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 2, 5)])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_joint_batch_normalisation_is_torchs_where_one_process_has_the_batch(one_of_one, shape, options):
    draw = torch.Generator().manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    found, expected = (kind(3, **options, dtype=torch.float64) for _ in range(2))
    x = 5 + torch.randn(shape, generator=draw, dtype=torch.float64)
    slope = torch.randn(shape, generator=draw, dtype=torch.float64)
    for module in (found, expected):
        if module.weight is not None:
            nn.init.constant_(module.weight, 1.5)
            nn.init.constant_(module.bias, 0.5)
    results = []
    for module, joint in ((found, True), (expected, False)):
        inputs = x.clone().requires_grad_()
        with joint_batch_norm() if joint else torch.enable_grad():
            for _ in range(2):
                outputs = module(inputs)
        (outputs * slope).sum().backward()
        results.append([outputs, inputs.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)
    found.eval(), expected.eval()
    with joint_batch_norm():
        assert torch.allclose(found(x), expected(x), rtol=1e-10, atol=1e-12)


def test_joint_batch_normalisation_is_that_of_float32_under_autocast(one_of_one):
    x = torch.randn(16, 3, 4, 4).bfloat16()
    with joint_batch_norm():
        found = nn.BatchNorm2d(3)(x)
    assert found.dtype == torch.bfloat16
    expected = functional.batch_norm(x.float(), None, None, training=True)
    assert torch.allclose(found.float(), expected, atol=0.02)
