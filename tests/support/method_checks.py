"""What every method keeps to: each check takes a function that makes the method, and leads it as `Attached` does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replastic.weights.outcome import Outcome
from support.training_bench import EVENTS, Bench, Make, data, differing, generators, hooks_in

FROZEN = ("conv1.weight",)
EXCLUDED = ("fc1",)
LEFT_ALONE = (*FROZEN, "fc1.weight", "fc1.bias")
_FIRST, _SECOND = (number for number, event in enumerate(EVENTS) if event[0] == "cross")
STOPS = (1, _FIRST, _FIRST + 1, _FIRST + 3, _SECOND + 1)
"""Numbers of events after which a run is broken off: within phases, and right before and after boundaries."""


def check_it_acts(make: Make) -> None:
    """Training with it ends elsewhere than training without; with an inert one at the same place.

    The optimizer keeps its state, so that proposing what is there already has no effect. A method that decides about
    the state itself is seen where the run would drop it.
    """
    policy = "reset_all" if any(part.policy for part in make().parts) else "keep"
    with Bench(None, policy=policy) as plain, Bench(make, policy=policy) as bench:
        same = not differing(plain.go().content(), bench.go().content())
        inert = bench.attached.method.inert
        assert same or not inert, "it says that it is inert, but it changes something"
        assert inert or not same, "it changes nothing at all, and does not say that it is inert"


def check_undo_takes_back_all_it_does(make: Make) -> None:
    """The loss term writes nothing, and whatever else is written can be undone: so nothing is written but proposals."""
    averaged = not make().changes_structure
    with Bench(make, averaged=averaged) as bench:
        for event in EVENTS:
            if event[0] == "update":
                batch = data(event[1])[event[2]]
                before = bench.content()
                bench.attached.penalty()
                assert differing(bench.content(), before) == [], "its penalty writes"
                bench.learn(batch)
            before, modules = bench.content(), list(bench.model.modules())
            undo(bench.act(event))
            assert differing(bench.content(), before) == [], f"not undone after {event}"
            assert list(bench.model.modules()) == modules


def check_a_dry_run_writes_nothing_and_tells_the_same(make: Make) -> None:
    """A boundary may be tried out first; what comes then is as if it had not been."""
    with Bench(make) as plain:
        end = plain.go().content()
    with Bench(make) as bench:
        for number, event in enumerate(EVENTS):
            if event[0] == "cross":
                before, memory = bench.content(), bench.memory()
                dry = bench.act(event, dry_run=True)
                assert differing(bench.content(), before) == []
                assert differing(bench.memory(), memory) == []
                wet = bench.act(event)
                assert len(dry) == len(wet)
                if len(bench.attached.method.parts) == 1:  # else the second acts on what the first left
                    assert [outcome.layers for outcome in dry] == [outcome.layers for outcome in wet]
            else:
                bench.go(number, number + 1)
        assert differing(bench.content(), end) == []


def check_frozen_and_excluded_weights_are_left_alone(make: Make) -> None:
    """At boundaries, after updates, and in the term it adds to the loss."""
    with Bench(make, frozen=FROZEN, exclude_modules=EXCLUDED) as bench:
        begin = {name: bench.model.get_parameter(name).detach().clone() for name in LEFT_ALONE}
        for event in EVENTS:
            if event[0] == "update":
                _no_pull(bench)
                bench.learn(data(event[1])[event[2]])
            before = {name: bench.model.get_parameter(name).detach().clone() for name in LEFT_ALONE}
            bench.act(event)
            after = {name: bench.model.get_parameter(name).detach().clone() for name in LEFT_ALONE}
            assert differing(after, before) == [], f"written by {event}"
            assert all(torch.equal(after[name], begin[name]) for name in FROZEN)


def _no_pull(bench: Bench) -> None:
    penalty = bench.attached.penalty()
    if penalty is None:
        return
    excluded = [bench.model.get_parameter(name) for name in LEFT_ALONE if name not in FROZEN]
    pull = torch.autograd.grad(penalty, excluded, allow_unused=True)
    assert not any(g is not None and g.any() for g in pull), "its penalty pulls at excluded weights"


def check_a_resumed_run_ends_the_same(make: Make) -> None:
    """Broken off anywhere and taken up by new objects, to the bit; a boundary that was crossed is not crossed again."""
    with Bench(make) as whole:
        saved = {}
        for number in range(len(EVENTS)):
            if number in STOPS:
                saved[number] = whole.saved()
            whole.go(number, number + 1)
        end, memory = whole.content(), whole.memory()
    for number, state in saved.items():
        phase = EVENTS[number - 1][1]
        with Bench(make, phase=phase) as bench:
            bench.load(state)
            before = bench.content()
            assert bench.attached.cross(phase, batches=data(phase)) == [], "a boundary was crossed twice"
            assert differing(bench.content(), before) == []
            bench.go(number)
            assert differing(bench.content(), end) == [], f"broken off before event {number}, {EVENTS[number]}"
            assert differing(bench.memory(), memory) == []


def check_no_hook_stays(make: Make) -> None:
    """In the end, after an error, and if it never began."""
    bench = Bench(make)
    before = hooks_in(bench)
    bench.attached.close()
    with bench:
        bench.go()
    assert hooks_in(bench) == before
    bench.attached.close()
    bench = Bench(make)
    try:
        with bench:
            bench.go(last=2)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert hooks_in(bench) == before


def check_global_generators_are_left_alone(make: Make) -> None:
    """It neither draws from them nor depends on them."""
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        states = generators()
        with Bench(make) as bench:
            ends.append(bench.go().content())
        assert generators() == states, "a global generator was drawn from"
    assert differing(*ends) == []


def check_the_seed_matters_if_and_only_if_it_draws(make: Make) -> None:
    """`Method.draws` says whether the run's seed decides what it does."""
    ends = []
    for seed in (5, 6):
        with Bench(make, seed=seed) as bench:
            ends.append(bench.go().content())
    assert bool(differing(*ends)) == make().draws


