"""The diagnosis of a live network: its weights, units, gradients and loss, and a verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from replastic import recipes
from replastic.api._calls import public
from replastic.api._readable import Readable, readable
from replastic.api._shared import LossFunction, as_recipe, check_seed, live_store
from replastic.api._side_by_side import first_batch, run_trial
from replastic.api._signs import GradientHealth, UnitHealth, gradient_health, unit_health
from replastic.api.diagnosis import WeightReport, weight_report
from replastic.api.live import probe_loss
from replastic.api.taken import Taken, chosen, table, take
from replastic.api.trial import Trial
from replastic.api.verdict import ENOUGH, State, Verdict, judge
from replastic.errors import UserError
from replastic.probes import check_loss_fn
from replastic.text import columns, json_ready
from replastic.weights.module_store import ModuleStore
from replastic.weights.recipe import Recipe, Target

SHARPNESS = "hessian_top"
"""The measure of the loss that is always taken."""


@dataclass(frozen=True)
class Diagnosis:
    """Weights, units, gradients and loss of a network; prints as tables that end with the verdict."""

    weights: WeightReport
    units: tuple[UnitHealth, ...] = ()
    loss: float | None = None
    sharpness: float | None = None
    """Largest eigenvalue of the Hessian of the loss on the batch, in evaluation mode."""
    gradients: tuple[GradientHealth, ...] = ()
    trial: Trial | None = None
    measures: tuple[Taken, ...] = ()
    """Those that were asked for, in their order."""
    notes: tuple[str, ...] = ()
    """Limits of the evidence: too few samples, a model without gradients."""

    @property
    def state(self) -> State:
        """The conclusion in a word; see `State`."""
        return self._judged.state

    @property
    def verdict(self) -> str:
        """The conclusion from all evidence, in words, and what to do next."""
        return self._judged.words

    @property
    def _judged(self) -> Verdict:
        values = {t.name: t.value for t in self.measures if isinstance(t.value, float)}
        return judge(self.weights, self.units, self.gradients, self.loss, self.trial, values)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: what is not a finite number becomes null."""
        content = {
            "weights": self.weights.to_dict(),
            "units": [asdict(u) for u in self.units],
            "gradients": [asdict(g) for g in self.gradients],
            "loss": self.loss,
            "sharpness": self.sharpness,
            "trial": None if self.trial is None else self.trial.to_dict(),
            "measures": {t.name: t.to_dict() for t in self.measures},
            "notes": self.notes,
            "state": self.state,
            "verdict": self.verdict,
        }
        return dict(json_ready(content))

    def __str__(self) -> str:
        """The tables and the verdict."""
        lines = [self.weights.table()]
        if self.units:
            lines += ["", *(f"  {line}" for line in columns(self._unit_rows()))]
        if self.loss is not None:
            curvature = "" if self.sharpness is None else f", largest Hessian eigenvalue {self.sharpness:.4g}"
            lines += ["", f"  loss {self.loss:.4g}{curvature}"]
        if self.measures:
            lines += ["", *table(self.measures)]
        notes = (*self.notes, *(self.trial.notes if self.trial is not None else ()))
        if notes:
            lines += ["", *(f"  {line}" for line in notes)]
        return "\n".join([*lines, "", self.verdict])

    def _unit_rows(self) -> list[list[str]]:
        rows = [
            [
                u.layer,
                *(f"{share:.1%}" for share in (u.dormant, u.dead, u.stuck, u.active)),
                f"{u.srank} of {u.directions}",
            ]
            for u in self.units
        ]
        return [["units of", "dormant", "dead", "stuck", "active", "srank of features"], *rows]


