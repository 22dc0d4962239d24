"""Runs from several checkpoints: their panels, and how many tokens each needs to be back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replastic import report
from replastic.report import curves, starts
from replastic.report.experiment import load
from replastic.report.regain import regain
from replastic.report.tables import final_table

SUMMARY = {
    "score": "metric/loss_new",
    "score_label": "validation loss",
    "higher_is_better": False,
    "phase_label": "corpus",
    "axis": "tokens",
    "axis_label": "tokens",
    "curves": ["metric/loss_old"],
}
LOSSES = {
    "base": (4.0, 3.0, 2.5),
    "fire": (6.0, 4.0, 2.0),
    "from_checkpoint:at=best": (3.5, 3.0, 2.2),
    "from_checkpoint:at=best+fire": (7.0, 6.0, 5.5),
    "average": (4.5, 3.0, 2.6),
}
"""Just after the boundary, in the middle of the phase, and at its end; before the boundary 5."""


def write(folder: Path, write_run: Any) -> None:
    for method, (after, middle, end) in LOSSES.items():
        for seed in range(2):
            run = write_run(folder, method, seed, [], summary=SUMMARY, config={"methods_from": 1})
            for phase, tokens, event, new, old in (
                (0, 500, "evaluation", 6.0, 2.0),
                (0, 1000, "phase_end", 5.0, 1.0),
                (1, 1000, "before_boundary", 5.0, 1.0),
                (1, 1000, "boundary", after, 3.0),
                (1, 1500, "evaluation", middle, 2.0),
                (1, 2000, "phase_end", end, 1.5),
            ):
                where = {"phase": phase, "step": tokens // 10, "tokens": tokens, "event": event, "seconds": 1.0}
                run.append(where | {"metric/loss_new": new + seed * 1e-3, "metric/loss_old": old})
            run.finish()


def test_specs_are_told_apart_by_their_checkpoint() -> None:
    assert starts.split("fire:solver=fast+ewc") == ("", "fire:solver=fast+ewc")
    assert starts.split("from_checkpoint:at=best+fire+ewc") == ("from_checkpoint:at=best", "fire+ewc")
    assert starts.split("from_checkpoint:at=30") == ("from_checkpoint:at=30", "base")
    assert starts.split("no_such_method") == ("", "no_such_method")
    assert starts.starts(["base", "fire"]) == {}
    assert starts.starts(["base", "fire", "average"]) == {}, "one method alone is no panel"
    assert list(starts.starts(list(LOSSES))) == ["from_checkpoint:at=best", ""]


def test_there_is_a_panel_for_each_checkpoint(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run)
    table = final_table(load(tmp_path))
    (plot,) = [plot for plot in curves.draw(table) if plot.name == "checkpoints"]
    assert "from best: fire to 5.50, base to 2.20" in plot.alt
    assert plot.svg.count("from where the phase ended") == 1
    assert plot.svg.count(">fire</text>") == 2
    (best, end) = (dict(lines) for lines in ({"base": 2.2005, "fire": 5.5005}, {"base": 2.5005, "fire": 2.0005}))
    drawn = {one.method: one for one in starts._since_boundary(table)}
    assert drawn["from_checkpoint:at=best+fire"].mean[-1] == pytest.approx(best["fire"])
    assert drawn["fire"].mean[-1] == pytest.approx(end["fire"])
    assert drawn["fire"].x.tolist() == [500, 1000]


def test_tokens_to_regain_by_hand(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run)
    sheet = regain(final_table(load(tmp_path)))
    found = {method: {name: e.mean for name, e in row.items()} for method, row in sheet.rows.items()}
    assert found["base"]["regain"] == 0
    assert found["fire"]["regain"] == pytest.approx(250), "half way from 6 to 4"
    assert found["fire"]["reach"] == pytest.approx(500 + 500 * 1.5 / 2)
    assert found["base"]["reach"] == pytest.approx(1000)
    assert "regain" not in found["from_checkpoint:at=best+fire"]
    assert found["from_checkpoint:at=best+fire"]["reached"] == 0
    assert found["from_checkpoint:at=best"]["reach"] == pytest.approx(1000), "base from the same checkpoint"
    assert found["average"]["change_loss_old"] == pytest.approx(0.5)
    assert "tokens to regain" in sheet.to_markdown()


def test_runs_over_updates_have_no_such_table(tmp_path: Path, write_run: Any) -> None:
    write_run(tmp_path, "base", 0, [0.5, 0.6])
    table = final_table(load(tmp_path))
    assert regain(table).rows == {}
    assert "regain" not in {sheet.name for sheet in report.all_sheets(table)}
