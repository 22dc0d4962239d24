"""Runs of several games: scores over all of them, panels with their boundaries, tables, the page, comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replastic import report
from replastic.cli import main
from replastic.errors import UserError
from replastic.report import learning, over_seeds, overview, summary
from replastic.report.folder import load_games

SUMMARY = {
    "score": "metric/return",
    "score_label": "return of the evaluation episodes",
    "phase_label": "phase",
    "axis": "frames",
    "axis_label": "environment frames",
    "statistics": ["iqm", "improvement", "profile"],
    "game": "task.environment",
    "further": {"metric/training_return": "return of the training episodes"},
    "curves": [],
}
RETURNS = {
    "minatar/breakout": {"base": (2.0, 4.0, 6.0), "fire": (5.0, 7.0, 9.0)},
    "minatar/asterix": {"base": (100.0, 200.0, 300.0), "fire": (150.0, 350.0, 500.0)},
}
"""Final returns by game, method and seed."""


def write(root: Path, write_run: Any, games: dict[str, dict[str, tuple[float, ...]]] = RETURNS, **summary: Any) -> None:
    """Two phases of 1000 frames with an intervention between them, evaluated every 500 frames."""
    for game, methods in games.items():
        for method, finals in methods.items():
            for seed, final in enumerate(finals):
                config = {"methods_from": 1, "task": {"environment": game}}
                shown = {**SUMMARY, **summary}
                run = write_run(root / game.replace("/", "-"), method, seed, [], config=config, summary=shown)
                for phase, frames, event in (
                    (0, 500, "evaluation"),
                    (0, 1000, "phase_end"),
                    (1, 1000, "before_boundary"),
                    (1, 1000, "boundary"),
                    (1, 1500, "evaluation"),
                    (1, 2000, "phase_end"),
                ):
                    value = final * frames / 2000
                    where = {"phase": phase, "step": frames // 4, "frames": frames, "event": event, "seconds": 1.0}
                    run.append(where | {"metric/return": value, "metric/training_return": value / 2})
                run.finish()


def test_runs_of_several_games_are_one_experiment_each(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run)
    games = load_games(tmp_path)
    assert list(games.tables) == ["minatar/asterix", "minatar/breakout"]
    assert [table.experiment.game for table in games.tables.values()] == list(games.tables)
    with pytest.raises(UserError, match=r"task\.environment"):
        report.load(tmp_path)


def test_scores_of_several_games_lie_between_their_lowest_and_highest(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run)
    games = load_games(tmp_path)
    scores = games.scores("fire")
    assert scores is not None
    assert scores.values.shape == (3, 2, 1)
    assert scores.values[:, 0, 0] == pytest.approx([50 / 400, 250 / 400, 1.0])
    assert scores.values[:, 1, 0] == pytest.approx([3 / 7, 5 / 7, 1.0])


def test_scores_of_one_game_stay_as_they_are(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run, {"minatar/breakout": RETURNS["minatar/breakout"]})
    games = load_games(tmp_path)
    assert not games.normalised
    assert games.scores("fire").values.ravel().tolist() == [5.0, 7.0, 9.0]
    sheet = over_seeds.sheet(games)
    assert sheet.rows["fire"]["iqm"].mean == 7.0
    # 2 < 5; 4 < 5, 6 > 5: of nine pairs fire wins 3 + 3 + 2
    assert sheet.rows["fire"]["improvement"].mean == pytest.approx(8 / 9)
    assert "improvement" not in sheet.rows["base"]
    assert "Over 3 seeds, with" in sheet.note


def test_only_seeds_that_a_method_has_in_every_game_count(tmp_path: Path, write_run: Any) -> None:
    fewer = {**RETURNS, "minatar/asterix": {"base": (100.0, 200.0, 300.0), "fire": (150.0,)}}
    write(tmp_path, write_run, fewer)
    games = load_games(tmp_path)
    assert games.scores("fire").seeds == (0,)
    assert games.scores("base").seeds == (0, 1, 2)


def test_phases_can_be_the_tasks_and_may_have_names_of_games(tmp_path: Path, write_run: Any) -> None:
    for seed, scores in enumerate(((1.0, 10.0, 4.0), (2.0, 30.0, 8.0))):
        names = ["warm", "breakout", "asterix"]
        write_run(
            tmp_path,
            "base",
            seed,
            scores,
            config={"methods_from": 1},
            summary={"tasks": "phases", "statistics": ["iqm"], "phase_names": names},
        )
    games = load_games(tmp_path)
    assert games.normalised
    assert games.scores("base").values.tolist() == [[[0.0, 0.0]], [[1.0, 1.0]]]
    assert over_seeds.sheet(games).rows["base"]["iqm"].mean == 0.5
    assert "2 tasks" in over_seeds.sheet(games).note


def test_lower_scores_are_turned_for_improvement_and_shown_as_they_are(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run, {"g": RETURNS["minatar/breakout"]}, higher_is_better=False)
    row = over_seeds.sheet(load_games(tmp_path)).rows["fire"]
    assert row["iqm"].mean == 7.0
    assert row["iqm"].low < 7.0 < row["iqm"].high
    assert row["improvement"].mean == pytest.approx(1 / 9)


def test_a_benchmark_that_asks_for_no_statistics_gets_none(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run, statistics=[])
    games = load_games(tmp_path)
    assert over_seeds.sheet(games).rows == {}
    assert over_seeds.profiles(games) == []


def test_there_is_a_panel_for_each_game_with_the_intervention_marked(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run)
    games = load_games(tmp_path)
    score, training = learning.curves(games)
    assert (score.name, training.name) == ("learning", "learning_training_return")
    assert "return of the training episodes" in training.alt
    assert "minatar/breakout: base from 1.00 to 4.00; fire from 1.75 to 7.00" in score.alt
    assert "vertical line" in score.caption
    for game in games.tables:
        assert f">{game}</text>" in score.svg
    assert learning.boundaries(games.first.experiment) == [1000.0]
    assert score.svg.count("stroke-dasharray: 4.4,3.3") == 2, "one line in each panel"


def test_the_intervention_is_where_methods_act(tmp_path: Path, write_run: Any) -> None:
    for phase_count, methods_from, places in ((4, 2, [600.0, 900.0]), (4, 0, [300.0, 600.0, 900.0]), (20, 0, [])):
        folder = tmp_path / f"{phase_count}-{methods_from}"
        write_run(folder, "base", 0, [0.5] * phase_count, config={"methods_from": methods_from})
        assert learning.boundaries(report.load(folder)) == places


def test_the_page_of_several_games(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path / "runs", write_run)
    page = report.build(tmp_path / "runs", tmp_path / "out")
    text = page.read_text()
    assert 'href="games/minatar_breakout/report.html"' in text
    for game in ("minatar_breakout", "minatar_asterix"):
        assert (tmp_path / "out" / "games" / game / "report.html").is_file()
    for name in ("statistics", "games"):
        assert f'id="{name}"' in text
        assert (tmp_path / "out" / "tables" / f"{name}.csv").is_file()
    for name in ("learning", "learning_training_return", "statistics"):
        assert f'id="plot-{name}"' in text
        assert (tmp_path / "out" / "curves" / f"{name}.png").is_file()
    assert "Mean of the middle half of all scores, each between the lowest" in text


def test_final_scores_by_game(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path, write_run)
    sheet = overview.by_game(load_games(tmp_path))
    assert sheet.rows["fire"]["minatar/breakout"].mean == 7.0
    assert sheet.rows["base"]["minatar/asterix"].mean == 200.0


def test_the_command_prints_tables_of_all_games(tmp_path: Path, write_run: Any, capsys: Any) -> None:
    write(tmp_path / "runs", write_run)
    command = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main([*command, "--table", "statistics"]) == 0
    assert "P(better than base)" in capsys.readouterr().out
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.index("minatar/asterix") < out.index("minatar/breakout")
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["games"]["minatar/breakout"]["methods"][1]["final"]["mean"] == 7.0
    assert content["tables"]["statistics"]["fire"]["improvement"]["mean"] == pytest.approx((8 / 9 + 7 / 9) / 2)


def test_compare_knows_games_and_statistics(tmp_path: Path, write_run: Any, capsys: Any) -> None:
    write(tmp_path, write_run)
    found = report.compare(tmp_path, methods=["base", "fire"])
    assert [pair.game for pair in found.pairs] == ["minatar/asterix", "minatar/breakout"]
    assert [pair.difference.mean for pair in found.pairs] == pytest.approx([400 / 3, 3.0])
    (overall,) = found.overall
    assert overall.improvement.mean == pytest.approx((8 / 9 + 7 / 9) / 2)
    assert overall.iqm_a.mean == pytest.approx(np.mean([0, 1 / 4, 2 / 7, 1 / 2]))
    assert main(["compare", str(tmp_path), "--methods", "base", "fire"]) == 0
    out = capsys.readouterr().out
    assert "minatar/breakout: fire minus base: 4.00 -> 7.00" in out
    assert "fire against base: interquartile mean" in out


def test_compare_of_two_folders_has_one_scale(tmp_path: Path, write_run: Any) -> None:
    write(tmp_path / "a", write_run, {game: {"base": of["base"]} for game, of in RETURNS.items()})
    write(tmp_path / "b", write_run, {game: {"base": of["fire"]} for game, of in RETURNS.items()})
    (overall,) = report.compare(tmp_path / "a", tmp_path / "b").overall
    assert overall.iqm_a.mean == pytest.approx(np.mean([0, 1 / 4, 2 / 7, 1 / 2]))
    with pytest.raises(UserError, match="no game in common: minatar/asterix against minatar/breakout"):
        report.compare(tmp_path / "a" / "minatar-asterix", tmp_path / "b" / "minatar-breakout")


def test_compare_of_the_mean_over_phases(tmp_path: Path, write_run: Any, capsys: Any) -> None:
    for seed in range(2):
        write_run(tmp_path, "base", seed, [0.2, 0.4, 0.9])
        write_run(tmp_path, "fire", seed, [0.4, 0.8, 0.9])
    assert report.compare(tmp_path, methods=["base", "fire"]).pairs[0].difference.mean == 0
    mean = report.compare(tmp_path, methods=["base", "fire"], score="mean").pairs[0]
    assert (mean.mean_a.mean, mean.mean_b.mean) == pytest.approx((0.5, 0.7))
    assert main(["compare", str(tmp_path), "--methods", "base", "fire", "--score", "mean"]) == 0
    assert "mean over 3 tasks" in capsys.readouterr().out
    with pytest.raises(UserError, match="score must be one of final, mean"):
        report.compare(tmp_path, methods=["base", "fire"], score="best")


@pytest.mark.parametrize(
    ("field", "value"),
    [("statistics", ["mean"]), ("tasks", "all"), ("game", 3), ("phase_names", "abc"), ("further", {"metric/x": 3})],
)
def test_a_wrong_summary_is_refused(field: str, value: Any, tmp_path: Path, write_run: Any) -> None:
    write_run(tmp_path, "base", 0, [0.5], summary={field: value})
    with pytest.raises(UserError, match=rf"summary\.{field} must be"):
        report.load(tmp_path)


def test_a_method_has_one_colour_in_all_panels(tmp_path: Path, write_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = (("redo", "trac", "snr", "dash"), ("dash", "snr", "trac", "redo"))
    games = {f"g/{i}": {m: (9.0 - rank,) * 2 for rank, m in enumerate(order)} for i, order in enumerate(orders)}
    write(tmp_path, write_run, games)
    seen = []
    draw = learning.axes.curves

    def curves(ax: Any, drawn: Any, table: Any, *, styles: Any) -> None:
        seen.append({one.method: styles[one.method].colour for one in drawn})
        draw(ax, drawn, table, styles=styles)

    monkeypatch.setattr(learning.axes, "curves", curves)
    learning.curves(load_games(tmp_path))
    assert len({tuple(sorted(colours.items())) for colours in seen}) == 1
    assert seen[0]["redo"] != seen[0]["dash"]


def test_names_of_phases_stand_between_the_boundaries(tmp_path: Path, write_run: Any) -> None:
    names = ["minatar/breakout:channels=10", "minatar/asterix:channels=10"]
    write(tmp_path, write_run, {"+".join(names): RETURNS["minatar/breakout"]}, phase_names=names, tasks="phases")
    score, _ = learning.curves(load_games(tmp_path))
    assert all(f">{name.partition(':')[0]}</text>" in score.svg for name in names)
    assert "channels=10+" not in score.svg, "the panel needs no name of its own"
    said = " ".join(summary.sentences(load_games(tmp_path).first))
    assert "goes from" not in said, "two games have no common scale"
