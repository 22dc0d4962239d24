"""A method at work, in anybody's loop: the one place that asks methods what to change, and has it written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal
from weakref import WeakMethod

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from replastic.errors import UserError
from replastic.interventions.asked import Asked, with_gradients
from replastic.interventions.entering import entering
from replastic.interventions.method import Method, WeightMethod
from replastic.interventions.needs import Plans, check_needs, used
from replastic.interventions.optimizers import adopt, own_optimizer, scale_steps
from replastic.interventions.passes import Batches, as_passes
from replastic.interventions.penalties import in_full_precision
from replastic.interventions.plan import Plan, plan
from replastic.interventions.run import Run
from replastic.interventions.solve import propose
from replastic.interventions.warned import warned
from replastic.interventions.watch import Acted, Watch
from replastic.weights.change import Change, Proposal
from replastic.weights.entries import WeightEntry
from replastic.weights.followers import Followers
from replastic.weights.optimizer_state import Policy, check_policy
from replastic.weights.outcome import Outcome
from replastic.weights.targets import protected
from replastic.weights.writer import write

Progress = Callable[[Any], Iterable[Any]]
"""Wraps what is read one by one, such as `tqdm`."""
_METHOD, _WATCH = "method/", "watch/"


class Attached:
    """A method at work on the weights of a run. Use it in a `with` block, so that the method's hooks are removed.

    Over a run its user calls `begin` in the first phase in which the method is on; for every update `penalty` (before
    the backward pass), for some methods `backward` (in place of that pass), and `after_update` (after the optimizer's
    step); and `cross` between two phases. Gradient accumulation, learning-rate schedulers and gradient scalers stay the
    user's: one call per optimizer step is all that is asked for. Frozen weights and those of `Run.exclude_modules` are
    never written, whatever a method proposes.

    Args:
        method: The method, or several joined by ``+``.
        run: The weights, live or in files, and what else the method may see.
        optimizers: Those that train the weights, by name; ``""`` for the only one. A method that makes its own takes
            their parameter groups over: step those in `optimizers`, not the ones that were given.
        policy: What becomes of the optimizers' state at a boundary: ``reset_touched`` drops that of rewritten weights,
            ``keep`` none. ``reset_all`` drops all, also where the method changes nothing, so that all methods of a
            comparison are treated alike. Rows of units that are reset are cleared under every policy.
        followers: Copies that follow what is written: target networks, moving averages, fp32 masters.
        renew: Makes them anew where a method puts other modules into the model; gets the names of what it has written.
        staging: Where new values wait while they are written; see `write`.
        agree: When the processes of a torch.distributed group, each with a copy of the model, compare what they are
            about to write, so that the copies stay alike: at every write, between phases, or never.
        watch: Decides after every update whether the method acts as between two phases; see `triggers`.
    """

    def __init__(
        self,
        method: Method,
        run: Run,
        optimizers: Mapping[str, Optimizer] | None = None,
        *,
        policy: Policy = "reset_touched",
        followers: Followers | None = None,
        renew: Callable[[Collection[str]], None] | None = None,
        staging: str = "memory",
        agree: Literal["always", "between phases", "never"] = "always",
        watch: Watch | None = None,
    ) -> None:
        self.method = method
        self.policy = check_policy(next((part.policy for part in method.parts if part.policy), policy))
        self.run = run
        self.optimizers: dict[str, Optimizer] = dict(optimizers or {})
        self.is_on = False
        """Whether the method has been set up, and so has a say."""
        self.watch = watch
        """The trigger, if one decides when the method acts."""
        self.acted: list[Acted] = []
        """The actions of this process that the trigger brought about, in their order."""
        self._followers = followers
        self._renew = renew
        self._staging = staging
        self._asked = Asked()
        self._agree = agree
        self._plans: dict[str, Plan] = {}
        self._planned_for: Sequence[WeightEntry] = ()
        self._barred: tuple[Sequence[WeightEntry], Mapping[str, str]] = ((), {})
        self._scaling: list[RemovableHandle] = []
        self._note_optimizer()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer to step: the one that was given, or the method's own.

        Raises:
            UserError: There is none, or there are several; those are in `optimizers`.
        """
        if len(self.optimizers) != 1:
            names = ", ".join(map(repr, self.optimizers)) or "none"
            raise UserError(f"there is no one optimizer here, but {names}: see .optimizers")
        return next(iter(self.optimizers.values()))

    def check(self) -> Plans:
        """Check the method against the run, so that what would fail later fails now.

        Raises:
            UserError: A field is not allowed, something the method needs is missing, or a pattern matches nothing.
        """
        self._plans = dict(check_needs(self.method, self.run))
        self._planned_for = self.run.store.entries()
        return self._plans

    def unused(self, given: Mapping[str, object]) -> tuple[str, ...]:
        """Names of what was given although neither the method nor a rule of the recipe uses it; call `check` first."""
        needed = {"loss_fn" if need == "loss" else need for need in used(self.method, self._plans)}
        return tuple(name for name, value in given.items() if value is not None and name not in needed)

    def begin(self, phase: int | None = None) -> None:
        """Turn the method on: check its needs, set it up, and let it make its optimizer if it has its own.

        Args:
            phase: Index of the phase under way; left as it is if None.
        """
        if phase is not None:
            self.run.phase = phase
        if self.is_on:
            return
        self.check()
        if self.method.makes_optimizer and not self.optimizers:
            raise UserError(f"{self.method.name} trains with an optimizer of its own: pass optimizer= to replace")
        self.method.setup(self.run)
        self.is_on = True
        if self.method.makes_optimizer:
            self.optimizers = {name: own_optimizer(self.method, one) for name, one in self.optimizers.items()}
            self._note_optimizer()
        if self.method.changes_rate:
            self._scaling = scale_steps(self.optimizers.values(), WeakMethod(self.rate))

    def rate(self) -> float:
        """Factor on the learning rate of the next update. Steps of `optimizers` heed it; no schedule need know of it.

        It matters to those alone who use the learning rate outside of the optimizer, such as for weight decay.
        """
        return self.method.rate(self.run) if self.is_on else 1.0

    def penalty(self) -> Tensor | None:
        """The term to add to the loss of the next update, a scalar; None if the method has none.

        It is computed in the weights' own precision, inside `torch.autocast` too.
        """
        self._asked.penalty = True
        if self.run.model is None or not any(type(part).penalty is not Method.penalty for part in self._parts()):
            return None
        with in_full_precision(self.run.model):
            return self.method.penalty(self.run)

    def backward(self, closure: Callable[[], Tensor], optimizer: str | None = None) -> Tensor:
        """Have the gradients of the next update computed. Needed for methods that want the loss twice, such as ``sam``.

        ::

            def closure():
                method.optimizer.zero_grad()
                loss = loss_fn(model, batch)  # and method.penalty(), if there is one
                loss.backward()
                return loss

            loss = method.backward(closure)  # then the optimizer's step, and method.after_update()

        Every other method calls the closure once, so a loop may be written like this for all of them. Micro-batches,
        autocast and a gradient scaler go into the closure.

        Args:
            closure: Clears the gradients, computes the loss and its gradients, and returns the loss.
            optimizer: Name of the optimizer that is stepped next; None for all of them.

        Returns:
            The loss at the weights as they are, by the first call. A `UserError` if that leaves no gradient.
        """
        self._asked.backward = True
        if not self.is_on:
            return closure()
        chosen = self.optimizers.values() if optimizer is None else (self.optimizers[optimizer],)
        parameters = [p for one in chosen for group in one.param_groups for p in group["params"]]
        return self.method.backward(self.run, parameters, with_gradients(closure, parameters))

    def after_update(self, loss: Tensor | float | None = None, *, changed: bool = False) -> list[Outcome]:
        """Let the method act after an update of the weights; what it proposes is written.

        With a trigger it also acts as between two phases (`cross`), whenever the trigger finds that it is time.

        Args:
            loss: The training loss of this update, a scalar, for triggers that decide by it; not read at once.
            changed: Whether the data changed after this update, for triggers that listen to it.

        Returns:
            What each part that acted did; empty if none did. Undo them in reverse order.

        Raises:
            UserError: What a part proposes cannot be written; of that nothing was. Or a call is missing that the method
                needs, of `backward` or `penalty`; or the trigger needs the loss.
        """
        if self.is_on:
            self._asked.check(self.method)
        self.run.step += 1
        changes = (part.after_step(self.run) for part in self._parts())
        outcomes = [self._write(change, "keep") for change in changes if change is not None]
        if self.watch is not None and self.is_on:
            reason = self.watch.update(loss, changed=changed)
            if reason:
                outcomes += self.cross()
                self.acted.append(Acted(self.run.step, reason))
        return outcomes

    def cross(
        self,
        phase: int | None = None,
        *,
        policy: Policy | None = None,
        batches: Batches | Iterable[Any] | None = None,
        begin: bool = False,
        dry_run: bool = False,
        progress: Progress = iter,
    ) -> list[Outcome]:
        """Let the method act between two phases, part by part, each on what the one before it left.

        Args:
            phase: Index of the phase that begins; the next one if None. A boundary that was crossed already is not
                crossed again, so a resumed loop may call this as it did before.
            policy: What becomes of the optimizers' state; that of the constructor if None.
            batches: Data of the phase that begins. What was given before then counts as data of the past phase.
            begin: Turn the method on if it is not yet; it is set up as in the phase that begins.
            dry_run: Compute and report all, write nothing; the boundary is still to be crossed. Each part then sees
                the weights as they are, not as the part before it would leave them.
            progress: Wraps the new weights on their way.

        Returns:
            What each part that acts between phases did, and for ``reset_all`` that the state was dropped if none acts;
            empty if the boundary was crossed before. Undo them in reverse order: that puts back the weights, not what
            the method itself remembers.

        Raises:
            UserError: What a part proposes cannot be written; weights and method are what they were, and the boundary
                is still to be crossed.
        """
        policy = check_policy(policy or self.policy)
        past = self.run.phase
        phase = past + 1 if phase is None else phase
        if phase <= past:
            return []
        if begin and not self.is_on:
            try:
                self.begin(phase)
            finally:
                self.run.phase = past
        outcomes: list[Outcome] = []
        with entering(self.run, self.method if self.is_on else None, phase, outcomes, dry_run=dry_run):
            if batches is not None:
                self.run.past_batches = self.run.batches
                self.run.batches, self.run.pass_steps = as_passes(batches)
            for part in self._parts():
                change = self._change(part)
                if change is not None:
                    change = replace(change, proposals=progress(change.proposals))
                    outcomes.append(self._write(change, policy, between_phases=True, dry_run=dry_run))
            if policy == "reset_all" and not outcomes:
                outcomes.append(self._write(Change(), policy, between_phases=True, dry_run=dry_run))
        if self.watch is not None and not dry_run:
            self.watch.acted()
        return outcomes

    def state_dict(self) -> dict[str, Tensor]:
        """The state for going on later, beside model and optimizer; tensors by name."""
        kept = self.method.state_dict() if self.is_on else {}
        return {
            "phase": torch.tensor(self.run.phase),
            "step": torch.tensor(self.run.step),
            "is_on": torch.tensor(int(self.is_on)),
            "name": torch.tensor(list(self._name.encode()), dtype=torch.uint8),
            **{f"{_METHOD}{name}": value for name, value in kept.items()},
            **{f"{_WATCH}{name}": value for name, value in (self.watch.state_dict() if self.watch else {}).items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Call it before the saved weights and optimizer state are loaded: a method that adds modules puts them in place
        here, and the weights of these are among the saved ones.

        Raises:
            UserError: The state is that of another method or network.
        """
        missing = {"phase", "step", "is_on", "name"} - state.keys()
        if missing:
            raise UserError(f"this is no state of a method at work: it lacks {', '.join(sorted(missing))}")
        name = bytes(state["name"].tolist()).decode()
        if int(state["is_on"]) and name != self._name:
            raise UserError(f"the saved state is that of {name}, not of {self._name}")
        self.run.phase, self.run.step = int(state["phase"]), int(state["step"])
        watched = {name.removeprefix(_WATCH): value for name, value in state.items() if name.startswith(_WATCH)}
        if self.watch is not None and watched:
            self.watch.load_state_dict(watched)
        if not int(state["is_on"]):
            return
        self.begin()
        try:
            self.method.load_state_dict({n.removeprefix(_METHOD): v for n, v in state.items() if n.startswith(_METHOD)})
        except KeyError as error:
            raise UserError(f"the saved state of {self.method.name} lacks {error}") from error
        for part in self.method.parts:
            change = part.rebuild(self.run)
            if change is not None:
                self._write(change, "keep")

    def close(self) -> None:
        """Remove the method's hooks and let go of the model."""
        self.method.close()
        for hook in self._scaling:
            hook.remove()
        self._scaling = []
        self.is_on = False

    @property
    def _name(self) -> str:
        return "+".join(part.name for part in self.method.parts)

    def _parts(self) -> tuple[Method, ...]:
        return self.method.parts if self.is_on else ()

    def _change(self, part: Method) -> Change | None:
        if not isinstance(part, WeightMethod):
            return part.on_boundary(self.run)
        planned = self._plans.pop(part.name, None)
        # A plan holds copies of the method, made before it was set up, and is of the weights as they were then.
        if planned is None or type(part).setup is not Method.setup or self.run.store.entries() != self._planned_for:
            planned = plan(part, self.run)
        return propose(planned, self.run)

    def _write(self, change: Change, policy: Policy, *, between_phases: bool = False, dry_run: bool = False) -> Outcome:
        """Write what a part proposes, and tell every part where weights were replaced (`Method.after_write`)."""
        names: list[str] = []
        if (entries := self.run.store.entries()) is not self._barred[0]:
            self._barred = entries, protected(entries, self.run.exclude_modules)

        def allowed(name: str) -> str:
            if reason := self._barred[1].get(name):
                raise UserError(f"{self._name} would write {name}, which is to be left alone ({reason})")
            return name

        def noted(proposal: Proposal) -> Proposal:
            names.append(allowed(proposal.name))
            return proposal

        units = tuple(unit for unit in change.units if allowed(unit.name))
        replaces = bool(units) or between_phases
        outcome = write(
            self.run.store,
            replace(change, proposals=map(noted, change.proposals), units=units),
            optimizer=tuple(self.optimizers.values()),
            policy=policy,
            followers=self._followers if replaces and not (change.modules and self._renew) else None,
            dry_run=dry_run,
            staging=self._staging,
            thorough=between_phases,
            agree=self._agree == "always" or (self._agree == "between phases" and between_phases),
        )
        if change.modules and self._renew is not None and not dry_run:
            self._renew(names)
        if between_phases:
            outcome = warned(outcome, self.run.model, tuple(self.optimizers.values()), self._followers)
        if replaces and not dry_run:
            self.method.after_write(self.run, names, units)
        if change.modules and not dry_run:
            outcome = outcome.then_undo(adopt(change.modules, tuple(self.optimizers.values())))
        return outcome

    def _note_optimizer(self) -> None:
        with suppress(StopIteration):
            self.run.optimizer = next(iter(self.optimizers.values()))
