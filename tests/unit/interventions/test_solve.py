"""The road from a recipe to proposals: rules, blocks, batches, seeds and what is reported."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError
from replastic.interventions import solve
from replastic.interventions.plan import plan
from replastic.methods import Run, Scope, WeightMethod, option
from replastic.weights.entries import MatrixInfo
from replastic.weights.recipe import Recipe, Rule
from replastic.weights.redraw import redraw

RunOn = Callable[..., Run]
Proposed = Callable[..., Any]


class Attention(nn.Module):
    """A fused qkv and what stands around it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.proj = nn.Linear(6, 6)


@dataclass(kw_only=True)
class Recorder(WeightMethod):
    """Doubles everything and remembers how it was asked."""

    name: ClassVar[str] = "recorder"
    batched: ClassVar[bool] = True
    factor: float = option(2.0, help="factor")

    def setup(self, run: Run) -> None:
        self.calls: list[tuple[tuple[int, ...], torch.dtype]] = []

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        self.calls.append((tuple(w.shape), w.dtype))
        return self.factor * w


@dataclass(kw_only=True)
class Drawer(WeightMethod):
    """Noise alone."""

    name: ClassVar[str] = "drawer"

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.empty_like(w).normal_(generator=generator)


def with_rules(run: Run, *rules: Rule) -> Run:
    return replace(run, recipe=Recipe("test", rules))


def test_untouched_blocks_stay_bit_identical(run_on: RunOn) -> None:
    model = Attention().to(torch.bfloat16)
    old = model.qkv.weight.detach().clone()
    rule = Rule(("qkv",), layout={"split": ["q", "k", "v"]}, blocks=("q", "k"))
    run = with_rules(run_on(model), rule)
    (new,) = solve.propose(plan(methods.from_spec("fire"), run), run).proposals
    assert new.name == "qkv.weight"
    assert {layer.label for layer in new.layers} == {"qkv.weight[q]", "qkv.weight[k]"}
    stored = new.value.to(torch.bfloat16)
    assert torch.equal(stored[12:], old[12:])
    for rows in (slice(0, 6), slice(6, 12)):
        q = new.value[rows].double()
        assert torch.allclose(q @ q.mT, torch.eye(6).double(), atol=1e-5)


def test_equal_shapes_share_one_call(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(*[nn.Linear(5, 5) for _ in range(4)], nn.Linear(5, 3), nn.Conv2d(5, 5, 3))
    method = Recorder()
    new, _ = proposed(method, run_on(model, target_modules="*"))
    assert sorted(method.calls) == sorted(
        [((4, 5, 5), torch.float32), ((1, 3, 5), torch.float32), ((9, 5, 5), torch.float32)]
    )
    state = model.state_dict()
    assert all(torch.equal(value, 2 * state[name]) for name, value in new.items())


@pytest.mark.parametrize("chunk", [1, 25, 60, 10**6])
def test_calls_stay_bounded_and_the_result_the_same(
    chunk: int, run_on: RunOn, proposed: Proposed, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(5, 5) for _ in range(5)], nn.Conv2d(5, 5, 3))
    monkeypatch.setattr(solve, "CHUNK", chunk)
    method = Recorder()
    new, layers = proposed(method, run_on(model, target_modules="*"))
    assert all(shape[0] * 25 <= max(chunk, 25) for shape, _ in method.calls)
    state = model.state_dict()
    assert all(torch.equal(value, 2 * state[name]) for name, value in new.items())
    for name, layer in layers.items():
        assert layer.sfe == pytest.approx(float(state[name].double().square().sum()))
        assert layer.normalised_sfe == pytest.approx(1.0)
        assert layer.norm_after == pytest.approx(2 * layer.norm_before)