def check_parameters_stay_the_objects_they_are(make: Make, dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Identity, dtype, strides, memory and `requires_grad`; and every number stays finite."""
    with Bench(make, dtype=dtype, layout=layout) as bench:

        def facts() -> dict[str, object]:
            found = {n: (id(p), p.dtype, p.stride(), p.data_ptr()) for n, p in bench.model.named_parameters()}
            return {n: found[n] for n in names}

        names = [n for n, _ in bench.model.named_parameters()]
        before = facts()
        content = bench.go().content()
        assert facts() == before
        assert [n for n, value in content.items() if not value.isfinite().all()] == []


def check_what_is_reported_is_what_changed(make: Make) -> None:
    """The squared change of every weight, in the stored precision."""
    with Bench(make, dtype=torch.bfloat16) as bench:
        bench.go(last=next(i for i, e in enumerate(EVENTS) if e[0] == "cross"))
        before = _weights(bench)
        outcomes = bench.attached.cross(1)
        after = _weights(bench)
        if len(outcomes) > 1:
            return  # one part's changes are the next one's beginning
        layers = [layer for outcome in outcomes for layer in outcome.layers]
        for weight in {layer.weight for layer in layers}:
            moved = float((after[weight] - before[weight]).square().sum())
            reported = sum(layer.sfe for layer in layers if layer.weight == weight)
            assert abs(reported - moved) <= 1e-9 * moved + 1e-12, weight


def _weights(bench: Bench) -> dict[str, Tensor]:
    return {name: value.double().clone() for name, value in bench.model.state_dict().items()}


def undo(outcomes: list[Outcome]) -> None:
    """Take back what was done, the last first."""
    for outcome in reversed(outcomes):
        outcome.undo_()


CHECKS: dict[str, Callable[[Any], None]] = {
    check.__name__: check
    for check in (
        check_it_acts,
        check_undo_takes_back_all_it_does,
        check_a_dry_run_writes_nothing_and_tells_the_same,
        check_frozen_and_excluded_weights_are_left_alone,
        check_a_resumed_run_ends_the_same,
        check_no_hook_stays,
        check_global_generators_are_left_alone,
        check_the_seed_matters_if_and_only_if_it_draws,
        check_what_is_reported_is_what_changed,
    )
}
