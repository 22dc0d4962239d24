"""The promises of the FIRE paper's theorems for a network, as data that prints: per layer, and for the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from replastic.linalg import dfi_for_no_dormant, why_no_promise
from replastic.metrics.dormant import DORMANCY_THRESHOLD
from replastic.text import columns, json_ready
from replastic.weights.change import Skipped
from replastic.weights.outcome import grouped

DELTA: Final = 0.01
"""Share of the singular values that srank may leave out, as in the measure `feature_srank`."""
_ROUNDING: Final = 1e-6
"""By so much the covariance of whitened inputs may exceed 1."""
_LEGEND = (
    f"srank: so many singular values make up {1 - DELTA:.0%} of those of z W^T, for whitened inputs z (theorem 3).",
    "scores: E|h_i| / mean_k E|h_k| of every unit, for inputs N(0, I), no bias, and an activation function with",
    "  s(a t) = a s(t) for a > 0, such as ReLU (theorem 4).",
    f"dormant: units with a score of at most {DORMANCY_THRESHOLD}; under the same conditions there is none",
    f"  where DfI < {dfi_for_no_dormant(DORMANCY_THRESHOLD):.4f} (corollary 2).",
    "Of several matrices in one weight (heads, groups, experts) each counts by itself; the worst is shown.",
)
_LEGEND_BATCH = (
    "on the batch: the srank of z W^T as measured, and as theorem 3 promises it for these inputs; the least and the",
    "  largest score measured after the activation function, where inputs, biases and norms are what they are.",
)


@dataclass(frozen=True)
class OnBatch:
    """Theorem 3 for the inputs that one layer gets on a batch, and the values measured there."""

    samples: int = 0
    """How many inputs the layer was given; 0 if they were not seen, as the layer is no plain Linear."""
    srank_at_least: int | None = None
    """Theorem 3 for these inputs; None where it promises nothing."""
    srank: int | None = None
    """Of the features z W^T, without bias; the least over several matrices."""
    scores: tuple[float, float] | None = None
    """Least and largest dormancy score after the activation function; None where it was not found."""


@dataclass(frozen=True)
class LayerPromise:
    """Theorems 3 and 4 for one batch of matrices: for each by itself, so the worst of them counts."""

    weight: str
    block: str
    kind: str
    batch: int
    taps: int
    d_out: int
    d_in: int
    dfi: float
    """The largest of the batch; NaN if not every number is finite."""
    srank_at_least: int | None = None
    """Theorem 3: srank_0.01 of the features z W^T for whitened inputs; None where it promises nothing."""
    scores: tuple[float, float] | None = None
    """Theorem 4: every dormancy score lies between these; None where it promises nothing."""
    on_batch: OnBatch | None = None

    @property
    def label(self) -> str:
        """Name for messages."""
        return f"{self.weight}[{self.block}]" if self.block else self.weight

    @property
    def finite(self) -> bool:
        """Whether every number of the weight is."""
        return math.isfinite(self.dfi)

    @property
    def epsilon(self) -> float:
        """The paper's epsilon, sqrt(DfI), which must be below 1."""
        return math.sqrt(self.dfi)

    @property
    def can_hold(self) -> bool:
        """Whether weights of this shape can have sqrt(DfI) < 1; those of an expanding layer cannot."""
        return self.d_out <= self.d_in

    @property
    def reason(self) -> str:
        """Why nothing is promised; empty if something is."""
        if not self.finite:
            return "holds NaN or infinite numbers"
        if self.taps > 1:
            return (
                f"sums {self.taps} taps, and the theorems speak of one matrix; the largest sqrt(DfI) of a tap is "
                f"{self.epsilon:.3g}"
            )
        return why_no_promise(self.epsilon, self.d_out, self.d_in)

    @property
    def no_dormant(self) -> bool:
        """Corollary 2: whether it promises that no unit is dormant."""
        return not self.reason and self.dfi < dfi_for_no_dormant(DORMANCY_THRESHOLD)


