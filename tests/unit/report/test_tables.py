"""The final table in its four forms holds the same numbers, and they are those of the records."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from replastic import report
from replastic.errors import UnknownNameError
from replastic.report import tables, words
from replastic.report.experiment import load
from replastic.report.statistics import Estimate
from replastic.report.summary import sentences
from replastic.report.tables import Row, Table


def row_of(table: Table, method: str) -> Row:
    return next(row for row in table.rows if row.method == method)


def test_rows_equal_hand_computation(tmp_path: Path, write_run) -> None:
    base, fire = [0.2, 0.4, 0.3], [0.8, 0.7, 0.9]
    for seed in range(3):
        write_run(tmp_path, "base", seed, [1.0, base[seed]], seconds=2.0)
        write_run(tmp_path, "fire", seed, [1.0, fire[seed]], seconds=3.0)
    table = report.final_table(load(tmp_path))
    row = row_of(table, "fire")
    assert row.final.mean == pytest.approx(0.8)
    assert row.average.mean == pytest.approx(0.9)
    assert row.cost == pytest.approx(1.5)
    gained = np.subtract(fire, base)
    expected = stats.t.interval(0.95, 2, loc=gained.mean(), scale=stats.sem(gained))
    assert row.difference is not None
    assert (row.difference.low, row.difference.high) == pytest.approx(expected)
    assert row_of(table, "base").difference is None


def test_reference_first_then_best_first(experiment_folder: Path) -> None:
    table = report.final_table(load(experiment_folder))
    assert table.rows[0].method == "base"
    finals = [row.final.mean for row in table.rows[1:]]
    assert finals == sorted(finals, reverse=True)


def test_lower_is_better_turns_the_order(tmp_path: Path, write_run) -> None:
    for method, loss in (("base", 3.0), ("fire", 2.0), ("fresh", 4.0)):
        for seed in range(2):
            write_run(tmp_path, method, seed, [loss + 0.01 * seed * loss], summary={"higher_is_better": False})
    table = report.final_table(load(tmp_path))
    assert [row.method for row in table.rows] == ["base", "fire", "fresh"]
    standing = table.to_dict()["methods"]
    assert [m["standing"] for m in standing] == [None, "better", "worse"]


def test_csv_is_exact(experiment_folder: Path) -> None:
    table = report.final_table(load(experiment_folder))
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(table))))
    assert [line["method"] for line in lines] == [row.method for row in table.rows]
    for line, row in zip(lines, table.rows, strict=True):
        assert float(line["final_mean"]) == row.final.mean
        assert float(line["final_low"]) == row.final.low
        assert float(line["phases_mean"]) == row.average.mean
        assert line["difference_mean"] == ("" if row.difference is None else repr(row.difference.mean))


def test_markdown_and_text_hold_the_same_cells(experiment_folder: Path) -> None:
    table = report.final_table(load(experiment_folder))
    markdown = [[c.strip() for c in line.strip("|\n").split("|")] for line in tables.to_markdown(table).splitlines()]
    assert [markdown[0], *markdown[2:]] == tables.cells(table)
    text = tables.to_text(table)
    assert text.isascii()
    for row in table.rows:
        assert f"{row.final.mean:.3f}" in text


def test_one_seed_gets_no_interval(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.5])
    write_run(tmp_path, "fire", 0, [0.9])
    line = tables.cells(report.final_table(load(tmp_path)))[2]
    assert line[:8] == ["fire", "0.900", words.MISSING, "0.900", "1", "+0.400", words.MISSING, "one seed"]


def test_another_reference_and_none(experiment_folder: Path, tmp_path: Path, write_run) -> None:
    table = report.final_table(load(experiment_folder), "full_reset")
    assert table.rows[0].method == "full_reset"
    assert row_of(table, "base").difference is not None
    with pytest.raises(UnknownNameError, match="did you mean 'fire'"):
        report.final_table(load(experiment_folder), "fyre")
    write_run(tmp_path / "other", "fire", 0, [0.5])
    alone = report.final_table(load(tmp_path / "other"))
    assert alone.reference is None
    assert alone.rows[0].cost is None


def test_scores_that_are_not_finite_stay_visible(tmp_path: Path, write_run) -> None:
    for seed in range(2):
        write_run(tmp_path, "base", seed, [0.5 + 0.1 * seed])
        write_run(tmp_path, "fire", seed, [math.nan if seed else 0.9])
    table = report.final_table(load(tmp_path))
    assert [row.method for row in table.rows] == ["base", "fire"]
    assert tables.cells(table)[2][1] == words.MISSING
    assert "NaN" not in json.dumps(table.to_dict())


def test_unfinished_is_marked(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.5, 0.4])
    write_run(tmp_path, "fire", 0, [0.5], finished=False)
    text = report.text_table(tmp_path)
    assert "unfinished: 1 run still" in text.splitlines()[0]
    assert "fire (unfinished)" in text
    assert "after task 1" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.1234, "0.123"), (-0.5, "−0.500"), (615.04, "615"), (0.0, "0"), (-0.0, "0"), (3.2e-7, "3.20e−7")),
        *((4e7, "4.00e7"), (62134.5, "62,100"), (0.99999, "1.00"), (0.000123, "0.000123")),
        *((math.inf, "∞"), (math.nan, "–")),
    ],
)
def test_numbers_as_text(value: float, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.762, 0.9521), "0.762 to 0.952"),
        ((-0.00412, 0.0631), "−0.0041 to 0.0631"),
        ((0.00041, 1.2), "0.000410 to 1.20"),
        ((99.951, 100.2), "100.0 to 100.2"),
        ((500.1, 1234.2), "500 to 1,230"),
        ((0.0, 0.0), "0 to 0"),
        ((1e-7, 2.0), "1.00e−7 to 2.00"),
    ],
)
def test_intervals_as_text(ends: tuple[float, float], text: str) -> None:
    assert words.interval(Estimate(0.0, *ends, 3)) == text


def test_formulas_of_docstrings_in_symbols() -> None:
    assert words.typeset("deviation ||W W^T - I||_F^2 of a 3 x 4 matrix") == "deviation ‖WWᵀ − I‖² of a 3 × 4 matrix"
    assert words.typeset("||W||_F^2 / ||W||_2^2, tau 0.025") == "‖W‖² / ‖W‖₂², τ 0.025"
    assert words.plain("‖WWᵀ − I‖², 漢") == r"||WW^T - I||^2, \u6f22"


def test_controls_are_below_the_methods(tmp_path: Path, write_run) -> None:
    for method, score in (
        ("base", 0.2),
        ("rescale", 0.9),
        ("fire", 0.5),
        ("rescale+head_reset", 0.8),
        ("unheard", 0.4),
    ):
        write_run(tmp_path, method, 0, [score])
    table = report.final_table(load(tmp_path))
    assert [row.method for row in table.rows] == ["base", "fire", "unheard", "rescale", "rescale+head_reset"]
    assert [row.control for row in table.rows] == [False, False, False, True, True]


def test_a_method_equal_to_base_has_no_effect_in_table_and_text_alike(tmp_path: Path, write_run) -> None:
    for seed, score in enumerate((0.2, 0.4, 0.3)):
        write_run(tmp_path, "base", seed, [1.0, score])
        write_run(tmp_path, "cbp", seed, [1.0, score * (1 + 1e-12)])
        write_run(tmp_path, "fire", seed, [0.5, score])
    table = report.final_table(load(tmp_path))
    assert [m["standing"] for m in table.to_dict()["methods"]] == [None, "no effect", "no effect"]
    assert [line[7] for line in tables.cells(table)] == ["verdict", "–", "no effect", "no effect"]
    text = " ".join(sentences(table))
    assert "No effect on the final score, which equals that of base on every seed: cbp and fire." in text
    assert "Not settled" not in text


def test_holms_correction_is_over_all_methods_of_the_table(tmp_path: Path, write_run) -> None:
    for seed, noise in enumerate((-0.01, 0.0, 0.01)):
        write_run(tmp_path, "base", seed, [0.5])
        write_run(tmp_path, "fire", seed, [0.53 + noise])
        for method in ("dash", "redo", "snr"):
            write_run(tmp_path, method, seed, [0.5 + 5 * noise])
    table = report.final_table(load(tmp_path))
    assert row_of(table, "fire").difference.standing(True) == "weakly better"
    assert "Only weakly better than base, as the 95% interval excludes zero but Holm's correction for 4" in " ".join(
        sentences(table)
    )
    assert report.compare(tmp_path, methods=("base", "fire")).pairs[0].difference.standing(True) == "better"


def test_bounds_come_from_the_learner_and_not_from_a_name(tmp_path: Path, write_run) -> None:
    for name, options in (
        ("none", {}),
        ("declared", {"summary": {"score_bounds": [0.0, 1.0]}}),
        ("older", {"config": {"learner": "classification"}}),
        ("unknown", {"config": {"learner": "no such learner"}}),
    ):
        for seed, score in enumerate((0.95, 1.0, 0.99)):
            write_run(tmp_path / name, "base", seed, [score], **options)
        high = report.final_table(load(tmp_path / name)).rows[0].final.high
        assert (high < 1) == (name in ("declared", "older"))


def test_labels_show_options_only_where_names_clash() -> None:
    assert words.labels(["fire", "fire:scale=init,solver=svd", "interpolation:strength=0.8"]) == {
        "fire": "fire",
        "fire:scale=init,solver=svd": "fire:scale=init,solver=svd",
        "interpolation:strength=0.8": "interpolation",
    }


def test_scores_on_other_data_are_columns_and_held_out_ones_are_not(tmp_path: Path, write_run) -> None:
    for seed in range(2):
        for method, score in (("base", 0.2), ("fire", 0.6)):
            other = {"metric/accuracy_all": score + seed / 10, "metric/accuracy_held_out": 0.777}
            write_run(tmp_path, method, seed, [0.5, score], extra=lambda phase, other=other: other)
    table = report.final_table(load(tmp_path))
    assert row_of(table, "fire").further["metric/accuracy_all"].mean == pytest.approx(0.65)
    head, *lines = tables.cells(table)
    assert head[9:] == ["accuracy: all"]
    assert [line[9] for line in lines] == ["0.250", "0.650"]
    line = list(csv.DictReader(io.StringIO(tables.to_csv(table))))[1]
    assert float(line["accuracy_all"]) == row_of(table, "fire").further["metric/accuracy_all"].mean
    said = (
        json.dumps(table.to_dict())
        + tables.to_markdown(table)
        + "".join(sheet.to_csv() + sheet.to_markdown() for sheet in report.all_sheets(table))
    )
    assert "accuracy_all" in said
    assert "held_out" not in said
    assert "0.777" not in said