@pytest.mark.parametrize("chunk", [1, 10**6])
def test_facts_are_those_of_the_layer_however_it_was_cut(
    chunk: int, run_on: RunOn, proposed: Proposed, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Conv2d(5, 5, 3))
    monkeypatch.setattr(solve, "CHUNK", chunk)
    method = methods.from_spec("fire:solver=newton_schulz,num_iters=3")
    _, layers = proposed(method, run_on(model, target_modules="*"))
    for name, layer in layers.items():
        w = model.get_parameter(name).detach().double()
        w = w.permute(2, 3, 0, 1).flatten(0, 1) if w.dim() == 4 else w[None]
        x = w / torch.linalg.matrix_norm(w)[:, None, None]
        for _ in range(3):
            x = 1.5 * x - 0.5 * x @ x.mT @ x
        residual = (x.mT @ x - torch.eye(5).double()).square().sum((-2, -1)) / 5
        assert layer.facts["residual"] == pytest.approx(float(residual.max()), rel=1e-5)


def test_proposals_are_lazy_and_let_go(run_on: RunOn) -> None:
    model = nn.Sequential(*[nn.Linear(n, n) for n in (3, 4, 5)])
    method = Recorder()
    run = run_on(model, target_modules="*")
    method.setup(run)
    change = solve.propose(plan(method, run), run)
    assert method.calls == []
    stream = iter(change.proposals)
    assert isinstance(stream, Iterator)
    first = weakref.ref(next(stream).value)
    assert len(method.calls) == 1
    next(stream)
    assert len(method.calls) == 2
    assert first() is None, "a proposal is kept alive after the next one was made"


def test_draws_depend_on_the_name_and_not_on_the_company(run_on: RunOn, proposed: Proposed) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)])
    together, _ = proposed(Drawer(), run_on(model, target_modules="*"))
    alone, _ = proposed(Drawer(), run_on(model, target_modules="1"))
    assert torch.equal(together["1.weight"], alone["1.weight"])
    assert not torch.equal(together["0.weight"], together["1.weight"])


def test_options_of_a_rule_give_way_to_those_set_by_hand(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    run = with_rules(run_on(model), Rule(("*.weight",), options={"factor": 3.0, "other_methods_option": 1}))
    old = model[0].weight.detach()
    assert torch.equal(proposed(Recorder(), run)[0]["0.weight"], 3 * old)
    assert torch.equal(proposed(Recorder(factor=5.0), run)[0]["0.weight"], 5 * old)


def test_a_solver_set_by_hand_drops_the_rules_options_of_another(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    rule = Rule(("*.weight",), options={"solver": "newton_schulz", "num_iters": 5, "coefficients": "quintic"})
    run = with_rules(run_on(model), rule)
    assert proposed(methods.from_spec("fire"), run)[1]["0.weight"].facts["iterations"] == 5
    assert proposed(methods.from_spec("fire", num_iters=7), run)[1]["0.weight"].facts["iterations"] == 7
    assert proposed(methods.from_spec("fire", solver="svd"), run)[1]["0.weight"].facts["solver"] == "svd"


def test_a_setting_without_effect_is_refused(run_on: RunOn) -> None:
    run = run_on(nn.Sequential(nn.Linear(4, 4)), target_modules="0")
    with pytest.raises(UserError, match="fire: num_iters has no effect beside solver=exact"):
        methods.check_needs(methods.from_spec("fire", num_iters=5), run)
    with pytest.raises(UserError, match="tol has no effect"):
        methods.check_needs(methods.from_spec("fire", solver="newton_schulz", tol=1e-3), run)
    with pytest.raises(UserError, match="solver has no effect"):
        methods.check_needs(methods.from_spec("random_isometry", solver="svd"), run)
    methods.check_needs(methods.from_spec("fire", solver="newton_schulz", num_iters=5), run)


def test_a_rule_may_name_another_method(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Linear(4, 4), nn.Linear(4, 2))
    init = {n: torch.randn_like(v) for n, v in model.state_dict().items()}
    rules = (
        Rule(("0",)),
        Rule(("1.weight",), action="interpolation", options={"strength": 0.25}),
        Rule(("2",), "leave"),
    )
    new, layers = proposed(methods.from_spec("fire"), with_rules(run_on(model, init=init), *rules))
    assert set(new) == {"0.weight", "1.weight"}
    assert {n: layer.method for n, layer in layers.items()} == {"0.weight": "fire", "1.weight": "interpolation"}
    expected = 0.75 * model[1].weight.detach() + 0.25 * init["1.weight"]
    assert torch.allclose(new["1.weight"], expected)


def test_interpolating_the_encoder_and_resetting_the_rest(run_on: RunOn, proposed: Proposed) -> None:
    """The DQN baseline of the FIRE paper: rules that name a method count for methods of all parameters, too."""
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Linear(4, 4))
    init = {n: torch.randn_like(v) for n, v in model.state_dict().items()}
    new, _ = proposed(methods.from_spec("interpolation"), run_on(model, init=init, recipe="paper-dqn"))
    assert torch.equal(new["1.weight"], init["1.weight"])
    assert torch.equal(new["1.bias"], init["1.bias"])
    mixed = 0.2 * model[0].weight.detach() + 0.8 * init["0.weight"]
    assert torch.allclose(new["0.weight"], mixed)


def test_dqn_projects_kernels_keeps_their_biases_and_resets_linear_layers(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Linear(4, 4))
    init = {n: torch.randn_like(v) for n, v in model.state_dict().items()}
    new, _ = proposed(methods.from_spec("fire"), run_on(model, init=init, recipe="paper-dqn"))
    assert sorted(new) == ["0.weight", "1.bias", "1.weight"]
    assert torch.equal(new["1.weight"], init["1.weight"])
    assert torch.equal(new["1.bias"], init["1.bias"])


def test_a_rule_that_needs_more_is_refused_before_training(run_on: RunOn) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.Linear(4, 4))
    with pytest.raises(UserError, match="full_reset needs the initial weights"):
        methods.check_needs(methods.from_spec("fire"), run_on(model, recipe="paper-dqn"))


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("fresh", {}, "fresh needs a way to draw new weights"),
        ("interpolation", {"toward": "fresh"}, "interpolation needs a way to draw new weights"),
        ("interpolation", {}, "interpolation needs the initial weights"),
        ("dash", {}, "dash needs data of the coming phase"),
    ],
)
def test_a_rule_asks_for_what_its_method_needs(
    action: str, options: dict[str, Any], message: str, run_on: RunOn
) -> None:
    run = with_rules(run_on(nn.Sequential(nn.Linear(4, 4))), Rule(("0.weight",), action, options))
    with pytest.raises(UserError, match=message):
        methods.check_needs(methods.from_spec("fire"), run)


