"""The contest of diagnostics: planted correlations are found, chance is not, and the numbers are scipy's."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from replastic import report
from replastic.cli import main
from replastic.errors import UserError
from replastic.records import RunDirectory
from replastic.report.contest import KEPT, POOLED, WITHIN, contest, recorded, somers, spearman
from replastic.report.experiment import load

TASKS, SEEDS = 12, 4
METHODS = ("base", "fire", "redo")


def write(run: RunDirectory, rows: list[dict[str, float]], scores: list[float]) -> None:
    """Records of one run: the measures of a task at its start, its score at the end."""
    for phase, (row, score) in enumerate(zip(rows, scores, strict=True)):
        at = {"phase": phase, "step": 10 * phase, "seconds": 1.0}
        if phase:
            measured = {f"metric/{name}": value for name, value in row.items()}
            run.append(at | {"event": "boundary", "metric/accuracy": 0.1} | measured)
        run.append(at | {"event": "phase_end", "step": 10 * phase + 10, "metric/accuracy": score})
    run.finish()


@pytest.fixture
def planted(tmp_path: Path, write_run: Callable[..., RunDirectory]) -> Path:
    """Runs in which dfi follows the score against its sign, weight_norm grows with time alone, and dormant is noise."""
    for index, method in enumerate(METHODS):
        for seed in range(SEEDS):
            g = np.random.default_rng([index, seed])
            health = np.clip(0.95 - 0.06 * np.arange(TASKS) * (index == 0) + 0.02 * g.standard_normal(TASKS), 0.11, 1)
            rows = [
                {
                    "dfi": float(np.exp(-3 * h)),
                    "weight_norm": phase + 0.01 * float(g.standard_normal()),
                    "dormant": float(g.random()),
                    "sfe": float(h),
                    "plasticity": float(h**2),
                    "mystery": 1.0,
                    "dfi/fc.weight": 1.0,
                }
                for phase, h in enumerate(health)
            ]
            write(write_run(tmp_path, method, seed, []), rows, health.tolist())
    return tmp_path


def sheet_of(folder: Path, name: str) -> Any:
    return {sheet.name: sheet for sheet in contest(report.load(folder))}[f"contest_{name}"]


def test_planted_correlations_are_found_and_chance_is_not(planted: Path) -> None:
    sheets = {sheet.name: sheet for sheet in contest(report.load(planted))}
    assert list(sheets) == ["contest_score", "contest_failure", "contest_plasticity"]
    score = sheets["contest_score"]
    assert set(score.rows) == {"dfi", "weight_norm", "dormant", "plasticity"}  # no change, no constant, no layer
    dfi = score.rows["dfi"]
    assert dfi[POOLED].mean == pytest.approx(-1)
    assert dfi[WITHIN].mean == pytest.approx(-1)
    assert dfi["base"].mean == pytest.approx(-1)
    assert dfi[POOLED].verdict == "lower"
    dormant = score.rows["dormant"][POOLED]
    assert dormant.verdict == "not settled" or dormant.weak
    assert score.rows["plasticity"][POOLED].mean == pytest.approx(1)
    assert "plasticity" not in sheets["contest_plasticity"].rows, "nothing predicts itself"
    assert score.labels["dfi"] == "dfi (lower)"
    assert list(score.rows)[:2] in (["dfi", "plasticity"], ["plasticity", "dfi"])


def test_what_grows_with_time_alone_does_not_predict_within_a_task(planted: Path) -> None:
    norm = sheet_of(planted, "score").rows["weight_norm"]
    assert norm["base"].mean < -0.9
    assert abs(norm[WITHIN].mean) < 0.35
    assert norm[WITHIN].verdict == "not settled" or norm[WITHIN].weak


def test_the_numbers_are_those_of_scipy(planted: Path) -> None:
    experiment = report.load(planted)
    by_seed = []
    for seed in range(SEEDS):
        x, y = [], []
        for method in METHODS:
            run = experiment.runs[method][seed]
            x += [run.phases("boundary", "metric/dormant")[phase] for phase in range(1, TASKS)]
            y += [run.phases("phase_end", "metric/accuracy")[phase] for phase in range(1, TASKS)]
        by_seed.append(float(stats.spearmanr(x, y).statistic))
    found = sheet_of(planted, "score").rows["dormant"][POOLED]
    assert found.mean == pytest.approx(np.mean(by_seed))
    half = stats.t.ppf(0.975, SEEDS - 1) * stats.sem(by_seed)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.p == pytest.approx(float(stats.ttest_1samp(by_seed, 0).pvalue))
    assert found.n == SEEDS


def test_failure_is_judged_by_the_gain_of_the_first_task(planted: Path) -> None:
    sheet = sheet_of(planted, "failure")
    base = sheet.rows["dfi"]["base"]
    assert base.mean == pytest.approx(-1), "a high dfi goes before every failure"
    assert "fire" not in sheet.rows["dfi"], "a method without failures tells nothing"
    run = report.load(planted).runs["base"][0]
    ends = run.phases("phase_end", "metric/accuracy")
    failed = [phase for phase in range(1, TASKS) if (ends[phase] - 0.1) / (ends[0] - 0.1) < KEPT]
    assert 0 < len(failed) < TASKS - 1
    x = np.array([run.phases("boundary", "metric/weight_norm")[phase] for phase in range(1, TASKS)])
    success = np.array([float(phase not in failed) for phase in range(1, TASKS)])
    auc = stats.mannwhitneyu(x[success == 1], x[success == 0]).statistic / (success.sum() * (1 - success).sum())
    assert somers(x, success, np.zeros(x.size)) == pytest.approx(2 * auc - 1)


def test_groups_are_compared_within_themselves() -> None:
    x, y = np.array([1.0, 2, 3, 101, 102, 103]), np.array([3.0, 2, 1, 13, 12, 11])
    group = np.array([0.0, 0, 0, 1, 1, 1])
    assert spearman(x, y, group) == pytest.approx(-1)
    assert spearman(x, y, np.zeros(6)) == pytest.approx(float(stats.spearmanr(x, y).statistic))
    success = np.array([1.0, 0, 0, 1, 1, 0])
    # Pairs of the first group: (1, 2), (1, 3), both lower before success; of the second: (101, 103), (102, 103).
    assert somers(x, success, group) == pytest.approx(-1)
    auc = stats.mannwhitneyu(x[success == 1], x[success == 0]).statistic / 9
    assert somers(x, success, np.zeros(6)) == pytest.approx(2 * auc - 1)


def test_a_score_that_should_be_low_is_turned(planted: Path) -> None:
    for run in planted.rglob("run.json"):
        content = json.loads(run.read_text())
        content["summary"]["higher_is_better"] = False
        run.write_text(json.dumps(content))
    assert sheet_of(planted, "score").rows["dfi"][POOLED].mean == pytest.approx(1)


def test_measures_of_some_starts_alone(planted: Path) -> None:
    """As a protocol records them that takes costly measures at the start of every second task."""
    before = sheet_of(planted, "score").rows["dormant"]["base"]
    values = {}
    for run in [RunDirectory(path.parent) for path in planted.rglob("run.json")]:
        records = run.records()
        for record in records:
            if record["event"] == "boundary":
                dormant = record.pop("metric/dormant")
                if record["phase"] % 2 == 0:
                    values[run.path, record["phase"]] = dormant
        starts = [
            {"phase": phase, "step": 10 * phase, "seconds": 1.0, "event": "phase_start", "metric/dormant": value}
            for (path, phase), value in values.items()
            if path == run.path
        ]
        run.keep_records(0)
        run.append(*records, *starts)
        run.finish()
    found = sheet_of(planted, "score").rows["dormant"]["base"]
    assert found.mean != before.mean
    run = report.load(planted).runs["base"][0]
    ends = run.phases("phase_end", "metric/accuracy")
    phases = range(2, TASKS, 2)
    x = [values[run.path, phase] for phase in phases]
    assert found.values[0] == pytest.approx(float(stats.spearmanr(x, [ends[phase] for phase in phases]).statistic))


def test_correlations_that_cannot_be_computed() -> None:
    one = np.zeros(6)
    assert spearman(np.arange(3.0), np.arange(3.0), one[:3]) is None
    assert spearman(np.ones(6), np.arange(6.0), one) is None
    assert spearman(np.arange(6.0), -np.arange(6.0), one) == pytest.approx(-1)
    assert somers(np.arange(6.0), np.ones(6), one) is None
    assert somers(np.ones(6), np.array([1.0, 0, 1, 0, 1, 0]), one) is None
    infinite = np.array([1.0, 2.0, 3.0, math.inf])
    assert spearman(infinite, np.arange(4.0), one[:4]) == pytest.approx(1), (
        "an infinite condition number is the largest"
    )


def test_the_command_prints_and_writes(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["contest", str(planted), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "What predicts the score at the end of a task" in said
    assert "dfi (lower)" in said
    assert said.isascii()
    lines = list(csv.DictReader((out / "tables" / "contest_score.csv").read_text().splitlines()))
    assert {line["diagnostic"] for line in lines} == {"dfi", "weight_norm", "dormant", "plasticity"}
    assert "; weak)" in (out / "tables" / "contest_score.md").read_text() or all(
        not one.weak for row in sheet_of(planted, "score").rows.values() for one in row.values()
    )
    assert (out / "curves" / "contest.png").stat().st_size > 10_000
    assert (out / "curves" / "contest.svg").read_text().count("dfi (lower)") == 1
    assert main(["contest", str(planted), "--out", str(out), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["contest_score"]["dfi"]["pooled"]["mean"] == pytest.approx(-1)


def test_runs_that_hold_nothing_for_it(tmp_path: Path, write_run: Callable[..., RunDirectory]) -> None:
    write(write_run(tmp_path / "bare", "base", 0, []), [{}] * 6, [0.5] * 6)
    with pytest.raises(UserError, match="--start-metrics"):
        contest(report.load(tmp_path / "bare"))
    write(write_run(tmp_path / "short", "base", 0, []), [{"dfi": 1.0}] * 4, [0.5] * 4)
    with pytest.raises(UserError, match="at least 4 boundaries, and these runs have 3 tasks after the first"):
        contest(report.load(tmp_path / "short"))
    write(write_run(tmp_path / "even", "base", 0, []), [{"dfi": 1.0 + i} for i in range(8)], [0.5] * 8)
    with pytest.raises(UserError, match="nothing can be ranked: no seed has 4 tasks"):
        contest(report.load(tmp_path / "even"))


def test_the_page_has_the_contest_where_starts_were_measured(planted: Path, tmp_path: Path) -> None:
    assert recorded(load(planted)) == [], "measures at boundaries alone make no contest"
    for file in planted.rglob("metrics.jsonl"):
        file.write_text(file.read_text().replace('"event": "boundary"', '"event": "phase_start"'))
        RunDirectory(file.parent).finish()
    experiment = load(planted)
    at_starts = recorded(experiment)
    assert [sheet.name for sheet in at_starts] == [sheet.name for sheet in contest(experiment)]
    page = report.build(planted, tmp_path / "out").read_text()
    for sheet in at_starts:
        assert f'id="{sheet.name}"' in page
        assert (tmp_path / "out" / "tables" / f"{sheet.name}.md").is_file()
    assert page.count('id="plot-contest"') == 1
    assert page.index('id="plot-contest"') > page.index(f'id="{at_starts[-1].name}"'), "below the last of its tables"
    assert recorded(experiment.until(3)) == [], "too few tasks to rank"