@dataclass(frozen=True)
class HessianPromise:
    """Theorem 2, corrected as `linalg.hessian_bound` says: the norm of the Hessian of the loss in all weights.

    It is at most m * beta * `single` + 2 * sqrt(m) * gamma * `pairs`.
    """

    obstacles: tuple[str, ...]
    """Assumptions that fail; the next are None if there are any."""
    single: float | None = None
    """sum_k prod_{j != k} nu_j with nu_k = 1 + sqrt(DfI(W_k))."""
    pairs: float | None = None
    """sum_{k < l} prod_{j not in {k, l}} nu_j."""
    seen: bool = False
    """Whether the layers were seen to be a chain with ReLU or nothing between them, which files do not tell."""
    energy: float | None = None
    """The m of the batch: the mean of ||z||^2, or where there is no ReLU lambda_max(Z^T Z / samples)."""
    bound: float | None = None
    """The bound for `beta` and `gamma`."""
    beta: float | None = None
    """Largest norm of the Hessian of a sample's loss in the outputs: as given, or as found on the batch."""
    gamma: float | None = None
    """Largest norm of the gradient of a sample's loss in the outputs; corollary 1 is for 0."""
    whitening: float | None = None
    """lambda_max(Z^T Z / samples) of the inputs, which the paper wants to be 1."""
    gates: float | None = None
    """Smallest distance of an input of a ReLU on the batch from 0, where its gate would change."""
    measured: float | None = None
    """The norm itself, by Lanczos, which approaches it from below; None without a loss."""

    @property
    def corollary(self) -> float | None:
        """Corollary 1: the bound for gamma = 0, m * beta * `single`."""
        if self.single is None or self.energy is None or self.beta is None:
            return None
        return self.energy * self.beta * self.single

    @property
    def as_printed(self) -> float | None:
        """Theorem 2 as the paper prints it, with m = 1: for whitened inputs, and false with ReLUs."""
        if self.single is None or self.pairs is None or self.beta is None or self.gamma is None:
            return None
        return self.beta * self.single + 2 * self.gamma * self.pairs

    def lines(self) -> list[str]:
        """One sentence or more."""
        what = "theorem 2, norm of the loss's Hessian in all weights:"
        measured = [] if self.measured is None else [f"  measured on this batch: {self.measured:.4g}"]
        if self.obstacles:
            return [f"{what} no bound, as", *(f"  {reason}" for reason in self.obstacles), *measured]
        if self.bound is not None:
            return [f"{what} at most {self.bound:.4g} on this batch", *measured, *self._around()]
        m = "m" if self.energy is None else f"{self.energy:.4g}"
        formula = f"at most {m} * beta * {self.single:.4g} + 2 * sqrt({m}) * gamma * {self.pairs:.4g}"
        condition = "" if self.seen else ",\n  if the layers form a chain with ReLU or nothing between them"
        inputs = "m is the mean squared norm of an input, " if self.energy is None else ""
        return [
            f"{what} {formula}{condition}",
            f"  {inputs}beta and gamma bound Hessian and gradient of a sample's loss in the outputs",
        ]

    def _around(self) -> list[str]:
        """Corollary 1, and how far the paper's own assumptions hold."""
        found = [f"  beta {self.beta:.4g}, gamma {self.gamma:.4g}, m {self.energy:.4g}"]
        found.append(f"  corollary 1, for gamma = 0: at most {self.corollary:.4g}")
        if self.whitening is not None:
            whitened = "whitened" if self.whitening <= 1 + _ROUNDING else "not whitened"
            found.append(
                f"  as the paper prints it: {self.as_printed:.4g}, for whitened inputs; these are {whitened} "
                f"(lambda_max {self.whitening:.4g})"
            )
        if self.gates is not None:
            fixed = "is fixed around these weights" if self.gates > 0 else "changes at these weights: an input is 0"
            found.append(f"  the pattern of the ReLUs {fixed}")
        return found


@dataclass(frozen=True)
class Gap:
    """Theorem 1 at one layer: how far its normalised feature covariance is from that of the old network."""

    layer: str
    bound: float | None
    """On ||C - C~||_F; the paper prints the square. None where an assumption fails, or all features are 0."""
    corollary: float | None
    """The bound for 1-Lipschitz activation functions; None where it promises nothing."""
    measured: float | None
    """||C - C~||_F itself, from 0 to sqrt(2); None where the features of a network are all 0."""


@dataclass(frozen=True)
class CovariancePromise:
    """Theorem 1: the change of the weights bounds the change of the features."""

    obstacles: tuple[str, ...] = ()
    """Assumptions that fail; there are no bounds then."""
    sfe: float | None = None
    """Sum over the layers of ||W - W~||_F^2."""
    gaps: tuple[Gap, ...] = ()
    """By layer, on the batch."""
    factor: float | None = None
    """Without a batch: the bound at the outputs is this times ||Z||_F / m, for 1-Lipschitz activation functions."""

    def lines(self) -> list[str]:
        """A table, or a sentence."""
        what = "theorem 1, change of the normalised feature covariances against the old weights"
        sfe = "" if self.sfe is None else f" (SFE {self.sfe:.4g})"
        found = [f"{what}{sfe}:"]
        if self.obstacles:
            found[0] += " no bound, as"
            found += [f"  {reason}" for reason in self.obstacles]
        elif not self.gaps:
            factor = "" if self.factor is None else f"{self.factor:.4g} * "
            return [
                *found,
                f"  at the outputs at most {factor}||Z||_F / m, with m the smaller norm of the two networks' outputs,",
                "  if the layers form a chain whose activation functions are 1-Lipschitz and map 0 to 0",
            ]
        if self.gaps:
            head = ["layer", "bound", "1-Lipschitz bound", "measured"]
            rows = [[g.layer, *map(_number, (g.bound, g.corollary, g.measured))] for g in self.gaps]
            found += [f"  {line}" for line in columns([head, *rows])]
            found.append("  no gap is above sqrt(2): a bound above that says nothing")
        return found


