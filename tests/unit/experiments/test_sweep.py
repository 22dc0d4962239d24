"""What a sweep tries, and what it chooses by."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import mean

import pytest

from replastic import benchmarks, experiments
from replastic.cli import main
from replastic.cli.sweep import _winner_command
from replastic.errors import UserError
from replastic.experiments import experiment
from replastic.experiments.sweep import as_in, check_held_out, parse_values, search_spaces, search_values, searches
from replastic.records import RunDirectory, find_runs
from support.in_this_process import work

SMOKE = ["sweep", "digits_warm_start", "--preset", "smoke"]


def test_the_space_is_the_product_of_the_search_values_of_table_5() -> None:
    spaces = search_spaces(["interpolation", "dash"], {})
    assert spaces["interpolation"] == tuple(f"interpolation:strength={s}" for s in (0.2, 0.4, 0.6, 0.8))
    assert spaces["dash"] == tuple(f"dash:alpha={a},min_shrink={m}" for a in (0.1, 0.3) for m in (0.05, 0.1, 0.3))


def test_what_a_spec_gives_stays_and_set_replaces_what_is_searched() -> None:
    spaces = search_spaces(["dash:alpha=0.5"], parse_values(["dash.min-shrink=0.2, 0.4,0.2"]))
    assert spaces == {"dash:alpha=0.5": ("dash:alpha=0.5,min_shrink=0.2", "dash:alpha=0.5,min_shrink=0.4")}
    spaces = search_spaces(["fire"], parse_values(["fire.scale=modular,init"]))
    assert spaces == {"fire": ("fire:scale=modular", "fire:scale=init")}


def test_a_bare_name_keeps_what_the_preset_sets_beside_the_searched_options() -> None:
    preset = ("base", "parseval:strength=0.001,targets=all-linear", "nap")
    assert as_in(preset, "parseval", {}) == "parseval:targets=all-linear"
    assert as_in(preset, "parseval", {"parseval.targets": ("qkv",)}) == "parseval"
    for text in ("parseval:strength=0.1", "nap", "ewc"):
        assert as_in(preset, text, {}) == text


def test_parts_of_a_combination_are_searched_together() -> None:
    spaces = search_spaces(["shrink_perturb:shrink=0.3+l2_init"], {"shrink_perturb.perturb_std": ("0.1", "0.2")})
    assert next(iter(spaces.values())) == tuple(
        f"shrink_perturb:shrink=0.3,perturb_std={p}+l2_init:strength={s}"
        for p in (0.1, 0.2)
        for s in (0.001, 0.0001, 1e-05)
    )


def test_a_trigger_is_searched_beside_its_method() -> None:
    spaces = search_spaces(["fire@plateau"], parse_values(["plateau.patience=30,70", "fire.scale=init,modular"]))
    assert spaces == {
        "fire@plateau": tuple(
            f"fire:scale={scale}@plateau:patience={patience}" for scale in ("init", "modular") for patience in (30, 70)
        )
    }
    kept = search_spaces(["dash@every:steps=70"], {})
    assert {spec.partition("@")[2] for spec in kept["dash@every:steps=70"]} == {"every:steps=70"}


@pytest.mark.parametrize(
    ("chosen", "values", "words"),
    [
        (["base"], [], "base has no option that is searched; name one with --set base.OPTION=value,value"),
        (["dahs"], [], "did you mean 'dash'"),
        (["dash"], ["dahs.alpha=1"], "unknown method in --set 'dahs'; did you mean 'dash'"),
        (["dash"], ["dash.alhpa=1"], "unknown option of dash 'alhpa'; did you mean 'alpha'"),
        (["dash"], ["dash.alpha=7"], "alpha must lie in"),
        (["dash"], ["dash.alpha=much"], "alpha must be of type float"),
        (["dash"], ["alpha=0.1"], "write --set method.option=value,value"),
        (["dash"], ["dash.alpha="], "write --set method.option=value,value"),
        (["dash:alpha=0.1"], ["dash.alpha=0.3"], "alpha is given in the spec and in --set"),
        (["fire@every:steps=5"], ["every.steps=7"], "steps is given in the spec and in --set"),
        (["fire@plateau"], ["plateau.patienc=7"], "unknown option of plateau 'patienc'; did you mean 'patience'"),
        (["fire@plateu"], ["plateu.patience=7"], "did you mean 'plateau'"),
    ],
)
def test_wrong_spaces_are_one_sentence(chosen: list[str], values: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        search_spaces(chosen, parse_values(values))
    assert words in str(error.value)


def test_the_values_of_the_papers_are_listed_without_methods_that_have_none() -> None:
    known = search_values()
    assert known["parseval"] == "strength 0.001 0.0001 1e-05"
    assert "base" not in known


def plan(folder: Path, chosen: list[str], seeds: int) -> experiments.Plan:
    spec = benchmarks.get("digits_warm_start")()
    return experiments.plan(spec, spec.presets["smoke"].protocol, chosen, range(seeds), folder)


def finish(planned: experiments.Plan, held_out: dict[str, list[float]], test: float = 0.5) -> None:
    """Write the ends of runs; a run whose score is None is left out."""
    for job in planned.jobs:
        score = held_out[job.method][job.seed]
        if score is not None:
            job.directory.create(job.info())
            last = {"metric/accuracy": test, "metric/accuracy_held_out": score}
            first = {"metric/accuracy": 0.9, "metric/accuracy_held_out": 0.99}
            job.directory.append({"phase": 0, "step": 1, "event": "phase_end", **first})
            job.directory.append({"phase": 1, "step": 2, "event": "phase_end", **last})
            job.directory.finish()


def test_the_best_mean_on_held_out_data_wins_whatever_the_test_says(tmp_path: Path) -> None:
    space = [f"l2_init:strength={s}" for s in (0.1, 0.2, 0.3)]
    planned = plan(tmp_path, space, 2)
    finish(planned, dict(zip(space, [[0.5, 0.9], [0.8, 0.7], [0.1, 0.2]], strict=True)))
    for job in planned.jobs:  # On the test set the order is another.
        if job.method == space[2]:
            records = job.directory.records()
            records[-1]["metric/accuracy"] = 1.0
            job.directory.keep_records(0)
            job.directory.append(*records)
    (found,) = searches(planned, {"l2_init": space})
    assert [candidate.spec for candidate in found.candidates] == [space[1], space[0], space[2]]
    assert found.best is not None
    assert found.best.mean == pytest.approx(0.75)
    content = json.dumps(found.to_dict())
    assert "1.0" not in content
    assert found.to_dict()["tried"][1]["by_seed"] == {"0": 0.5, "1": 0.9}


def test_a_candidate_that_lacks_a_seed_or_diverged_cannot_win(tmp_path: Path) -> None:
    space = [f"l2_init:strength={s}" for s in (0.1, 0.2, 0.3)]
    planned = plan(tmp_path, space, 2)
    finish(planned, dict(zip(space, [[0.9, None], [0.9, math.nan], [0.1, 0.2]], strict=True)))
    (found,) = searches(planned, {"l2_init": space})
    assert found.best is not None
    assert found.best.spec == space[2]
    assert [c.spec for c in found.candidates[1:]] == space[:2]
    assert "NaN" not in json.dumps(found.to_dict())


def test_a_run_without_a_held_out_score_counts_as_missing(tmp_path: Path) -> None:
    space = ["l2_init:strength=0.1", "l2_init:strength=0.2"]
    planned = plan(tmp_path, space, 1)
    finish(planned, dict(zip(space, [[0.9], [0.1]], strict=True)))
    lost = planned.jobs[0].directory
    lost.keep_records(0)
    lost.append({"phase": 1, "step": 2, "event": "phase_end", "metric/accuracy": 0.9})
    (found,) = searches(planned, {"l2_init": space})
    assert found.best is not None
    assert found.best.spec == space[1]


def test_nothing_finished_means_no_winner(tmp_path: Path) -> None:
    space = ["l2_init:strength=0.1"]
    (found,) = searches(plan(tmp_path, space, 1), {"l2_init": space})
    assert found.best is None
    assert found.to_dict()["spec"] is None


def test_without_held_out_data_there_is_no_sweep() -> None:
    spec = benchmarks.get("digits_random_labels")()
    with pytest.raises(UserError, match="digits_random_labels scores nothing on held-out data"):
        check_held_out(spec, spec.presets["smoke"].protocol, 0)


def test_the_winners_command_keeps_the_settings_and_drops_what_belongs_to_the_sweep() -> None:
    args = "digits_warm_start --preset smoke --methods dash l2_init --set dash.alpha=0.1 --epochs 3 --seeds 2"
    args += " --out x --jobs=1 --json --plugin mine.py --learning-rate 0.1"
    assert _winner_command(args.split()) == (
        ["digits_warm_start", "--preset", "smoke", "--epochs", "3", "--plugin", "mine.py", "--learning-rate", "0.1"]
    )


def without_ray(monkeypatch: pytest.MonkeyPatch, module: str = "ray") -> None:
    """Let the import of `module` fail as it does where Ray is not installed."""
    for name in [m for m in sys.modules if m.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("module", ["ray", "ray.tune"])
def test_for_a_cluster_the_extra_is_named_where_ray_is_missing_and_nothing_is_written(
    module: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch, module)
    assert main([*SMOKE, "--methods", "dash", "--address", "auto", "--out", str(tmp_path / "out")]) == 2
    assert "a sweep on a cluster needs ray, which is not installed: pip install 'replastic[sweep]'" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_on_this_machine_a_sweep_needs_no_ray_and_ends_like_plain_runs(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ray(monkeypatch)
    monkeypatch.setattr(experiment, "work", work)
    settings = ["digits_warm_start", "--preset", "smoke", "--seeds", "2"]
    specs = ["interpolation:strength=0.1", "interpolation:strength=0.9"]
    assert main(["run", *settings, "--methods", *specs, "--out", str(tmp_path / "plain"), "--no-report"]) == 0
    command = ["sweep", *settings, "--methods", "interpolation", "--set", "interpolation.strength=0.1,0.9"]
    command += ["--out", str(tmp_path / "swept"), "--json"]
    capsys.readouterr()
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert content(tmp_path / "swept") == content(tmp_path / "plain")
    outcome = json.loads((tmp_path / "swept" / "best.json").read_text())
    assert {key: said[key] for key in outcome} == outcome
    means = {
        spec: mean(
            RunDirectory(tmp_path / "plain" / spec.replace(":", "-") / f"seed-{seed}").records()[-1][
                "metric/accuracy_held_out"
            ]
            for seed in range(2)
        )
        for spec in specs
    }
    search = outcome["methods"]["interpolation"]
    assert {tried["spec"]: tried["held_out"] for tried in search["tried"]} == pytest.approx(means)
    assert search["held_out"] == pytest.approx(max(means.values()))
    assert outcome["command"].endswith(f"--methods base {search['spec']}")

    def nothing(jobs, *_, **__):
        assert not jobs
        return {}

    monkeypatch.setattr(experiment, "work", nothing)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == said


def test_a_run_that_fails_is_named_and_the_others_are_compared(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "work", work)
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from replastic import methods\n"
        "@methods.register('mine')\n"
        "@dataclass(kw_only=True)\n"
        "class Mine(methods.Method):\n"
        "    kind: int = methods.option(0, help='how to end', search=(1, 2))\n"
        "    def on_boundary(self, run):\n"
        "        if self.kind == 2:\n"
        "            raise RuntimeError('broken on purpose')\n"
    )
    out = tmp_path / "out"
    assert main([*SMOKE, "--methods", "mine", "--seeds", "1", "--out", str(out), "--plugin", str(plugin)]) == 1
    said = capsys.readouterr()
    assert "mine:kind=2, seed 0 failed: " in said.err
    assert "broken on purpose" in said.err
    outcome = json.loads((out / "best.json").read_text())
    assert outcome["methods"]["mine"]["spec"] == "mine:kind=1"
    assert list(outcome["failed"]) == ["mine:kind=2, seed 0"]
    assert f"--plugin {plugin}" in outcome["command"]
    assert f"run it: {outcome['command']}" in said.out


def content(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Every record of every run below `folder`, without what cannot be repeated."""
    return {
        str(run.path.relative_to(folder)): [{k: v for k, v in r.items() if k != "seconds"} for r in run.records()]
        for run in find_runs(folder)
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--methods needs the names"),
        (["--methods", "dash", "--jobs", "0"], "--jobs must be 1 or more"),
        (["--methods", "dash", "--seeds", "few"], "--seeds must be a number of seeds"),
        (["--methods", "dash", "--alpha", "3"], "--alpha"),
        (["--methods", "dash", "--metrics", "dif"], "unknown metric 'dif'; did you mean 'dfi'"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: list[str], words: str, capsys) -> None:
    assert main([*SMOKE, *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_help_lists_the_search_values(capsys) -> None:
    assert main(["sweep", "--help"]) == 0
    said = capsys.readouterr().out
    assert "alpha 0.1 0.3; min_shrink 0.05 0.1 0.3" in said
    assert "examples:" in said