@pytest.mark.parametrize("given", [True, False], ids=["with initial weights", "without"])
@pytest.mark.parametrize(("action", "options"), [("fresh", {}), ("interpolation", {"toward": "fresh"})])
@pytest.mark.parametrize("outer", ["fire", "fresh", "interpolation:toward=fresh,strength=0.5"])
def test_a_rule_may_ask_for_a_new_draw(
    outer: str, action: str, options: dict[str, Any], given: bool, run_on: RunOn, proposed: Proposed
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    init = {n: torch.zeros_like(v) for n, v in model.state_dict().items()} if given else None
    run = run_on(model, init=init, fresh=lambda seed: redraw(model, seed))
    whole, _ = proposed(methods.from_spec("fresh"), run)
    new, layers = proposed(methods.from_spec(outer), with_rules(run, Rule(("1",), action, options), Rule(("*",))))
    strength = 1.0 if action == "fresh" else 0.8
    for name in ("1.weight", "1.bias"):
        assert layers[name].method == action
        assert torch.equal(new[name], torch.lerp(model.get_parameter(name).detach(), whole[name], strength))


def test_every_method_object_goes_by_its_own_reference(run_on: RunOn, proposed: Proposed) -> None:
    """Also where two of one class go by different ones."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    init = {n: torch.full_like(v, 2.0) for n, v in model.state_dict().items()}
    run = run_on(model, init=init, fresh=lambda seed: {n: torch.full_like(v, 3.0) for n, v in init.items()})
    rule = Rule(("1",), "interpolation", {"strength": 1.0})
    new, _ = proposed(methods.from_spec("interpolation:toward=fresh,strength=1"), with_rules(run, rule, Rule(("*",))))
    assert {n: v.unique().tolist() for n, v in new.items()} == {
        "0.weight": [3.0],
        "0.bias": [3.0],
        "1.weight": [2.0],
        "1.bias": [2.0],
    }


def test_a_reference_is_asked_for_once_and_before_anything_is_solved(run_on: RunOn) -> None:
    asked = []

    @dataclass(kw_only=True)
    class Toward(WeightMethod):
        name: ClassVar[str] = "toward"
        factor: float = option(1.0, help="factor")

        def reference(self, run: Run) -> dict[str, Tensor]:
            asked.append(self.factor)
            return {n: torch.full_like(p, 5.0) for n, p in model.named_parameters()}

        def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
            assert w0 is not None
            return self.factor * w0

    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
    rules = (
        Rule(
            ("0.weight", "1.weight"),
        ),
        Rule(("*.weight",), options={"factor": 2.0}),
    )
    run = with_rules(run_on(model), *rules)
    change = solve.propose(plan(Toward(), run), run)
    assert sorted(asked) == [1.0, 2.0]
    found = {p.name: p.value.unique().tolist() for p in change.proposals}
    assert found == {"0.weight": [5.0], "1.weight": [5.0], "2.weight": [10.0], "3.weight": [10.0]}
    assert len(asked) == 2


def test_solve_is_told_the_role_that_the_store_knows(run_on: RunOn, proposed: Proposed) -> None:
    """Which the name does not tell."""
    told = {}

    @dataclass(kw_only=True)
    class Asker(WeightMethod):
        name: ClassVar[str] = "asker"
        scope: ClassVar[Scope] = "layers"

        def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
            told[info.weight] = info.role
            return w

    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 1))
    new, _ = proposed(Asker(), run_on(model))
    assert new.keys() == told.keys()
    assert told == {
        "0.weight": "embedding",
        "1.weight": "matrix",
        "1.bias": "bias",
        "2.weight": "norm",
        "2.bias": "norm",
        "3.weight": "matrix",
        "3.bias": "bias",
    }


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("optimizer_reset", {}, "does not rewrite weights one by one"),
        ("fyre", {}, "did you mean 'fire'"),
        ("fire", {"num_itters": 3}, "did you mean 'num_iters'"),
    ],
)
def test_rules_that_cannot_be_followed(action: str, options: dict[str, Any], message: str, run_on: RunOn) -> None:
    run = run_on(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(UserError, match=message):
        methods.check_needs(
            methods.from_spec("fire"), with_rules(run, Rule(("*.weight",), action=action, options=options))
        )


def test_initial_weights_with_wrappers_names_and_wrong_shapes(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    init = {f"module.{n}": torch.ones_like(v) for n, v in model.state_dict().items()}
    new, _ = proposed(methods.from_spec("full_reset"), run_on(model, init=init))
    assert torch.equal(new["0.weight"], torch.ones(3, 4))
    with pytest.raises(UserError, match=r"0\.bias, which is not among the initial weights"):
        proposed(methods.from_spec("full_reset"), run_on(model, init={"0.weight": torch.ones(3, 4)}))
    with pytest.raises(UserError, match=r"0\.weight has shape \(3, 4\), but \(4, 3\) among the initial"):
        proposed(methods.from_spec("full_reset"), run_on(model, init={"0.weight": torch.ones(4, 3)}))


def test_tied_weights_are_done_once(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    method = Recorder()
    new, _ = proposed(method, run_on(model, target_modules="1"))
    assert set(new) == {"0.weight", "1.bias"} - {"1.bias"}
    assert method.calls == [((1, 4, 4), torch.float32)]


def test_float64_stays_float64_and_half_is_computed_in_float32(run_on: RunOn) -> None:
    for stored, working in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        method = Recorder()
        run = run_on(nn.Sequential(nn.Linear(4, 4)).to(stored), target_modules="0")
        method.setup(run)
        (new,) = solve.propose(plan(method, run), run).proposals
        assert method.calls[0][1] == working
        assert new.value.dtype == working


def test_a_solution_of_another_shape_is_refused(run_on: RunOn, proposed: Proposed) -> None:
    @dataclass(kw_only=True)
    class Broken(WeightMethod):
        name: ClassVar[str] = "broken"

        def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
            return w[0]

    with pytest.raises(UserError, match=r"broken: solve must return shape \(1, 4, 4\), got \(4, 4\)"):
        proposed(Broken(), run_on(nn.Sequential(nn.Linear(4, 4)), target_modules="0"))
