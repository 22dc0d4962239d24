"""Reading runs back: what may stand in one table, what is refused, and how far unfinished runs are comparable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replastic.errors import UnknownNameError, UserError
from replastic.report.experiment import differences, flatten, load
from replastic.report.summary import sentences
from replastic.report.tables import final_table


def test_runs_are_found_by_method_and_seed(experiment_folder: Path) -> None:
    experiment = load(experiment_folder)
    assert experiment.benchmark == "digits_random_labels"
    assert experiment.methods == ("base", "fire", "full_reset", "interpolation:strength=0.8")
    assert experiment.seeds == (0, 1, 2)
    assert experiment.phases == 10
    assert experiment.unfinished == ()
    assert experiment.over_phases("fire", "metric/accuracy").shape == (3, 10)


def test_scores_are_those_of_the_records(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 1, [0.5, 0.25])
    write_run(tmp_path, "base", 0, [1.0, 0.75])
    values = load(tmp_path).over_phases("base", "metric/accuracy")
    np.testing.assert_array_equal(values, [[1.0, 0.75], [0.5, 0.25]])


def test_the_last_record_of_a_phase_counts(tmp_path: Path, write_run) -> None:
    run = write_run(tmp_path, "base", 0, [0.1])
    run.append({"phase": 0, "step": 300, "event": "phase_end", "seconds": 3.0, "metric/accuracy": 0.9})
    run.finish()
    assert load(tmp_path).over_phases("base", "metric/accuracy").tolist() == [[0.9]]


def test_unfinished_runs_cut_everything_to_what_all_have(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.9, 0.8, 0.7])
    write_run(tmp_path, "fire", 0, [0.9, 0.85], finished=False)
    write_run(tmp_path, "fresh", 0, [], finished=False)
    experiment = load(tmp_path)
    assert experiment.phases == 2
    assert experiment.methods == ("base", "fire")
    assert {r.info.method for r in experiment.unfinished} == {"fire", "fresh"}
    assert [r.info.method for r in experiment.left_out] == ["fresh"]


def test_a_run_without_a_phase_of_its_own_cuts_nothing(tmp_path: Path, write_run) -> None:
    shared = {"methods_from": 1}
    for method in ("base", "fire"):
        for seed in range(2):
            late = (method, seed) == ("fire", 1)
            write_run(tmp_path, method, seed, [0.9] if late else [0.9, 0.8], config=shared, finished=not late)
    experiment = load(tmp_path)
    assert experiment.phases == 2
    assert {method: list(by_seed) for method, by_seed in experiment.runs.items()} == {"base": [0, 1], "fire": [0]}
    assert [(r.info.method, r.info.seed) for r in experiment.left_out] == [("fire", 1)]
    assert "ends with task 2, the last that all others have completed" in " ".join(sentences(final_table(experiment)))
    left_out = "Left out, as no phase with their method is completed: fire, seed 1."
    assert left_out in " ".join(sentences(final_table(experiment)))


def test_runs_that_all_are_in_what_they_share_are_shown_as_far_as_that(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.9], config={"methods_from": 2}, finished=False)
    write_run(tmp_path, "fire", 0, [0.9, 0.8], config={"methods_from": 2}, finished=False)
    write_run(tmp_path, "fresh", 0, [], config={"methods_from": 2}, finished=False)
    experiment = load(tmp_path)
    assert (experiment.phases, experiment.methods) == (1, ("base", "fire"))
    assert [r.info.method for r in experiment.left_out] == ["fresh"]


def test_a_last_line_cut_short_is_left_out(tmp_path: Path, write_run) -> None:
    run = write_run(tmp_path, "base", 0, [0.9, 0.8], finished=False)
    file = run.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert load(tmp_path).phases == 1


def test_several_folders_are_one_experiment(tmp_path: Path, write_run) -> None:
    write_run(tmp_path / "a", "base", 0, [0.5])
    write_run(tmp_path / "b", "fire", 0, [0.6])
    assert load([tmp_path / "a", tmp_path / "b"]).methods == ("base", "fire")
    assert load([tmp_path / "a", tmp_path / "a"]).methods == ("base",)


def test_other_settings_are_refused_with_the_difference(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.5])
    write_run(tmp_path, "fire", 0, [0.6], config={"network": {"width": 512}})
    with pytest.raises(UserError, match=r"network\.width: 256 and 512.*replastic compare"):
        load(tmp_path)


def test_runs_may_differ_in_the_measures_they_take_and_not_in_their_samples(tmp_path: Path, write_run) -> None:
    few, many = ({"start_metrics": names, "start_samples": 64} for names in (["dfi"], ["dfi", "dormant"]))
    write_run(tmp_path / "few", "base", 0, [0.5], config=few)
    write_run(tmp_path / "many", "fire", 0, [0.6], config={**many, "start_every": 10})
    write_run(tmp_path / "none", "rescale", 0, [0.6])
    assert load(tmp_path).methods == ("base", "fire", "rescale")
    write_run(tmp_path / "others", "redo", 0, [0.6], config={**few, "start_samples": 32})
    with pytest.raises(UserError, match="start_samples: 64 and 32"):
        load([tmp_path / "few", tmp_path / "others"])


def test_labels_and_curves_are_those_of_the_first_run(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.5], summary={"score_label": "accuracy", "curves": ["metric/dfi"]})
    write_run(tmp_path, "fire", 0, [0.6], summary={"score_label": "test accuracy", "phase_label": "stage"})
    shown = load(tmp_path).shown
    assert (shown.score_label, shown.phase_label, shown.curves) == ("accuracy", "task", ("metric/dfi",))


@pytest.mark.parametrize(
    ("name", "value"), [("score", "metric/loss"), ("event", "boundary"), ("higher_is_better", False)]
)
def test_another_score_is_refused(tmp_path: Path, write_run, name: str, value: object) -> None:
    write_run(tmp_path, "base", 0, [0.5])
    write_run(tmp_path, "fire", 0, [0.6], summary={name: value})
    with pytest.raises(UserError, match=rf"differ in their settings \({name}: .* and {value!r}\)"):
        load(tmp_path)


def test_other_benchmarks_are_refused(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.5])
    write_run(tmp_path, "fire", 0, [0.6], benchmark="digits_warm_start")
    with pytest.raises(UserError, match=r"'digits_random_labels'.*'digits_warm_start'"):
        load(tmp_path)


def test_one_method_and_seed_twice_is_refused(tmp_path: Path, write_run) -> None:
    write_run(tmp_path / "a", "base", 0, [0.5])
    write_run(tmp_path / "b", "base", 0, [0.6])
    with pytest.raises(UserError, match="'base' with seed 0 is there twice"):
        load(tmp_path)


def test_one_name_with_two_sets_of_options_is_refused(tmp_path: Path, write_run) -> None:
    run = write_run(tmp_path, "interpolation:strength=0.8", 0, [0.5])
    write_run(tmp_path, "interpolation:strength=0.8", 1, [0.5])
    file = run.path / "run.json"
    file.write_text(file.read_text().replace('"strength": "0.8"', '"strength": "0.5"'))
    with pytest.raises(UserError, match=r"two sets of options.*method\.strength: '0\.5' and '0\.8'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"benchmark": "x"', "run.json is damaged"),
        ("[1, 2]", "run.json is damaged: it holds list"),
        ('{"benchmark": "x"}', "run.json is damaged.*method"),
        ('{"benchmark":"x","method":"base","seed":0,"config":{}}', "names no score"),
        (
            '{"benchmark":"x","method":"base","seed":0,"config":null}',
            "run.json is damaged: config must be dict, got None",
        ),
    ],
)
def test_a_damaged_run_json_is_named(tmp_path: Path, write_run, content: str, message: str) -> None:
    run = write_run(tmp_path, "base", 0, [0.5])
    (run.path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_nothing_to_show_is_said(tmp_path: Path, write_run) -> None:
    with pytest.raises(UserError, match="no runs found"):
        load(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        load([])
    write_run(tmp_path, "base", 0, [], finished=False)
    with pytest.raises(UserError, match=r"none of the 1 runs has completed its first task.*replastic run"):
        load(tmp_path)


def test_a_method_is_known_by_spec_or_by_its_only_name(experiment_folder: Path) -> None:
    experiment = load(experiment_folder)
    assert experiment.spec("interpolation") == "interpolation:strength=0.8"
    assert experiment.spec("fire") == "fire"
    with pytest.raises(UnknownNameError, match="did you mean 'fire'"):
        experiment.spec("fires")


def test_differences_name_nested_settings() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": 2}) == {"a.b": 1, "a.c": {}, "d": 2}
    assert differences({"a": {"b": 1}, "x": 0}, {"a": {"b": 2}, "y": 0}) == [
        "a.b: 1 and 2",
        "x: 0 and 'absent'",
        "y: 'absent' and 0",
    ]
    assert differences({"a": 1}, {"a": 1}) == []


def test_runs_with_methods_on_from_the_start_are_not_mixed_with_the_others(tmp_path: Path, write_run) -> None:
    write_run(tmp_path / "later", "base", 0, [0.5, 0.4], config={"methods_from": 1})
    write_run(tmp_path / "start", "fire", 0, [0.5, 0.4], config={"methods_from": 0})
    with pytest.raises(UserError, match=r"methods_from: 1 and 0.*report them one by one"):
        load(tmp_path)
    assert load(tmp_path / "later").first == 1
