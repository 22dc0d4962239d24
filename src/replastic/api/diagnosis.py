"""A network's plasticity as its weights alone show it: measures per layer, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from replastic import linalg
from replastic.api._readable import readable
from replastic.text import columns, json_ready
from replastic.weights.change import Skipped
from replastic.weights.entries import MatrixInfo, WeightEntry, WeightStore
from replastic.weights.outcome import cuts, grouped
from replastic.weights.recipe import Recipe, Target

COLLAPSED = 0.25
"""A layer counts as collapsed if its effective rank is below this share of min(d_out, d_in) (ours).

Matrices drawn at random have 0.7 or more of it, whatever their shape.
"""
SMALLEST = 8
"""Layers with fewer directions than this are measured, but not judged."""


@dataclass(frozen=True)
class LayerHealth:
    """Measures of one batch of matrices, such as the taps of a convolution."""

    weight: str
    block: str
    kind: str
    role: str
    shape: tuple[int, ...]
    batch: int
    d_out: int
    d_in: int
    dfi: float
    """Deviation from isometry (FIRE paper), summed over the batch; each at least d_out - d_in."""
    residual: float
    """The worst of the batch at the paper's scale: 0 for a scaled isometry as `fire` writes it (ours)."""
    effective_rank: float
    """Mean over the batch, as are the next."""
    stable_rank: float
    condition_number: float
    """Largest over smallest singular value: their spread. Worst of the batch; infinite for one without full rank."""
    mean_square: float
    """Mean of the squared singular values, over the batch; 1 for an isometry."""
    largest: float
    """Largest singular value of the batch; 1 for an isometry."""
    norm: float
    """Frobenius norm of the whole batch."""
    finite: bool = True
    """Whether every number of it is; if not, the measures are NaN."""
    known_by: str = ""
    """Source of its cut into matrices: a known class, its module's type, names and shapes, a rule, the caller."""

    @property
    def directions(self) -> int:
        """Directions there are: min(d_out, d_in)."""
        return min(self.d_out, self.d_in)

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"{self.weight}[{self.block}]" if self.block else self.weight

    @property
    def collapsed(self) -> bool:
        """Whether it uses few of its directions; see `COLLAPSED`."""
        judged = self.finite and self.norm > 0 and self.directions >= SMALLEST
        return judged and self.effective_rank < COLLAPSED * self.directions


