"""What a write did, or would do: a table to read, a dictionary to store, and the way back."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from replastic.errors import UserError
from replastic.text import columns, json_ready
from replastic.weights.change import LayerOutcome, Skipped

SHOWN = 24
"""Rows of the table of layers; of more, the first and the last are shown."""
NAMED = 3
"""Names listed per reason among the weights left alone."""


class Undo:
    """The way back, good for one use."""

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        self._steps: list[Callable[[], None]] | None = list(steps)

    def __call__(self) -> None:
        """Take the steps back, the last one first."""
        if self._steps is None:
            raise UserError("this write has been undone already")
        steps, self._steps = self._steps, None
        for step in reversed(steps):
            step()


@dataclass(frozen=True)
class Outcome:
    """What happened to each weight; prints as a table."""

    layers: tuple[LayerOutcome, ...] = ()
    """One for each batch of matrices, in the order of the store."""
    skipped: tuple[Skipped, ...] = ()
    written: tuple[str, ...] = ()
    """Names of the tensors that were written, tied ones once, in the order of the store."""
    modules: tuple[str, ...] = ()
    """Names of the modules that were replaced."""
    followers: tuple[str, ...] = ()
    """Names of the followers that were brought up to date."""
    optimizer: str = ""
    """What happened to the optimizer's state, in words; empty without an optimizer."""
    dry_run: bool = False
    probe: tuple[float, float] | None = None
    """Loss on the probe's batch before and after, if there was a probe."""
    notes: tuple[str, ...] = ()
    """What else is good to know, such as where the layout of a checkpoint comes from."""
    _undo: Undo | None = field(default=None, repr=False, compare=False)

    def undo_(self) -> None:
        """Put back weights, buffers, modules, followers and the optimizer's state as they were before the write.

        Whatever was trained since is lost: the state of the optimizer is the one from before the write, too, except
        where it was kept (policy ``keep``).

        Raises:
            UserError: It was undone already, or was a dry run.
        """
        if self._undo is None:
            raise UserError("nothing to undo: this was a dry run")
        self._undo()

    def then_undo(self, step: Callable[[], None]) -> Outcome:
        """The same outcome, where undoing takes back `step` first: something that was done after the write."""
        return self if self._undo is None else replace(self, _undo=Undo((self._undo, step)))

    @property
    def sfe(self) -> float:
        """Squared Frobenius error of all layers together."""
        return math.fsum(layer.sfe for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the way back, ready for JSON: what is not a finite number becomes null."""
        content = {
            "layers": [asdict(layer) for layer in self.layers],
            "skipped": [asdict(s) for s in self.skipped],
            "written": self.written,
            "modules": self.modules,
            "followers": self.followers,
            "optimizer": self.optimizer,
            "dry_run": self.dry_run,
            "probe": dict(zip(("before", "after"), self.probe, strict=True)) if self.probe else None,
            "sfe": self.sfe,
            "notes": self.notes,
        }
        return dict(json_ready(content))

    def probe_line(self) -> str:
        """The probe's losses in one line; empty without a probe."""
        return f"probe loss {self.probe[0]:.4g} -> {self.probe[1]:.4g}" if self.probe else ""

    def __str__(self) -> str:
        """The table of layers, what was left alone by reason, and what followed."""
        parts = [self._headline(), _layer_table(self.layers), *grouped("left alone", self.skipped)]
        notes = [
            f"modules replaced: {', '.join(self.modules)}" if self.modules else "",
            f"followers brought up to date: {', '.join(self.followers)}" if self.followers else "",
            f"optimizer: {self.optimizer}" if self.optimizer else "",
            self.probe_line(),
            *self.notes,
        ]
        return "\n".join(p for p in (*parts, *notes) if p)

    def _headline(self) -> str:
        verb = "would write" if self.dry_run else "wrote"
        methods = ", ".join(dict.fromkeys(layer.method for layer in self.layers))
        by = f" by {methods}" if methods else ""
        tensors = "1 tensor" if len(self.written) == 1 else f"{len(self.written)} tensors"
        left = f"; left {len(self.skipped)} alone" if self.skipped else ""
        return f"{verb} {tensors}{by}{left}"


def grouped(heading: str, skipped: Sequence[Skipped]) -> list[str]:
    """The heading and one line per reason, most frequent first, with the first names; nothing if there is none."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for s in skipped:
        by_reason[s.reason].append(s.weight)
    ranked = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [f"  {_listed(names)}: {reason}" for reason, names in ranked]
    return [f"{heading}:", *lines] if lines else []


def _layer_table(layers: Sequence[LayerOutcome]) -> str:
    if not layers:
        return ""
    head = ["weight", "block", "matrices", "residual", "alignment", "norm. SFE", "norm"]
    rows = [_row(layer) for layer in layers]
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    left_out = len(rows) - SHOWN
    shown = rows if left_out <= 0 else [*rows[: SHOWN // 2], *rows[-SHOWN // 2 :]]
    lines = columns([[row[i] for i in used] for row in (head, *shown)])
    if left_out > 0:
        lines.insert(1 + SHOWN // 2, f"... {left_out} more ...")
    return "\n".join(f"  {line}" for line in lines)


def _row(layer: LayerOutcome) -> list[str]:
    batch = f"{layer.batch} x " if layer.batch > 1 else ""
    return [
        layer.weight,
        layer.block,
        f"{batch}{layer.d_out} x {layer.d_in}",
        _number(layer.facts.get("residual")),
        _number(layer.facts.get("alignment")),
        _number(layer.normalised_sfe),
        f"{_number(layer.norm_before)} -> {_number(layer.norm_after)}",
    ]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else ""
