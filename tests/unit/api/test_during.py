"""`replastic.during` in loops as people write them: every method beside everything else that training needs."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.interventions.unit_method import UnitMethod
from replastic.weights.redraw import redraw
from support.training_bench import IN_LOOPS, build, checkpoints, data, differing, lively, loss_fn, tensors_in

every_method = pytest.mark.parametrize("name", IN_LOOPS)
every_unit_method = pytest.mark.parametrize(
    "name", [name for name in methods.names() if issubclass(methods.get(name), UnitMethod)]
)
every_spec = pytest.mark.parametrize("spec", [*IN_LOOPS, "redo+fire", "ewc+fire", "fire+hare_tortoise"])


def hooked(method: methods.Method) -> bool:
    """Whether it looks into the passes of the model, or changes them."""
    return "units" in method.required() or method.changes_forward


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2)


class Loop:
    """Mixed precision with scaled gradients, two micro-batches per step, a schedule, and a moving average."""

    def __init__(self, spec: str, phase: int = 0) -> None:
        self.model, init = build()
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        structure = any(part.changes_structure for part in methods.from_spec(spec).parts)
        self.method = replastic.during(
            spec, self.model, adam(self.model), init=init, batches=data(phase), loss_fn=loss_fn,
            checkpoints=checkpoints(),
            followers=None if structure else {"average": self.average}, seed=3,
        )  # fmt: skip
        self.optimizer = self.method.optimizer
        self.schedule = LambdaLR(self.optimizer, lambda step: 1.0 / (1 + step))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.model.train()
        self.method.backward(lambda: self.gradients(batch))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.method.after_update()
        if len(list(self.model.parameters())) == len(list(self.average.parameters())):
            self.average.update_parameters(self.model)

    def gradients(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.optimizer.zero_grad()
        total = torch.zeros(())
        for inputs, targets in zip(*(part.chunk(2) for part in batch), strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_fn(self.model, (inputs, targets)) / 2
            self.scaler.scale(loss).backward()
            total += loss.detach()
        with torch.autocast("cpu", torch.bfloat16):
            penalty = self.method.penalty()
        if penalty is not None:
            assert penalty.dtype == torch.float32, "the penalty is computed in full precision"
            self.scaler.scale(penalty).backward()
        return total

    def train(self, phases: range, skip: int = 0) -> None:
        for phase in phases:
            self.method.cross(phase, batches=data(phase))
            for batch in data(phase)[skip:]:
                self.step(batch)
            skip = 0

    def parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "average": self.average,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }

    def save(self) -> bytes:
        file = io.BytesIO()
        torch.save({"method": self.method.state_dict()} | {n: p.state_dict() for n, p in self.parts().items()}, file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.method.load_state_dict(state.pop("method"))
        for name, part in self.parts().items():
            part.load_state_dict(state[name])

    def content(self) -> dict[str, Tensor]:
        parts = {"method": self.method.state_dict()} | {n: p.state_dict() for n, p in self.parts().items()}
        return {name: value.clone() for name, value in tensors_in(parts).items()}


@every_spec
def test_mid_phase_a_resumed_loop_ends_the_same_to_the_bit(spec: str) -> None:
    spec = lively(spec)
    whole = Loop(spec)
    with whole.method:
        whole.train(range(1))
        whole.method.cross(1, batches=data(1))
        whole.step(data(1)[0])
        saved = whole.save()
        for batch in data(1)[1:]:
            whole.step(batch)
        whole.train(range(2, 3))
        end = whole.content()
    assert [name for name, value in end.items() if not value.isfinite().all()] == []
    resumed = Loop(spec, phase=1)
    with resumed.method:
        resumed.load(saved)
        before = resumed.content()
        assert resumed.method.cross(1, batches=data(1)) == []
        assert differing(resumed.content(), before) == []
        resumed.train(range(1, 3), skip=1)
        assert differing(resumed.content(), end) == []


@every_method
def test_the_schedule_of_the_optimizer_that_is_stepped(name: str) -> None:
    loop = Loop(lively(name))
    base = [group["lr"] for group in loop.optimizer.param_groups]
    with loop.method:
        loop.train(range(2))
    steps = 2 * len(data(0))
    assert [group["lr"] for group in loop.optimizer.param_groups] == pytest.approx([lr / (1 + steps) for lr in base])


def groups(model: nn.Module) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0, "lr": 2e-3}]


OPTIMIZERS: dict[str, Callable[[nn.Module], Any]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    "groups": lambda model: torch.optim.AdamW(groups(model), lr=1e-3),
    "table": lambda model: {
        "kernels": torch.optim.AdamW([p for p in model.parameters() if p.dim() == 4], lr=1e-3),
        "rest": torch.optim.SGD([p for p in model.parameters() if p.dim() != 4], lr=1e-2),
    },
    "list": lambda model: [torch.optim.Adam([p], lr=1e-3) for p in model.parameters()],
}


@every_method
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_any_optimizer_or_several(name: str, kind: str) -> None:
    model, init = build()
    given = OPTIMIZERS[kind](model)
    whole = given if isinstance(given, dict) else dict(enumerate(given)) if isinstance(given, list) else {"": given}
    before = {k: [{n: v for n, v in g.items() if n != "params"} for g in o.param_groups] for k, o in whole.items()}
    arguments: dict[str, Any] = {"init": init, "batches": data(0), "loss_fn": loss_fn, "checkpoints": checkpoints()}
    with replastic.during(lively(name), model, given, **arguments) as method:
        assert list(method.optimizers) == [str(key) for key in whole]
        held = [p for o in method.optimizers.values() for g in o.param_groups for p in g["params"]]
        assert {id(p) for p in held} == {id(p) for p in model.parameters()}
        assert len(held) == len(list(model.parameters()))
        for phase in range(2):
            method.cross(phase, batches=data(phase))
            for batch in data(phase):

                def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
                    model.zero_grad()
                    loss, penalty = loss_fn(model, batch), method.penalty()
                    (loss if penalty is None else loss + penalty).backward()
                    return loss

                method.backward(closure)
                for optimizer in method.optimizers.values():
                    optimizer.step()
                method.after_update()
        own = [method.optimizers[str(key)] is not optimizer for key, optimizer in whole.items()]
        assert own == [method.method.makes_optimizer] * len(whole)
        if len(whole) > 1:
            with pytest.raises(UserError, match=r"there is no one optimizer here, but .*: see \.optimizers"):
                method.optimizer  # noqa: B018
    after = {k: [{n: v for n, v in g.items() if n != "params"} for g in o.param_groups] for k, o in whole.items()}
    assert after == before, "parameter groups are the user's"
    assert all(value.isfinite().all() for value in model.state_dict().values())


@every_method
def test_an_optimizer_that_calls_a_closure(name: str) -> None:
    model, init = build()
    given = torch.optim.LBFGS(model.parameters(), lr=1e-2, max_iter=2)
    arguments: dict[str, Any] = {"init": init, "loss_fn": loss_fn, "checkpoints": checkpoints()}
    with replastic.during(lively(name), model, given, batches=data(0), **arguments) as method:
        for phase in range(2):
            method.cross(phase, batches=data(phase))
            for batch in data(phase):

                def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
                    method.optimizer.zero_grad()
                    loss, penalty = loss_fn(model, batch), method.penalty()
                    value = loss if penalty is None else loss + penalty
                    value.backward()
                    return value

                method.optimizer.step(lambda closure=closure: method.backward(closure))
                method.after_update()
    assert all(value.isfinite().all() for value in model.state_dict().values())


@every_method
def test_what_is_missing_is_named(name: str) -> None:
    model, init = build()
    given: dict[str, Any] = {"init": init, "batches": data(0), "loss_fn": loss_fn, "checkpoints": checkpoints()}
    for need in methods.from_spec(name).required():
        argument = "loss_fn" if need == "loss" else need
        if argument in given:
            with pytest.raises(UserError, match=f"{name} needs .*pass {argument}="):
                replastic.during(lively(name), model, adam(model), **{**given, argument: None})
    with pytest.raises(UserError, match="during needs the optimizer that trains the model"):
        replastic.during(lively(name), model, None, **given)  # type: ignore[arg-type]


@every_method
def test_a_copy_follows_a_boundary_and_is_an_average_again(name: str) -> None:
    if methods.get(name).changes_structure:
        pytest.skip("no copy can follow a change of modules, which the writer says")
    loop = Loop(lively(name))
    with loop.method:
        loop.train(range(1))
        inner = loop.average.module.state_dict()
        old = {n: v.clone() for n, v in inner.items()}
        assert differing(old, dict(loop.model.state_dict()))
        outcomes = loop.method.cross(1, batches=data(1))
        written = {n for outcome in outcomes for n in outcome.written}
        for key, value in loop.model.state_dict().items():
            assert torch.equal(inner[key], value if key in written else old[key]), key
        for outcome in reversed(outcomes):
            outcome.undo_()
        assert differing(dict(inner), old) == []


@every_unit_method
def test_a_copy_takes_over_the_units_that_are_reset_and_no_more(name: str) -> None:
    model, _ = build()
    average = AveragedModel(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(1.0)
    optimizer = adam(model)
    given: dict[str, Any] = {"batches": data(0), "loss_fn": loss_fn, "followers": {"average": average}}
    inner, acted = average.module.state_dict(), 0
    with replastic.during(lively(name), model, optimizer, **given) as method:
        for batch in 2 * data(0):
            model.train()
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()
            before = {n: v.clone() for n, v in model.state_dict().items()}
            old = {n: v.clone() for n, v in inner.items()}
            moments = first_moments(model, optimizer)
            outcomes = method.after_update()
            for key, value in model.state_dict().items():
                changed = value != before[key]
                acted += int(changed.sum())
                assert torch.equal(inner[key][~changed], old[key][~changed]), key
                taken = (inner[key] - value).abs() < 1e-5
                moved = (inner[key] - old[key] - value + before[key]).abs() < 1e-5
                assert (taken | moved)[changed].all(), key
                was, now = (
                    found.get(key, torch.zeros_like(value)) for found in (moments, first_moments(model, optimizer))
                )
                assert taken[changed & (was != 0) & (now == 0)].all(), f"a reset row of {key} is not that of the model"
                assert moved[changed & (now != 0)].all(), f"{key} lost its average where something was added to it"
            for outcome in reversed(outcomes):
                outcome.undo_()
            assert differing(dict(inner), old) == []
            assert differing(dict(model.state_dict()), before) == []
    assert acted > 0


def first_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's, which are cleared in just the rows and columns that are reset."""
    return {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}