@dataclass(frozen=True)
class TheoryReport:
    """The promises for every chosen layer and for the network; prints as a table that ends with the verdict."""

    layers: tuple[LayerPromise, ...]
    hessian: HessianPromise
    skipped: tuple[Skipped, ...]
    recipe: str
    notes: tuple[str, ...] = ()
    covariance: CovariancePromise | None = None
    """Theorem 1; None without old weights."""

    @property
    def verdict(self) -> str:
        """How many layers meet the assumption, and how many are promised to have no dormant unit."""
        total = "1 layer" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        broken = [x for x in self.layers if not x.finite]
        if broken:
            first = broken[0].label
            return (
                f"{len(broken)} of {total} hold NaN or infinite numbers, {first} first: nothing is promised of these."
            )
        kept = [x for x in self.layers if not x.reason]
        if kept:
            safe = sum(x.no_dormant for x in kept)
            return (
                f"Theorems 3 and 4 make promises for {len(kept)} of {total}; in {safe} of these no unit is dormant, "
                "under the conditions above."
            )
        never = sum(not x.can_hold for x in self.layers)
        taps = sum(x.can_hold and x.taps > 1 for x in self.layers)
        rest = [x.epsilon for x in self.layers if x.can_hold and x.taps == 1]
        why = [
            f"{never} can never meet their assumption (d_out > d_in)" if never else "",
            f"{taps} sum several taps" if taps else "",
            f"{len(rest)} have a sqrt(DfI) of {min(rest):.3g} or more, not below 1" if rest else "",
        ]
        return f"Theorems 3 and 4 promise nothing here: of {total}, {', '.join(filter(None, why))}."

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: numbers that are not finite become null."""
        facts = ("epsilon", "can_hold", "reason", "no_dormant")
        content = {
            "recipe": self.recipe,
            "layers": [asdict(x) | {name: getattr(x, name) for name in facts} for x in self.layers],
            "hessian": asdict(self.hessian)
            | {name: getattr(self.hessian, name) for name in ("corollary", "as_printed")},
            "covariance": None if self.covariance is None else asdict(self.covariance),
            "skipped": [asdict(s) for s in self.skipped],
            "notes": self.notes,
            "verdict": self.verdict,
        }
        return dict(json_ready(content))

    def __str__(self) -> str:
        """The table, the reasons where nothing is promised, theorem 2, what was left alone, and the verdict."""
        measured = any(x.on_batch for x in self.layers)
        head = ["weight", "kind", "matrices", "DfI", "sqrt(DfI)", "srank", "scores", "dormant"]
        if measured:
            head += ["srank on the batch", "scores on the batch"]
        lines = [f"  {line}" for line in columns([head, *(_row(x, measured) for x in self.layers)])]
        legend = (*(_LEGEND if any(not x.reason for x in self.layers) else ()), *(_LEGEND_BATCH if measured else ()))
        lines += ["", *legend, ""] if legend else [""]
        lines += grouped("no promise", [Skipped(x.label, _in_short(x)) for x in self.layers if x.reason])
        lines += self.hessian.lines()
        lines += self.covariance.lines() if self.covariance else []
        return "\n".join([*lines, *grouped("not looked at", self.skipped), *self.notes, "", self.verdict])


def _in_short(layer: LayerPromise) -> str:
    """`LayerPromise.reason` without the numbers, which stand in the table, so that layers can be listed together."""
    if not layer.finite:
        return layer.reason
    if layer.taps > 1:
        return "a convolution sums its taps, and the theorems speak of one matrix; the largest DfI of a tap is shown"
    if not layer.can_hold:
        return "sqrt(DfI) < 1 cannot hold: as d_out > d_in, DfI is at least d_out - d_in"
    return "sqrt(DfI) < 1 does not hold"


def _row(layer: LayerPromise, measured: bool) -> list[str]:
    batch = f"{layer.batch} x " if layer.batch > 1 else ""
    row = [
        layer.label,
        layer.kind,
        f"{batch}{layer.d_out} x {layer.d_in}",
        f"{layer.dfi:.3g}",
        f"{layer.epsilon:.3g}",
        "-" if layer.srank_at_least is None else f">= {layer.srank_at_least} of {layer.d_out}",
        _interval(layer.scores),
        "none" if layer.no_dormant else "-",
    ]
    return [*row, *_measured(layer.on_batch or OnBatch())] if measured else row


def _measured(found: OnBatch) -> list[str]:
    promised = "" if found.srank_at_least is None else f" (>= {found.srank_at_least})"
    return ["-" if found.srank is None else f"{found.srank}{promised}", _interval(found.scores)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"
