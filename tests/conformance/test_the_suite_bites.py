"""Methods that are broken in one way each, and the check of the suite that has to fail for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.methods import Method, Need, Run
from replastic.weights.change import Change, LayerOutcome, Proposal, UnitReset
from support import method_checks as checks
from support.method_checks import CHECKS


@dataclass(kw_only=True)
class Shrink(Method):
    """Sound: shrinks weights between phases, and now and then while it trains; the others differ from it in one way."""

    name: ClassVar[str] = "shrink"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    def setup(self, run: Run) -> None:
        self.names = [e.name for e in run.store.entries() if e.trainable and not e.name.startswith("fc1")]
        self.count = torch.zeros((), dtype=torch.int64)
        self.model = run.model

    def after_step(self, run: Run) -> Change | None:
        self.count += 1
        return self.shrunk(run) if self.count % 3 == 0 else None

    def on_boundary(self, run: Run) -> Change:
        return self.shrunk(run)

    def shrunk(self, run: Run) -> Change:
        return Change([Proposal(name, 0.9 * run.store.read(name)) for name in self.names])

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.count = state["count"].clone()

    def weight(self, name: str) -> Tensor:
        assert self.model is not None
        return self.model.get_parameter(name)


class ProposesNothing(Shrink):
    def shrunk(self, run: Run) -> Change:
        return Change()


class ProposesWhatIsThere(Shrink):
    def shrunk(self, run: Run) -> Change:
        return Change([Proposal(name, run.store.read(name)) for name in self.names])


class SaysItIsInert(Shrink):
    inert = True


class WritesAtTheBoundary(Shrink):
    def on_boundary(self, run: Run) -> Change:
        with torch.no_grad():
            self.weight("head.weight").mul_(0.9)
        return Change()


class WritesAndProposesTheSameAtTheBoundary(Shrink):
    def on_boundary(self, run: Run) -> Change:
        with torch.no_grad():
            self.weight("head.weight").mul_(0.9)
        return Change([Proposal("head.weight", run.store.read("head.weight"))])


class WritesABufferAtTheBoundary(Shrink):
    def on_boundary(self, run: Run) -> Change:
        self.model.bn1.running_mean.zero_()  # type: ignore[union-attr]
        return self.shrunk(run)


class WritesAfterTheStep(Shrink):
    def after_step(self, run: Run) -> Change | None:
        with torch.no_grad():
            self.weight("head.weight").mul_(0.9)
        return None


class WritesInThePenalty(Shrink):
    def penalty(self, run: Run) -> Tensor:
        self.weight("head.weight").data.mul_(0.9)
        return self.weight("head.weight").square().sum()


class DropsMomentsItself(Shrink):
    def on_boundary(self, run: Run) -> Change:
        assert run.optimizer is not None
        run.optimizer.state.clear()
        return self.shrunk(run)


class ProposesFrozen(Shrink):
    def setup(self, run: Run) -> None:
        super().setup(run)
        self.names = [e.name for e in run.store.entries() if e.role != "buffer" and not e.name.startswith("fc1")]


class ProposesExcludedAtTheBoundary(Shrink):
    def on_boundary(self, run: Run) -> Change:
        return Change([Proposal("fc1.weight", 0.9 * run.store.read("fc1.weight"))])


class ProposesExcludedWhileItTrains(Shrink):
    def after_step(self, run: Run) -> Change:
        return Change([Proposal("fc1.bias", 0.9 * run.store.read("fc1.bias"))])


class ResetsExcludedUnits(Shrink):
    def after_step(self, run: Run) -> Change:
        return Change(units=[UnitReset("fc1.weight", 0, torch.tensor([2]), torch.zeros(1, 24))])


class WritesFrozenInPlace(Shrink):
    def after_step(self, run: Run) -> Change | None:
        self.weight("conv1.weight").data.mul_(0.9)
        return None


class PullsAtExcluded(Shrink):
    def penalty(self, run: Run) -> Tensor:
        return self.weight("fc1.weight").square().sum()


class ForgetsItsCount(Shrink):
    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass


class SavesButDoesNotLoad(Shrink):
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        pass


class ActsWhenItIsSetUp(Shrink):
    def setup(self, run: Run) -> None:
        super().setup(run)
        with torch.no_grad():
            self.weight("head.bias").add_(run.step + 1.0)


class RemembersADryRun(Shrink):
    def on_boundary(self, run: Run) -> Change:
        self.crossed = getattr(self, "crossed", 0) + 1
        return Change([Proposal("head.weight", run.store.read("head.weight") * self.crossed / 2)])


class LeavesAForwardHook(Shrink):
    def setup(self, run: Run) -> None:
        super().setup(run)
        self.model.conv2.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]


class LeavesATensorHook(Shrink):
    def setup(self, run: Run) -> None:
        super().setup(run)
        self.weight("conv2.weight").register_hook(lambda gradient: None)


class LeavesAnOptimizerHook(Shrink):
    def setup(self, run: Run) -> None:
        super().setup(run)
        assert run.optimizer is not None
        run.optimizer.register_step_post_hook(lambda *_: None)


class LeavesAHookAfterAnError(Shrink):
    def setup(self, run: Run) -> None:
        super().setup(run)
        self.hook = self.model.conv2.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]

    def on_boundary(self, run: Run) -> Change:
        self.hook.remove()
        return self.shrunk(run)


class DrawsFromTorch(Shrink):
    def shrunk(self, run: Run) -> Change:
        return Change([Proposal(n, 0.9 * v + torch.randn_like(v)) for n in self.names for v in [run.store.read(n)]])


class DrawsFromNumpy(Shrink):
    def on_boundary(self, run: Run) -> Change:
        return Change([Proposal("head.weight", run.store.read("head.weight") * np.random.rand())])


class DrawsFromPython(Shrink):
    def on_boundary(self, run: Run) -> Change:
        return Change([Proposal("head.weight", run.store.read("head.weight") * random.random())])


class SeedsTheGlobalGenerator(Shrink):
    def on_boundary(self, run: Run) -> Change:
        torch.manual_seed(run.seed)
        return Change([Proposal(name, run.store.read(name) + torch.randn(())) for name in self.names])


class DrawsAndDoesNotSaySo(Shrink):
    def on_boundary(self, run: Run) -> Change:
        g = torch.Generator().manual_seed(run.seed)
        return Change([Proposal(name, run.store.read(name) * torch.rand((), generator=g)) for name in self.names])


class MovesAParameterInMemory(Shrink):
    def on_boundary(self, run: Run) -> Change:
        weight = self.weight("head.weight")
        self.old = [*getattr(self, "old", []), weight.data]  # kept, so that the next does not lie where the first did
        weight.data = 0.9 * weight.data
        return Change()


class ReportsLess(Shrink):
    def on_boundary(self, run: Run) -> Change:
        told = LayerOutcome("head.weight", "", "linear", 1, 4, 12, self.name, 0.0, 0.0, 1.0, 1.0)
        return Change([Proposal("head.weight", 0.9 * run.store.read("head.weight"), (told,))])


def keeps_objects(make: Any) -> None:
    checks.check_parameters_stay_the_objects_they_are(make, torch.float32, torch.contiguous_format)


BROKEN: list[tuple[type[Method], Callable[[Any], None], type[Exception]]] = [
    (ProposesNothing, checks.check_it_acts, AssertionError),
    (ProposesWhatIsThere, checks.check_it_acts, AssertionError),
    (SaysItIsInert, checks.check_it_acts, AssertionError),
    (WritesAtTheBoundary, checks.check_undo_takes_back_all_it_does, AssertionError),
    (WritesAtTheBoundary, checks.check_a_dry_run_writes_nothing_and_tells_the_same, AssertionError),
    (WritesAndProposesTheSameAtTheBoundary, checks.check_undo_takes_back_all_it_does, AssertionError),
    (WritesABufferAtTheBoundary, checks.check_undo_takes_back_all_it_does, AssertionError),
    (WritesAfterTheStep, checks.check_undo_takes_back_all_it_does, AssertionError),
    (WritesInThePenalty, checks.check_undo_takes_back_all_it_does, AssertionError),
    (DropsMomentsItself, checks.check_undo_takes_back_all_it_does, AssertionError),
    (ProposesFrozen, checks.check_frozen_and_excluded_weights_are_left_alone, UserError),
    (ProposesExcludedAtTheBoundary, checks.check_frozen_and_excluded_weights_are_left_alone, UserError),
    (ProposesExcludedWhileItTrains, checks.check_frozen_and_excluded_weights_are_left_alone, UserError),
    (ResetsExcludedUnits, checks.check_frozen_and_excluded_weights_are_left_alone, UserError),
    (WritesFrozenInPlace, checks.check_frozen_and_excluded_weights_are_left_alone, AssertionError),
    (PullsAtExcluded, checks.check_frozen_and_excluded_weights_are_left_alone, AssertionError),
    (ForgetsItsCount, checks.check_a_resumed_run_ends_the_same, AssertionError),
    (SavesButDoesNotLoad, checks.check_a_resumed_run_ends_the_same, AssertionError),
    (RemembersADryRun, checks.check_a_resumed_run_ends_the_same, AssertionError),
    (RemembersADryRun, checks.check_a_dry_run_writes_nothing_and_tells_the_same, AssertionError),
    (LeavesAForwardHook, checks.check_no_hook_stays, AssertionError),
    (LeavesATensorHook, checks.check_no_hook_stays, AssertionError),
    (LeavesAnOptimizerHook, checks.check_no_hook_stays, AssertionError),
    (LeavesAHookAfterAnError, checks.check_no_hook_stays, AssertionError),
    (DrawsFromTorch, checks.check_global_generators_are_left_alone, AssertionError),
    (DrawsFromNumpy, checks.check_global_generators_are_left_alone, AssertionError),
    (DrawsFromPython, checks.check_global_generators_are_left_alone, AssertionError),
    (SeedsTheGlobalGenerator, checks.check_global_generators_are_left_alone, AssertionError),
    (DrawsAndDoesNotSaySo, checks.check_the_seed_matters_if_and_only_if_it_draws, AssertionError),
    (MovesAParameterInMemory, keeps_objects, AssertionError),
    (ReportsLess, checks.check_what_is_reported_is_what_changed, AssertionError),
]


@pytest.mark.parametrize(
    ("kind", "check", "error"), BROKEN, ids=[f"{kind.__name__}-{check.__name__}" for kind, check, _ in BROKEN]
)
def test_a_broken_method_is_caught(kind: type[Method], check: Callable[[Any], None], error: type[Exception]) -> None:
    with pytest.raises(error):
        check(kind)


@pytest.mark.parametrize("check", [*CHECKS.values(), keeps_objects])
def test_a_sound_method_passes(check: Callable[[Any], None]) -> None:
    check(Shrink)


def test_every_check_is_known_to_fail_for_something() -> None:
    proven = {check for _, check, _ in BROKEN}
    assert [name for name, check in CHECKS.items() if check not in proven] == []
