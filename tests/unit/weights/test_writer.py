"""What a caller may rely on: all or nothing, in place, once, reported, and undone."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from replastic.errors import UserError
from replastic.weights.change import Change, LayerOutcome, Proposal, Skipped, UnitReset
from replastic.weights.module_store import ModuleStore, ModuleTransaction
from replastic.weights.outcome import Outcome
from replastic.weights.staging import DiskStage, MemoryStage
from replastic.weights.writer import write

STAGINGS = ["memory", "disk"]
TOUCHED = ("conv.weight", "bn.running_mean", "mid.weight", "table.weight")


class Net(nn.Module):
    """Convolution, norm with buffers, hidden layer, embedding tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.mid = nn.Linear(4, 4)
        self.table = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(torch.relu(self.bn(self.conv(x))).mean((2, 3))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 5, 5, generator=generator).to(dtype)).square().mean().backward()
        optimizer.step()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def doubled(model: nn.Module, names: tuple[str, ...] = TOUCHED) -> Change:
    """Twice the old value of each of these, lazily."""
    store = ModuleStore(model)

    def proposals() -> Iterator[Proposal]:
        for name in names:
            yield Proposal(name, store.read(name).double() * 2, (outcome_of(name),))

    return Change(proposals(), skipped=(Skipped("mid.bias", "is a bias"),))


def outcome_of(name: str) -> LayerOutcome:
    return LayerOutcome(name, "", "linear", 1, 4, 4, "double", 1.0, 1.0, 1.0, 2.0, {"residual": 0.5})


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in optimizer.state.get(parameter, {}).items()}


# what is written, and how


@pytest.mark.parametrize("staging", STAGINGS)
def test_touched_tensors_get_their_values_and_no_others(net: Net, staging: str) -> None:
    before = state_of(net)
    outcome = write(ModuleStore(net), doubled(net), staging=staging)
    expected = {k: v * 2 if k in (*TOUCHED, "head.weight") else v for k, v in before.items()}
    assert_same(net.state_dict(), expected)
    assert outcome.written == TOUCHED
    assert [layer.weight for layer in outcome.layers] == list(TOUCHED)
    assert outcome.skipped == (Skipped("mid.bias", "is a bias"),)


def test_the_outcome_follows_the_store_in_whatever_order_methods_propose(net: Net) -> None:
    outcome = write(ModuleStore(net), doubled(net, tuple(reversed(TOUCHED))), dry_run=True)
    assert outcome.written == TOUCHED
    assert [layer.weight for layer in outcome.layers] == list(TOUCHED)


