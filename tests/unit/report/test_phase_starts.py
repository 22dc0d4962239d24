"""Measures at the starts of phases: a panel for each, with the values that were recorded there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replastic.report import curves
from replastic.report.experiment import load
from replastic.report.tables import final_table

SUMMARY = {"curves": ["metric/dormant", "metric/ntk_condition", "metric/dfi"]}
TAKEN = {"base": {0: (0.1, 10.0), 2: (0.6, 4e8)}, "fire": {0: (0.1, 10.0), 2: (0.2, 30.0)}}
"""Dormant share and condition number before the first and the third phase; dfi is not taken there."""


def write(folder: Path, write_run: Any, names: tuple[str, ...]) -> None:
    for method, by_phase in TAKEN.items():
        for seed in range(2):
            run = write_run(folder, method, seed, [0.9, 0.5, 0.4], summary=SUMMARY, finished=False)
            for phase, values in by_phase.items():
                measured = dict(zip(("metric/dormant", "metric/ntk_condition"), values, strict=True))
                at = {"phase": phase, "step": 300 * phase, "event": "phase_start", "seconds": 9.0}
                run.append(at | {name: measured[name] for name in names})
            run.finish()


def test_each_measure_has_a_panel_with_its_values(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run, ("metric/dormant", "metric/ntk_condition"))
    plots = {plot.name: plot for plot in curves.draw(final_table(load(tmp_path)))}
    plot = plots["phase_starts"]
    assert "share of dormant units (τ 0.025): base from 0.100 to 0.600; fire from 0.100 to 0.200" in plot.alt
    assert "condition number of the NTK: base from 10.0 to 4.00e8; fire from 10.0 to 30.0" in plot.alt
    assert "DfI" not in plot.alt
    assert "logarithmic" in plot.caption
    assert plot.svg.count(">base</text>") == 1, "one legend for all panels"


def test_one_measure_alone_or_none_has_no_such_plot(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path / "one", write_run, ("metric/dormant",))
    write_run(tmp_path / "none", "base", 0, [0.5, 0.6])
    for folder in ("one", "none"):
        assert "phase_starts" not in {plot.name for plot in curves.draw(final_table(load(tmp_path / folder)))}