@dataclass(frozen=True)
class WeightReport:
    """Measures of every chosen layer; prints as a table that ends with the verdict."""

    layers: tuple[LayerHealth, ...]
    skipped: tuple[Skipped, ...]
    recipe: str
    notes: tuple[str, ...] = ()

    @property
    def collapsed(self) -> tuple[LayerHealth, ...]:
        """Layers that use few of their directions, worst first."""
        return tuple(sorted((x for x in self.layers if x.collapsed), key=lambda x: x.effective_rank / x.directions))

    @property
    def sound(self) -> bool:
        """Whether no layer has collapsed and none holds NaN or infinity."""
        return not self.collapsed and all(x.finite for x in self.layers)

    @property
    def verdict(self) -> str:
        """One or two sentences: what is wrong with the weights, if anything is, and what to do next.

        The first that holds of: a layer holds NaN or infinity; layers have collapsed (see `COLLAPSED`); layers are all
        zero; none has enough directions to be judged (see `SMALLEST`); no layer has collapsed.
        """
        broken = [x for x in self.layers if not x.finite]
        if broken:
            return (
                f"{_count(broken, self.layers)} hold NaN or infinite numbers, {broken[0].label} first: no rewrite can "
                "repair that, go back to an earlier checkpoint."
            )
        if self.collapsed:
            worst = self.collapsed[0]
            return (
                f"{_count(self.collapsed, self.layers)} have collapsed: {worst.label} uses "
                f"{worst.effective_rank:.0f} of {worst.directions} directions. Before the next phase of training, "
                f"rewrite the weights by fire."
            )
        zero = [x for x in self.layers if x.norm == 0]
        if zero:
            return (
                f"{_count(zero, self.layers)} are all zero, {zero[0].label} first: leave them out of a rewrite unless "
                "training was meant to move them."
            )
        judged = [x for x in self.layers if x.directions >= SMALLEST]
        if not judged:
            return f"No layer has {SMALLEST} directions or more: too few to judge by."
        least = min(judged, key=lambda x: x.effective_rank / x.directions)
        return (
            f"No layer has collapsed: the narrowest of {_layers(self.layers)}, {least.label}, uses "
            f"{least.effective_rank:.0f} of {least.directions} directions. Weights alone cannot tell whether the "
            "network still learns: replastic.diagnose(model, batch, loss_fn) looks at its units, trial=200 measures it."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: numbers that are not finite become null."""
        content = {
            "recipe": self.recipe,
            "layers": [asdict(x) | {"collapsed": x.collapsed} for x in self.layers],
            "skipped": [asdict(s) for s in self.skipped],
            "collapsed_layers": [x.label for x in self.collapsed],
            "notes": self.notes,
            "verdict": self.verdict,
        }
        return dict(json_ready(content))

    def __str__(self) -> str:
        """The table, what was left alone, and the verdict."""
        return f"{self.table()}\n\n{self.verdict}"

    def table(self) -> str:
        """The measures of every layer, what was left alone, and the notes."""
        head = ["weight", "kind", "role", "matrices", "DfI", "residual", "eff. rank", "stable", "norm"]
        singular = ["singular values of", "mean square", "largest", "spread (largest / smallest)"]
        tables = [head, *(_row(x) for x in self.layers)], [singular, *(_singular(x) for x in self.layers)]
        lines = [*(f"  {line}" for line in columns(tables[0])), "", *(f"  {line}" for line in columns(tables[1]))]
        return "\n".join([*lines, *cuts(self.layers), *grouped("not measured", self.skipped), *self.notes])


def weight_report(
    store: WeightStore,
    recipe: Recipe,
    *,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    notes: tuple[str, ...] = (),
    progress: Callable[[Sequence[Target]], Iterable[Target]] = iter,
) -> WeightReport:
    """Measure the layers that a rewrite with this recipe would touch, one weight in memory at a time.

    Args:
        store: A live model or a checkpoint.
        recipe: Which weights, and how they are seen; methods and options in it play no part.
        target_modules: As in `select`, like the next two.
        exclude_modules: Patterns that are left out.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        notes: Sentences to print above the verdict.
        progress: Wraps the targets on their way, such as `tqdm`.

    Raises:
        UserError: A pattern matches nothing, or nothing is chosen.
    """
    chosen = readable(store, recipe, target_modules=target_modules, exclude_modules=exclude_modules, include=include)
    layers = [
        _health(target.entry, info, w)
        for target in progress(chosen.targets)
        for info, w in target.matrices(store.read(target.entry.name))
    ]
    return WeightReport(tuple(layers), chosen.skipped, recipe.name, notes)


@torch.no_grad()
def _health(entry: WeightEntry, info: MatrixInfo, w: Tensor) -> LayerHealth:
    with torch.autocast(w.device.type, enabled=False):
        return _measured(entry, info, w)


def _measured(entry: WeightEntry, info: MatrixInfo, w: Tensor) -> LayerHealth:
    def layer(**measures: Any) -> LayerHealth:
        return LayerHealth(
            weight=info.weight,
            block=info.block,
            kind=info.kind,
            role=entry.role,
            shape=entry.shape,
            batch=info.batch,
            d_out=info.d_out,
            d_in=info.d_in,
            known_by=entry.known_by,
            **measures,
        )

    if not bool(torch.isfinite(w).all()):
        nan = math.nan
        return layer(
            dfi=nan,
            residual=nan,
            effective_rank=nan,
            stable_rank=nan,
            condition_number=nan,
            mean_square=nan,
            largest=nan,
            norm=nan,
            finite=False,
        )
    spectrum = linalg.Spectrum(linalg.singular_values(w))
    scale = linalg.scale_factor("modular", w, w, taps=info.taps)
    return layer(
        dfi=float(linalg.dfi(w).sum()),
        residual=float(linalg.residual(w, scale).max()),
        effective_rank=float(spectrum.effective_rank().mean()),
        stable_rank=float(spectrum.stable_rank().mean()),
        condition_number=float(spectrum.condition_number().max()),
        mean_square=float(spectrum.mean_square().mean()),
        largest=float(spectrum.largest().max()),
        norm=math.hypot(*linalg.frobenius(w).tolist()),
    )


def _row(layer: LayerHealth) -> list[str]:
    batch = f"{layer.batch} x " if layer.batch > 1 else ""
    mark = " !" if layer.collapsed or not layer.finite else ""
    return [
        layer.label,
        layer.kind,
        layer.role,
        f"{batch}{layer.d_out} x {layer.d_in}",
        f"{layer.dfi:.3g}",
        f"{layer.residual:.3g}",
        f"{layer.effective_rank:.1f} of {layer.directions}{mark}",
        f"{layer.stable_rank:.1f}",
        f"{layer.norm:.3g}",
    ]


def _singular(layer: LayerHealth) -> list[str]:
    """Scale, largest and spread of a spectrum, side by side: each can be sound while another is not."""
    return [layer.label, f"{layer.mean_square:.3g}", f"{layer.largest:.3g}", f"{layer.condition_number:.3g}"]


def _count(some: Sequence[object], all_: Sequence[object]) -> str:
    return f"{len(some)} of {_layers(all_)}"


def _layers(layers: Sequence[object]) -> str:
    return "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
