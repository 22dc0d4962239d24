"""One verdict from all evidence there is: spectra, units, features, gradients, and a trial where one was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from replastic.api._signs import GradientHealth, UnitHealth
from replastic.api.diagnosis import SMALLEST, WeightReport
from replastic.api.trial import Trial

State = Literal["broken", "lost", "slower", "doubtful", "sound", "unknown"]
"""``broken``: NaN or infinite weights. ``lost`` and ``slower``: it no longer learns as a fresh network does.
``doubtful``: signs that alone prove nothing. ``sound``: no sign was found. ``unknown``: only weights were looked at."""

MANY, MOST = 0.25, 0.9
"""Share of idle units in a layer from which on the verdict speaks of it, and from which on it counts as lost even if it
is the only one (ours). Networks with half of a layer dormant were seen to learn as fresh ones do."""
NARROW = 0.1
"""Features that span less than this share of their directions are a sign (ours)."""
LITTLE = 0.05
"""A `plasticity` below this share is a sign (ours). A trial tells whether a fresh network removes more."""
FEW = 1.5
"""An effective rank of the NTK below this is a sign: all outputs move together, on all samples (ours)."""
WORTH_JUDGING = 20
"""Directions that features must have to be called narrow."""
ENOUGH = 16
"""Samples on which units must be seen to be judged: on one sample half of the units of a sound ReLU layer are silent,
on so many one in 65,000 is (ours)."""
ISOMETRIC = 1e-3
"""Largest residual of weights that a projection would not change much more (ours)."""


@dataclass(frozen=True)
class Sign:
    """A piece of evidence that something is wrong, in a clause."""

    words: str
    strong: bool
    """Whether it alone means that plasticity is lost."""
    idle_units: bool = False
    """Whether it speaks of units that do not respond."""


@dataclass(frozen=True)
class Verdict:
    """The conclusion and the words for it."""

    state: State
    words: str


def judge(
    weights: WeightReport,
    units: Sequence[UnitHealth] = (),
    gradients: Sequence[GradientHealth] = (),
    loss: float | None = None,
    trial: Trial | None = None,
    measures: Mapping[str, float] | None = None,
) -> Verdict:
    """Put all evidence into one verdict. A trial is the question itself, so it decides where there is one.

    Of the measures, `plasticity` and the effective rank of the NTK count, as signs that alone prove nothing. Units seen
    on fewer than `ENOUGH` samples are not judged, and gradients of so few samples are not either.
    """
    seen = [u for u in units if u.samples >= ENOUGH]
    gradients = gradients if len(seen) == len(units) else ()
    units = seen
    if any(not layer.finite for layer in weights.layers):
        return Verdict("broken", weights.verdict)
    if not units and trial is None:  # without a batch there are no measures of the loss either
        return Verdict("lost" if weights.collapsed else "unknown", weights.verdict)
    signs = [*_signs(weights, units, gradients, loss), *_of_measures(measures or {})]
    if trial is not None and trial.state != "unknown":
        return _of_trial(trial, signs, weights)
    unclear = f" The trial {trial.words}: take more steps or a higher learning rate." if trial is not None else ""
    state = _state(signs)
    listed = "; ".join(sign.words for sign in signs)
    if state == "sound":
        words = f"No sign of lost plasticity: {_best(weights, units)}."
        return Verdict(state, words + (unclear or f" {MEASURE}"))
    begins = "It shows signs of lost plasticity" if state == "lost" else "Signs that alone prove nothing"
    sound = "; the spectra of its weights do not show it" if not weights.collapsed else ""
    advice = f" {_advice(signs, weights)}" if state == "lost" else ""
    return Verdict(state, f"{begins}: {listed}{sound}.{advice}{unclear or f' {MEASURE}'}")


MEASURE = (
    "To measure it, let a copy learn beside a fresh network: replastic.diagnose(model, batch, loss_fn, trial=200)."
)


def _of_trial(trial: Trial, signs: Sequence[Sign], weights: WeightReport) -> Verdict:
    listed = "; ".join(sign.words for sign in signs)
    measured = f"{trial.words[0].upper()}{trial.words[1:]}"
    if trial.state == "sound":
        although = f" It does so although {listed}." if signs else ""
        return Verdict("sound", f"It learns as a fresh network does: {trial.words}.{although} Nothing needs restoring.")
    begins = "It no longer learns as a fresh network does" if trial.state == "lost" else "It learns slower than fresh"
    shown = f" Seen in it: {listed}." if signs else " Neither its weights nor its units show why."
    state: State = "lost" if trial.state == "lost" else "slower"
    return Verdict(state, f"{begins}. {measured}.{shown} {_advice(signs, weights)}")


def _state(signs: Sequence[Sign]) -> State:
    if any(sign.strong for sign in signs):
        return "lost"
    return "doubtful" if signs else "sound"


def _signs(
    weights: WeightReport, units: Sequence[UnitHealth], gradients: Sequence[GradientHealth], loss: float | None
) -> list[Sign]:
    """The signs, the clearest first."""
    found = [*_of_units(units), *_of_features(units)]
    if loss is None or abs(loss) > 1e-6:  # at a loss of 0 there is nothing left to learn from this batch
        found += _of_gradients(gradients)
    if weights.collapsed:
        worst = weights.collapsed[0]
        used = f"{worst.label} uses {worst.effective_rank:.0f} of {worst.directions} directions"
        share = f"{len(weights.collapsed)} of {_count(len(weights.layers), 'layer')}"
        found.append(Sign(f"the weights of {share} have collapsed ({used})", strong=True))
    return sorted(found, key=lambda sign: not sign.strong)


def _of_units(units: Sequence[UnitHealth]) -> list[Sign]:
    judged = [u for u in units if u.units >= SMALLEST]
    silent = [u for u in judged if u.idle >= MANY]
    if not silent:
        return []
    worst = max(silent, key=lambda u: u.idle)
    stuck = f" and {worst.stuck:.0%} do not respond" if worst.stuck > 0 else ""
    of = f"{len(silent)} of {_count(len(judged), 'layer')} of units {'has' if len(silent) == 1 else 'have'} gone quiet"
    strong = worst.idle >= MOST or len(silent) > len(judged) / 2
    return [Sign(f"{of} (in layer {worst.layer}, {worst.dormant:.0%} are dormant{stuck})", strong, idle_units=True)]


def _of_features(units: Sequence[UnitHealth]) -> list[Sign]:
    judged = [u for u in units if u.directions >= WORTH_JUDGING]
    narrow = [u for u in judged if u.srank < NARROW * u.directions]
    if not narrow:
        return []
    worst = min(narrow, key=lambda u: u.srank / u.directions)
    words = f"the features of layer {worst.layer} have effective rank {worst.srank} of {worst.directions}"
    return [Sign(words, strong=False)]


def _of_gradients(gradients: Sequence[GradientHealth]) -> list[Sign]:
    silent = [g for g in gradients if g.silent >= MANY]
    if not silent:
        return []
    worst = max(silent, key=lambda g: g.silent)
    return [Sign(f"no gradient reaches {worst.silent:.0%} of the units of {worst.weight}", False, idle_units=True)]


def _of_measures(values: Mapping[str, float]) -> list[Sign]:
    found = []
    share, rank = values.get("plasticity"), values.get("ntk_effective_rank")
    if share is not None and share < LITTLE:
        found.append(Sign(f"a copy removes {share:.1%} of the excess loss of random tasks (plasticity)", strong=False))
    if rank is not None and rank < FEW:
        found.append(Sign(f"the NTK has effective rank {rank:.2g}", strong=False))
    return found


def _best(weights: WeightReport, units: Sequence[UnitHealth]) -> str:
    """The evidence that looks well, each kind by its worst layer."""
    told = []
    judged = [x for x in weights.layers if x.directions >= SMALLEST and x.norm > 0]
    if judged:
        least = min(judged, key=lambda x: x.effective_rank / x.directions)
        told.append(
            f"the narrowest weight, {least.label}, uses {least.effective_rank:.0f} of {least.directions} directions"
        )
    if units:
        quiet, narrow = max(units, key=lambda u: u.idle), min(units, key=lambda u: u.srank / max(1, u.directions))
        told.append(f"at most {quiet.idle:.0%} of the units of a layer are idle ({quiet.layer})")
        told.append(f"features have effective rank {narrow.srank} of {narrow.directions} or more ({narrow.layer})")
    return ", ".join(told) or "there was little to look at"


def _advice(signs: Sequence[Sign], weights: WeightReport) -> str:
    """The next step. It is no projection where the weights are isometric already, as one leaves them."""
    judged = [x for x in weights.layers if x.directions >= SMALLEST]
    idle = any(sign.idle_units for sign in signs)
    if judged and all(x.residual < ISOMETRIC for x in judged):
        way = (
            'reset units that do not respond while it trains (replastic.during("redo", model, optimizer, ...))'
            if idle
            else "begin the next phase with a fresh network"
        )
        return f"Its matrices are isometric already, as fire leaves them: another projection changes nothing; {way}."
    redo = ' (or reset idle units while it trains: replastic.during("redo", model, optimizer, ...))' if idle else ""
    return f"Before the next phase of training, rewrite the weights: replastic.fire_(model, optimizer){redo}."


def _count(number: int, word: str) -> str:
    return f"1 {word}" if number == 1 else f"{number} {word}s"
