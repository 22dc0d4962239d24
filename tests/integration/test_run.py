"""`replastic run` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from replastic import benchmarks
from replastic.cli import main
from replastic.records import RunDirectory, find_runs

SMOKE = ["run", "digits_random_labels", "--preset", "smoke", "--no-report"]


def replastic(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "replastic", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def content(folder):
    """Every record of every run below `folder`, without what cannot be repeated."""
    return {
        str(run.path.relative_to(folder)): [{k: v for k, v in r.items() if k != "seconds"} for r in run.records()]
        for run in find_runs(folder)
    }


def wait_for_records(folder, count, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        files = list(folder.rglob("metrics.jsonl"))
        if sum(file.read_text().count("\n") for file in files) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the run did not begin")


@pytest.mark.slow
def test_stopped_killed_and_resumed_the_numbers_are_the_same_with_any_number_of_jobs(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ["--tasks", "4", "--steps", "60", "--evaluate-every", "2", "--save-seconds", "0"]
    assert main([*SMOKE, *settings, "--out", str(whole), "--jobs", "1"]) == 0

    command = [*SMOKE, *settings, "--out", str(parts), "--jobs", "2"]
    stopped = replastic(*command)
    wait_for_records(parts, 20, stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "the same command goes on from here: replastic run digits_random_labels" in said
    assert "Traceback" not in said

    before = sum(len(run.records()) for run in find_runs(parts))
    killed = replastic(*command)
    wait_for_records(parts, before + 20, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)

    done = replastic(*command)
    _, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    assert content(parts) == content(whole)
    assert all(run.done for run in find_runs(parts))


@pytest.mark.slow
def test_a_plugin_runs_beside_the_others_and_finished_runs_are_skipped(tmp_path, capsys):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from replastic import methods\n"
        "@methods.register('mine')\n"
        "@dataclass(kw_only=True)\n"
        "class Mine(methods.Method):\n"
        "    def penalty(self, run):\n"
        "        if run.step > 25:\n"
        "            raise RuntimeError('broken on purpose')\n"
    )
    out = tmp_path / "out"
    assert main([*SMOKE, "--methods", "base", "--seeds", "1", "--out", str(out)]) == 0
    first = (out / "base" / "seed-0" / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    command = [*SMOKE, "--methods", "base", "mine", "--seeds", "1", "--out", str(out), "--plugin", str(plugin)]
    assert main([*command, "--json"]) == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert [run["method"] for run in answer["finished"]] == ["base"]
    assert "broken on purpose" in answer["failed"]["mine, seed 0"]
    assert "mine, seed 0 failed" in said.err
    assert "1 finished before, 1 to do" in said.err
    assert (out / "base" / "seed-0" / "metrics.jsonl").read_bytes() == first
    assert len(RunDirectory(out / "mine" / "seed-0").records()) == 3  # the first task is kept


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", benchmarks.names())
def test_every_benchmark_smokes_and_ends_with_a_page(benchmark, tmp_path, capsys, request, monkeypatch):
    out = tmp_path / "out"
    if benchmarks.get(benchmark)().presets["smoke"].protocol.data != "digits":
        monkeypatch.setenv("REPLASTIC_DATA", str(request.getfixturevalue("shared_data")))
    assert main(["run", benchmark, "--preset", "smoke", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (out / "report.html").is_file()
    assert str(out / "report.html") in said
    preset = benchmarks.get(benchmark)().presets["smoke"]
    runs = find_runs(out)
    assert len(runs) == len(preset.methods) * preset.seeds
    for run in runs:
        assert run.done
        last = run.records()[-1]
        assert last["phase"] == len(preset.protocol.stream) - 1
        assert {"metric/accuracy", "metric/dfi", "metric/dormant", "metric/effective_rank"} <= last.keys()
    if preset.protocol.methods_from:
        firsts = {
            (run.info().seed, json.dumps([r for r in run.records() if r["phase"] == 0], sort_keys=True)) for run in runs
        }
        assert len(firsts) == preset.seeds  # one first phase per seed, to the second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digits_randm_labels"], "unknown benchmark 'digits_randm_labels'; did you mean 'digits_random_labels'"),
        (["--seeds", "3"], "name the benchmark first"),
        (["digits_random_labels", "--preset", "ful"], "did you mean 'full'"),
        (["digits_random_labels", "--methods", "fir"], "unknown method 'fir'; did you mean 'fire'"),
        (["digits_random_labels", "--methods", "fire:solvr=svd"], "did you mean 'solver'"),
        (["digits_random_labels", "--seeds", "many"], "--seeds must be a number of seeds (5) or a list (3,7)"),
        (["digits_random_labels", "--seeds", "0"], "--seeds must be"),
        (["digits_random_labels", "--tasks", "0"], "tasks must be 1 or more, got 0"),
        (["digits_random_labels", "--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (["digits_random_labels", "--images", "5000"], "images must be at most 1302"),
        (["digits_random_labels", "--device", "gpu"], "--device"),
        (["digits_random_labels", "--plugin", "nowhere.py"], "plug-in file 'nowhere.py' does not exist"),
        (["digits_warm_start", "--channels", "4", "4", "4", "4", "4"], "needs at least 16 pixels a side"),
        (["digits_warm_start", "--ratio", "1.5"], "ratio must lie between 0 and 1, got 1.5"),
    ],
)
def test_wrong_input_ends_in_one_sentence(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_folder_with_other_settings_or_another_benchmark_is_refused(tmp_path, capsys):
    spec = benchmarks.get("digits_random_labels")()
    protocol = spec.presets["smoke"].protocol
    (job, *_) = benchmarks.plan(spec, protocol, ["fire"], [0], tmp_path).jobs
    job.directory.create(job.info())
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in (
        (["--learning-rate", "0.5"], "trainer.learning_rate: 0.001 and 0.5"),
        (["--methods", "base", "--tasks", "9"], "stream.tasks: 3 and 9"),
    ):
        assert main([*SMOKE, *arguments, "--out", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
    assert main(["run", "digits_warm_start", "--out", str(tmp_path)]) == 2
    assert "'digits_random_labels' and 'digits_warm_start'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_cannot_be_written_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMOKE, "--out", str(tmp_path / "file" / "runs")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_two_processes_cannot_write_the_same_folder(tmp_path, capsys):
    from replastic.benchmarks._experiment import alone

    with alone(tmp_path):
        assert main([*SMOKE, "--out", str(tmp_path)]) == 2
    assert "another process is running" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_benchmarks_with_examples(arguments, capsys):
    assert main(["run", *arguments]) == 0
    said = capsys.readouterr().out
    for name in benchmarks.names():
        assert name in said
        assert benchmarks.entry(name).summary in said
    assert "examples:" in said


def test_help_of_a_benchmark_lists_presets_and_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "digits_random_labels", "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for flag in (
        "--tasks",
        "--images",
        "--hidden",
        "--learning-rate",
        "--optimizer-policy",
        "--recipe",
        "demo",
        "full",
    ):
        assert flag in said