@pytest.mark.parametrize("staging", STAGINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_parameters_keep_identity_dtype_strides_and_gradient_flags(
    net: Net, staging: str, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    net = net.to(dtype).to(memory_format=layout)
    net.mid.weight.requires_grad_(False)
    net.conv.weight.grad = torch.ones_like(net.conv.weight)

    def facts() -> dict[str, tuple[object, ...]]:
        tensors = [*net.named_parameters(), *net.named_buffers()]
        return {n: (id(t), t.data_ptr(), t.dtype, t.device, t.stride(), t.requires_grad) for n, t in tensors}

    before, values = facts(), state_of(net)
    outcome = write(ModuleStore(net), doubled(net), staging=staging)
    assert facts() == before
    assert torch.equal(net.conv.weight, values["conv.weight"] * 2)
    assert torch.equal(net.conv.weight.grad, torch.ones_like(net.conv.weight))
    outcome.undo_()
    assert facts() == before
    assert_same(net.state_dict(), values)


def test_tied_weights_are_written_once(net: Net) -> None:
    before = net.table.weight.detach().clone()
    write(ModuleStore(net), doubled(net, ("head.weight",)))
    assert net.head.weight is net.table.weight
    assert torch.equal(net.table.weight, before * 2)
    with pytest.raises(UserError, match=r"table\.weight was given two new values"):
        write(ModuleStore(net), doubled(net, ("table.weight", "head.weight")))


def test_values_that_alias_live_weights_are_read_before_any_is_written() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    a, b = model["a"].weight.detach().clone(), model["b"].weight.detach().clone()
    store = ModuleStore(model)
    write(store, Change([Proposal("a.weight", store.read("b.weight")), Proposal("b.weight", store.read("a.weight"))]))
    assert torch.equal(model["a"].weight, b)
    assert torch.equal(model["b"].weight, a)


def test_initial_values_stay_what_they_are(net: Net) -> None:
    """Neither the write nor its undo may reach into the tensors that were proposed."""
    init = {k: torch.zeros_like(v) for k, v in net.state_dict().items()}
    outcome = write(ModuleStore(net), Change(Proposal(n, init[n]) for n in TOUCHED))
    train(net, torch.optim.SGD(net.parameters(), lr=0.1))
    outcome.undo_()
    assert all(not v.any() for v in init.values())


def test_the_graph_of_a_forward_pass_before_the_write_is_not_extended(net: Net) -> None:
    write(ModuleStore(net), doubled(net))
    assert net.conv.weight.is_leaf
    assert net.conv.weight.grad_fn is None


# all or nothing


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("staging", STAGINGS)
def test_a_value_that_is_not_finite_stops_everything(net: Net, bad: float, staging: str) -> None:
    before = state_of(net)
    value = net.mid.weight.detach().clone()
    value[1, 2] = bad
    change = Change([*doubled(net).proposals, Proposal("bn.weight", torch.zeros(4)), Proposal("mid.bias", value[1])])
    with pytest.raises(UserError, match=r"mid\.bias has 1 of 4 numbers that are NaN or infinite.*nothing was written"):
        write(ModuleStore(net), change, staging=staging)
    assert_same(net.state_dict(), before)


def test_what_overflows_in_the_stored_dtype_is_not_finite(net: Net) -> None:
    net = net.half()
    with pytest.raises(UserError, match=r"mid\.weight .* infinite in torch\.float16"):
        write(ModuleStore(net), Change([Proposal("mid.weight", torch.full((4, 4), 1e5))]))


def test_an_error_while_proposing_stops_everything(net: Net) -> None:
    before = state_of(net)

    def proposals() -> Iterator[Proposal]:
        yield from doubled(net).proposals
        raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="no answer"):
        write(ModuleStore(net), Change(proposals()))
    assert_same(net.state_dict(), before)


@pytest.mark.parametrize("staging", STAGINGS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_in_the_middle_of_the_commit_rolls_back(
    net: Net, monkeypatch: pytest.MonkeyPatch, staging: str, error: type[BaseException], good: int
) -> None:
    before = state_of(net)
    stage = MemoryStage if staging == "memory" else DiskStage
    replace, calls = stage.replace, []

    def failing(self: Any, key: int, value: Tensor) -> None:
        if value.data_ptr() in live:
            calls.append(key)
            if len(calls) > good:
                raise error("in the middle")
        replace(self, key, value)

    live = {t.data_ptr() for t in (*net.parameters(), *net.buffers())}
    monkeypatch.setattr(stage, "replace", failing)
    with pytest.raises(error, match="in the middle"):
        write(ModuleStore(net), doubled(net), staging=staging)
    assert len(calls) == good + 1
    assert_same(net.state_dict(), before)


def test_an_error_after_the_commit_rolls_back_weights_followers_and_state(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    ema = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    before, average, held = state_of(net), state_of(ema), copy.deepcopy(optimizer.state_dict())

    def fail(*arguments: object) -> None:
        raise RuntimeError("at the end")

    monkeypatch.setattr("replastic.weights.optimizer_state.OptimizerState.drop", fail)
    with pytest.raises(RuntimeError, match="at the end"):
        write(ModuleStore(net), doubled(net), optimizer=optimizer, followers={"ema": ema})
    assert_same(net.state_dict(), before)
    assert_same(ema.state_dict(), average)
    assert str(optimizer.state_dict()) == str(held)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("mid.weigth", (4, 4), "proposed for mid.weigth, which does not exist; did you mean 'mid.weight'"),
        ("mid.weight", (4, 3), r"mid\.weight has shape \(4, 4\), but its new value has \(4, 3\)"),
        ("mid.bias", (1,), r"mid\.bias has shape \(4,\), but its new value has \(1,\)"),
    ],
)
def test_proposals_that_do_not_fit(net: Net, name: str, shape: tuple[int, ...], words: str) -> None:
    before = state_of(net)
    with pytest.raises(UserError, match=words):
        write(ModuleStore(net), Change([*doubled(net).proposals, Proposal(name, torch.zeros(shape))][-1:]))
    assert_same(net.state_dict(), before)


def test_refused_weights_are_not_written(net: Net) -> None:
    nn.utils.parametrizations.weight_norm(net.mid)
    with pytest.raises(UserError, match=r"mid\.weight cannot be written: it is computed by a parametrization"):
        write(ModuleStore(net), Change([Proposal("mid.weight", torch.zeros(4, 4))]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "forget"}, "policy must be one of reset_touched, keep, reset_all, got 'forget'"),
        ({"staging": "tape"}, "staging must be one of memory, disk, got 'tape'"),
    ],
)
def test_wrong_words(net: Net, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        write(ModuleStore(net), doubled(net), **arguments)


# dry run


@pytest.mark.parametrize("staging", STAGINGS)
def test_a_dry_run_reports_the_same_and_writes_nothing(net: Net, staging: str) -> None:
    ema, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters())
    train(net, optimizer)
    before, average, held = state_of(net), state_of(ema), str(optimizer.state_dict())
    arguments: dict[str, Any] = {"optimizer": optimizer, "followers": {"ema": ema}, "staging": staging}
    dry = write(ModuleStore(net), doubled(net), dry_run=True, **arguments)
    assert_same(net.state_dict(), before)
    assert_same(ema.state_dict(), average)
    assert str(optimizer.state_dict()) == held
    real = write(ModuleStore(net), doubled(net), **arguments)
    assert {**dry.to_dict(), "dry_run": False} == real.to_dict()
    with pytest.raises(UserError, match="dry run"):
        dry.undo_()