@public
def diagnose(
    model: nn.Module,
    batch: Any = None,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    measures: str | Sequence[str] = (),
    trial: int = 0,
    optimizer: Optimizer | Callable[..., Optimizer] | None = None,
    learning_rate: float | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    seed: int = 0,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
) -> Diagnosis:
    """Measure a network and say in words whether it has lost plasticity. Leaves no trace in the model.

    One verdict is drawn from all evidence. Weights: collapsed spectra, as in `inspect`. With a batch: layers in which a
    quarter of the units are dormant (score E|h_i| / mean_k E|h_k| at most 0.025; Sokar et al. 2023, definition 3.1) or
    stuck, and features of low effective rank. With a loss: weights that no gradient reaches. The thresholds are ours.

    With ``trial=200`` the question itself is measured: a copy and a fresh network of the same kind are trained for 200
    steps each, on the data given and on its first batch with random labels. The time is estimated and printed before.
    The trial then decides the verdict. Model, gradients and random generators stay as they are. Memory holds
    one further network with its optimizer at a time.

    With ``measures="all"`` every registered measure is taken, too: NTK, Jacobian, Hessian, plasticity and the others.

    Args:
        model: A live module.
        batch: What `loss_fn` takes, or, without one, inputs of the model (the first of a tuple). Without a batch only
            the weights are looked at. Give more samples than the widest layer has units. A loader (any iterable that is
            no tensor, tuple, list or table) is trained on in a trial; everything else looks at its first batch.
        loss_fn: ``loss_fn(model, batch)`` -> mean loss; adds the loss, the gradients and the largest Hessian
            eigenvalue. A trial on pairs (inputs, whole-number labels) can do without: it takes the cross-entropy.
        measures: Registered measures to take beside these (``replastic list metrics``): a name, a spec such as
            ``plasticity:steps=50``, or several; ``"all"`` for every one that the arguments allow. Their cost is
            estimated and printed before. One that cannot be taken says why, and the others are still taken. Those of
            weights look at what the recipe chooses.
        trial: Optimizer steps of each network in a trial; 0 for none.
        optimizer: For the trial: an optimizer whose kind and settings are taken over, a class, or a function of the
            parameters. Adam by default.
        learning_rate: For the trial; by default that of the optimizer given, or 0.001.
        fresh: For the trial: draws a new initial state dict from a seed; by default each module's `reset_parameters`.
        seed: Seed of everything that is drawn, in the trial and by measures.
        recipe: Which weights; as in `apply_`, like the next three.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left out.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.

    Raises:
        UserError: A pattern or name matches nothing; a loss function, a trial or a measure comes without a batch; the
            loss is not one number; or the model cannot be copied for a trial.
    """
    _check(batch, loss_fn, trial, optimizer=optimizer, learning_rate=learning_rate, fresh=fresh)
    asked = chosen(measures, batch, loss_fn)
    traced = None if _is_loader(batch) else loss_fn  # a loader would draw its batch from the caller's generator
    store, rules = _whole(live_store(model, batch, traced)), as_recipe(recipe, layout)
    choice: dict[str, Any] = {
        "target_modules": target_modules,
        "exclude_modules": exclude_modules,
        "include": include,
    }
    report = weight_report(store, rules, **choice)
    if not all(layer.finite for layer in report.layers):
        return Diagnosis(report)  # units and loss of weights that are NaN say nothing
    data = batch if batch is None or _is_loader(batch) else [batch]
    sample = None if data is None else first_batch(data, model)
    tried = None
    if trial:
        settings: dict[str, Any] = {"optimizer": optimizer, "learning_rate": learning_rate, "fresh": fresh}
        tried = run_trial(model, data, loss_fn, steps=trial, seed=check_seed(seed), **settings)
    found = Diagnosis(report, trial=tried)
    if sample is not None:
        found = _on_batch(found, model, sample, loss_fn, readable(store, rules, **choice).targets)
    given: dict[str, Any] = {"recipe": rules, "model": model, "batch": sample, "loss_fn": loss_fn}
    given["store"] = Readable(store)
    taken = take(asked, **given, seed=check_seed(seed))
    if found.loss is not None and not _frozen(model):
        (sharp,) = [t for t in taken if t.name == SHARPNESS] or take({SHARPNESS: SHARPNESS}, **given, tell=False)
        assert not isinstance(sharp.value, list)
        told = (f"the largest Hessian eigenvalue was not measured: {sharp.problem}",) if sharp.problem else ()
        found = replace(found, sharpness=sharp.value, notes=found.notes + told)
    return replace(found, measures=taken)


def _on_batch(
    found: Diagnosis, model: nn.Module, sample: Any, loss_fn: LossFunction | None, targets: Sequence[Target]
) -> Diagnosis:
    """The diagnosis with units, loss and gradients on a batch, beside the weights."""
    units = unit_health(model, sample, loss_fn)
    notes = []
    short = [u for u in units if u.samples < u.units]
    least = min((u.samples for u in units), default=ENOUGH)
    if least < ENOUGH:
        notes.append(
            f"a layer was seen on {least} sample{'s' * (least != 1)}: units of layers with fewer than {ENOUGH} are "
            "measured, but not judged; give a larger batch"
        )
    if short:
        widest = max(short, key=lambda u: u.units)
        notes.append(
            f"the batch is too small for the effective rank of {len(short)} of {len(units)} layers of units: "
            f"{widest.layer} has {widest.units} units, seen on {widest.samples} samples; give {widest.units} or more"
        )
    found = replace(found, units=units, notes=tuple(notes))
    if loss_fn is None:
        return found
    found = replace(found, loss=probe_loss(model, sample, loss_fn))
    if _frozen(model):
        words = "gradients and curvature were not measured: no parameter of the model has requires_grad=True"
        return replace(found, notes=(*notes, words))
    return replace(found, gradients=gradient_health(model, sample, loss_fn, targets))


def _frozen(model: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in model.parameters())


def _whole(store: ModuleStore) -> ModuleStore:
    """The store itself. Raises `UserError` if this process holds a part of the weights alone."""
    sharded = next((entry.name for entry in store.entries() if entry.sharded), "")
    if sharded:
        raise UserError(
            f"measures need whole weights, and {sharded} is sharded over processes (DTensor): save the full state dict "
            "and use inspect(), or diagnose the model unsharded"
        )
    return store


def _check(batch: Any, loss_fn: LossFunction | None, trial: object, **of_trial: object) -> None:
    """Refuse what does not go together."""
    if loss_fn is not None:
        if batch is None:
            raise UserError("diagnose got a loss_fn but no batch to call it with: pass batch=")
        check_loss_fn(loss_fn)
    if isinstance(trial, bool) or not isinstance(trial, Integral) or int(trial) < 0:
        raise UserError(f"trial must be a number of steps, 0 for none, got {trial!r}")
    if trial and batch is None:
        raise UserError("a trial needs data to train on: pass batch=, one batch or a loader")
    idle = [name for name, value in of_trial.items() if value is not None]
    if not trial and idle:
        raise UserError(f"{', '.join(idle)} has no effect without a trial: pass trial=200, or leave it out")


def _is_loader(batch: Any) -> bool:
    """Whether it gives batches rather than being one."""
    return isinstance(batch, Iterable) and not isinstance(batch, Tensor | tuple | list | Mapping | str | bytes)
