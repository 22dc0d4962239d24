"""Which weights a method rewrites, each with the method its rule names and the options its rule sets."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from replastic.errors import UserError
from replastic.interventions.aim import choose
from replastic.interventions.method import Method, WeightMethod, get
from replastic.interventions.run import Run
from replastic.interventions.spec import build, check_fields
from replastic.weights.change import Skipped
from replastic.weights.entries import MatrixInfo, WeightEntry
from replastic.weights.recipe import APPLY, LEAVE, Rule, Target
from replastic.weights.targets import with_rule


@dataclass(frozen=True)
class Job:
    """One stored tensor to rewrite."""

    entry: WeightEntry
    method: WeightMethod
    infos: tuple[MatrixInfo, ...]
    """The batches of matrices in it, all of them; the whole tensor as one where the method works on tensors."""
    touched: tuple[int, ...]
    """Which of `infos` are rewritten."""
    whole: bool = False
    """Whether the method gets the tensor in its own shape rather than its matrices."""

    @property
    def cost(self) -> float:
        """Time that it takes, up to a factor: m n min(m, n) for a matrix (m, n)."""
        return float(sum(i.batch * i.d_out * i.d_in * (min(i.d_out, i.d_in) + 1) for i in self.infos))


@dataclass(frozen=True)
class Plan:
    """Everything a method rewrites, and what is left alone with the reason."""

    jobs: tuple[Job, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    """Doubts about the choice, in sentences for the user."""

    @property
    def methods(self) -> tuple[WeightMethod, ...]:
        """The methods of the jobs, each object once."""
        return tuple({id(job.method): job.method for job in self.jobs}.values())


def fingerprint(jobs: Sequence[Job], run: Run) -> str:
    """A text that two calls share if they do the same work on the same names and shapes, by the same draws."""
    facts = [(job.entry.name, job.entry.shape, job.infos, job.touched, _settings(job.method)) for job in jobs]
    return hashlib.sha256(repr((facts, run.seed, run.phase)).encode()).hexdigest()


def _settings(method: WeightMethod) -> str:
    return repr((method.name, [(f.name, getattr(method, f.name)) for f in fields(method)]))


def plan(method: WeightMethod, run: Run) -> Plan:
    """Choose weights, methods and options for a run; reads names and shapes, no weights.

    Raises:
        UserError: A pattern matches nothing, a rule names no method or an unknown option, or a field the caller set by
            hand has no effect on any weight.
    """
    run = method.narrowed(run)
    targets, skipped = choose(method.scope, run)
    by_hand = method.explicit
    resolved: dict[int, WeightMethod] = {}
    jobs = []
    for target in targets:
        if id(target.rule) not in resolved:
            resolved[id(target.rule)] = resolve(method, target.rule, by_hand).fitted(run)
        jobs.append(_job(target, resolved[id(target.rule)]))
    refuse_idle(method.name, [m for m in resolved.values() if type(m) is type(method)], by_hand)
    notes = _headless(run, [job.entry.name for job in jobs if job.entry.role == "matrix" and not job.whole])
    return Plan(tuple(jobs), skipped, notes)


def _headless(run: Run, matrices: Sequence[str]) -> tuple[str, ...]:
    """A note where the recipe leaves output layers alone, but none was found, so that one may be among the matrices.

    None where the model itself tells that it has no output layer, and none to those who chose or excluded weights.
    """
    if run.target_modules is not None or run.exclude_modules or len(matrices) < 2 or run.store.tells_outputs:
        return ()
    leaves = any(rule.action == LEAVE and "role:head" in rule.match for rule in run.recipe.rules)
    if not leaves or any(entry.role == "head" or entry.output for entry in run.store.entries()):
        return ()
    last = matrices[-1].removesuffix(".weight")
    return (
        "no output layer was found, so none is left alone: if one of these weights gives the outputs, exclude it, "
        f"such as exclude_modules=[{last!r}] (--exclude-modules {last})",
    )


def resolve(method: WeightMethod, rule: Rule, explicit: frozenset[str] = frozenset()) -> WeightMethod:
    """The method a rule asks for: `method` with the rule's options, or another one by name.

    Options of an `apply` rule are meant for whichever method is asked for: those it does not have, those in `explicit`
    and those without effect beside explicit ones are left out.
    """
    if rule.action != APPLY:
        kind = get(rule.action)
        if not issubclass(kind, WeightMethod):
            raise UserError(f"a rule cannot use {rule.action!r}: it does not rewrite weights one by one")
        return build(kind, rule.options)
    known = {f.name for f in fields(method)}
    options = {k: v for k, v in rule.options.items() if k in known and k not in explicit}
    if not options:
        return method
    idle = _with(method, options).idle()
    candidate = _with(method, {k: v for k, v in options.items() if k not in idle})
    check_fields(candidate)
    return candidate


def _with(method: WeightMethod, options: Mapping[str, Any]) -> WeightMethod:
    """The same method, whatever it remembers included, with some fields changed."""
    changed = copy.copy(method)
    for name, value in options.items():
        setattr(changed, name, value)
    return changed


def _job(target: Target, method: WeightMethod) -> Job:
    entry, rule = target.entry, target.rule
    if method.scope in ("parameters", "state") or (method.scope == "layers" and entry.view is None):
        return Job(entry, method, (whole_tensor(entry),), (0,), whole=True)
    if entry.view is None:
        raise UserError(f"a rule asks for {method.name}, which rewrites matrices, but {entry.name} is none")
    if not target.infos:
        entry = with_rule(entry, rule)
    assert entry.view is not None
    infos = entry.view.infos(entry.name, entry.shape)
    touched = tuple(i for i, n in enumerate(infos) if n in (target.infos or infos))
    return Job(entry, method, tuple(replace(n, role=entry.role) for n in infos), touched)


def whole_tensor(entry: WeightEntry) -> MatrixInfo:
    """A stored tensor described as if it were one matrix, rows first."""
    kind = entry.view.kind if entry.view is not None else "vector"
    d_out = entry.shape[0] if entry.shape else 1
    return MatrixInfo(entry.name, kind, 1, d_out, math.prod(entry.shape[1:]), role=entry.role)


def refuse_idle(name: str, used: Sequence[Method], by_hand: frozenset[str]) -> None:
    """Refuse fields that were set by hand and have no effect in any of the methods.

    Raises:
        UserError: There is one; the message names it and the settings beside which it has none.
    """
    for field in sorted(by_hand):
        if used and all(field in m.idle() for m in used):
            settings = {f.name: getattr(used[0], f.name) for f in fields(used[0]) if f.name not in used[0].idle()}
            beside = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise UserError(f"{name}: {field} has no effect beside {beside}; leave it out")