@every_unit_method
def test_statistics_are_those_of_the_whole_effective_batch(name: str) -> None:
    found = []
    for parts in (1, 2):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        model.load_state_dict(redraw(model, 0))
        draw = torch.Generator().manual_seed(1)
        batch = torch.randn(8, 4, generator=draw).double(), torch.randint(0, 3, (8,), generator=draw)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with replastic.during(name, model, optimizer, batches=[batch] * 3, loss_fn=loss_fn) as method:
            for _ in range(2):
                for piece in zip(*(part.chunk(parts) for part in batch), strict=True):
                    (loss_fn(model, piece) / parts).backward()
                optimizer.step()
                method.after_update()
            found.append(method.state_dict())
    assert sum(float(value.double().sum()) for key, value in found[0].items() if key.startswith("method/")) > 0
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-12, atol=1e-14, msg=key)


def test_muon_takes_over() -> None:
    model, _ = build()
    given = adam(model)
    with replastic.during("muon", model, given) as method:
        assert method.optimizer is not given
        loss_fn(model, data(0)[0]).backward()
        method.optimizer.step()
        assert not given.state
        assert method.optimizer.state


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", [name for name in methods.names() if hooked(methods.from_spec(name))])
def test_a_compiled_model(name: str) -> None:
    """The method is given the model, the loop calls what was compiled from it."""
    torch._dynamo.reset()
    ends = []
    for compiled in (False, True):
        model, init = build()
        optimizer = adam(model)
        arguments: dict[str, Any] = {"init": init, "batches": data(0), "loss_fn": loss_fn, "checkpoints": checkpoints()}
        with replastic.during(lively(name), model, optimizer, **arguments) as method:
            called = torch.compile(model, backend="eager") if compiled else model
            for phase in range(2):
                method.cross(phase, batches=data(phase))
                for batch in data(phase):
                    model.train()
                    loss, penalty = loss_fn(called, batch), method.penalty()
                    method.optimizer.zero_grad()
                    (loss if penalty is None else loss + penalty).backward()
                    method.optimizer.step()
                    method.after_update()
        ends.append({n: v.clone() for n, v in model.state_dict().items()})
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_replay_is_left_to_whoever_makes_the_batches() -> None:
    model, _ = build()
    assert set(methods.names()) - set(IN_LOOPS) == {"replay"}
    for spec in ("replay", "fire+replay:share=0.2"):
        with pytest.raises(UserError, match=r"replay needs .*: in a loop of your own mix old data into your batches"):
            replastic.during(spec, model, adam(model))


@pytest.mark.parametrize("wrapped", [False, True])
def test_checkpoints_are_state_dicts_or_say_more(wrapped: bool) -> None:
    model, _ = build()
    found = checkpoints()
    given: list[Any] = found if wrapped else [one.load() for one in found]
    replastic.apply_("from_checkpoint:at=last", model, checkpoints=given)
    assert differing(found[-1].load(), dict(model.state_dict())) == []
    at = "best" if wrapped else "3"
    with replastic.during(f"from_checkpoint:at={at}", model, adam(model), checkpoints=given) as method:
        method.cross()
    assert differing(found[2].load(), dict(model.state_dict())) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "with one at least"),
        ("here.pt", "checkpoints must be a list of state dicts"),
        ([nn.Linear(2, 2)], "checkpoint 1 of checkpoints must be a state dict, got the module"),
        ([{"head.weight": torch.zeros(3)}], "not among the weights of the checkpoint"),
    ],
)
def test_wrong_checkpoints_say_so(given: Any, words: str) -> None:
    model, _ = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=words):
        replastic.apply_("from_checkpoint:at=last", model, checkpoints=given)
    assert differing(before, dict(model.state_dict())) == []