def test_a_dry_run_finds_the_same_errors(net: Net) -> None:
    with pytest.raises(UserError, match="NaN"):
        write(ModuleStore(net), Change([Proposal("mid.bias", torch.full((4,), torch.nan))]), dry_run=True)
    with pytest.raises(UserError, match="follower 'ema' has no"):
        write(ModuleStore(net), doubled(net), followers={"ema": {}}, dry_run=True)


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
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    write(ModuleStore(net), doubled(net), optimizer=optimizer)


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


# the way back


@pytest.mark.parametrize("staging", STAGINGS)
def test_undo_restores_everything_even_after_training_on(net: Net, staging: str) -> None:
    ema, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters())
    train(net, optimizer)
    before, average = state_of(net), state_of(ema)
    held = {n: moments(optimizer, p) for n, p in net.named_parameters()}
    outcome = write(ModuleStore(net), doubled(net), optimizer=optimizer, followers={"ema": ema}, staging=staging)
    outcome.undo_()
    assert_same(net.state_dict(), before)
    assert_same(ema.state_dict(), average)
    for name, parameter in net.named_parameters():
        assert_same(moments(optimizer, parameter), held[name])
    with pytest.raises(UserError, match="undone already"):
        outcome.undo_()
    outcome = write(ModuleStore(net), doubled(net), optimizer=optimizer, staging=staging)
    train(net, optimizer)
    outcome.undo_()
    for name in TOUCHED:
        assert torch.equal(net.state_dict()[name], before[name]), name
    assert_same(moments(optimizer, net.mid.weight), held["mid.weight"])
    assert not torch.equal(net.mid.bias, before["mid.bias"]), "only what was written is restored"


def test_training_goes_on_as_if_never_written(net: Net) -> None:
    other = copy.deepcopy(net)
    optimizers = [torch.optim.Adam(m.parameters()) for m in (net, other)]
    for model, optimizer in zip((net, other), optimizers, strict=True):
        train(model, optimizer)
    write(ModuleStore(net), doubled(net), optimizer=optimizers[0]).undo_()
    for model, optimizer in zip((net, other), optimizers, strict=True):
        train(model, optimizer)
    assert_same(net.state_dict(), other.state_dict())


# memory


def test_memory_staging_holds_one_extra_copy(net: Net) -> None:
    """After the commit the stage holds the old values; the new ones live in the parameters alone."""
    store = ModuleStore(net)
    transaction = store.transaction(staging="memory")
    assert isinstance(transaction, ModuleTransaction)
    old = store.read("mid.weight").clone()
    new = old * 2
    with transaction:
        transaction.stage("mid.weight", new)
        transaction.commit()
    held = transaction._stage.get(0)
    assert torch.equal(held, old)
    assert held.data_ptr() not in (new.data_ptr(), net.mid.weight.data_ptr())


def test_disk_staging_asks_for_one_tensor_at_a_time(net: Net) -> None:
    """Proposals are read one by one, and none is kept in memory while the next one is made."""
    alive: list[weakref.ref[Tensor]] = []

    def proposals() -> Iterator[Proposal]:
        for name in TOUCHED:
            assert [r for r in alive if r() is not None] == []
            value = ModuleStore(net).read(name) * 2
            alive.append(weakref.ref(value))
            proposal = Proposal(name, value)
            del value
            yield proposal
            del proposal

    write(ModuleStore(net), Change(proposals()), staging="disk")
    assert len(alive) == len(TOUCHED)


def test_an_empty_change_writes_nothing(net: Net) -> None:
    before = state_of(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcome = write(ModuleStore(net), Change(), optimizer=torch.optim.Adam(net.parameters()))
    assert isinstance(outcome, Outcome)
    assert outcome.written == ()
    assert_same(net.state_dict(), before)
