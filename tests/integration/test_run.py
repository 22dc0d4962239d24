"""`replastic run` as a user types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from replastic import benchmarks, experiments
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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
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
    settings = ["--tasks", "12", "--steps", "60", "--evaluate-every", "2", "--save-seconds", "0"]
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
        (["digits_random_labels", "--tasks", "0"], "random_labels: tasks must be at least 1, got 0"),
        (["digits_random_labels", "--jobs", "0"], "--jobs must be 1 or more, got 0"),
        (["digits_random_labels", "--images", "5000"], "images must be at most 1302"),
        (["digits_random_labels", "--device", "gpu"], "--device"),
        (["digits_random_labels", "--plugin", "nowhere.py"], "plug-in file 'nowhere.py' does not exist"),
        (["digits_warm_start", "--channels", "4", "4", "4", "4", "4"], "needs at least 16 pixels a side"),
        (["digits_warm_start", "--ratio", "1.5"], "warm_start: ratio must lie in (0, 1), got 1.5"),
        (["digits_warm_start", "--replay", "0.1"], "replay 0.1 has no effect where all past data is kept"),
        (["digits_warm_start", "--ratio", "0.0001"], "leaves an empty first phase"),
        (["digits_warm_start", "--data", "digit"], "unknown dataset 'digit'; did you mean 'digits'"),
        (["digits_warm_start", "--network", "resnet"], "unknown network 'resnet'; did you mean 'resnet18'"),
        (["digits_random_labels", "--from-start"], "--from-start has no effect"),
        (["vision_warm_start", "--data", "digits"], "pixels"),
        (["vision_warm_start", "--data", "images:source=./nowhere"], "nowhere"),
        (["vision_class_incremental", "--data", "digits", "--phases", "3"], "use one of: 1, 2, 5, 10"),
        (["vision_warm_start", "--data", "digits", "--network", "vit_tiny", "--patch", "3"], "multiples of 3"),
        (["digits_warm_start", "--speed", "auto", "--precision", "bfloat16"], "leave one or the other out"),
        (["digits_warm_start", "--speed", "auto", "--device", "gpu"], "--device 'gpu' cannot be used here"),
        (
            ["vision_continual", "--preset", "smoke", "--data", "digits", "--stages", "2000"],
            "stages 2000 of 1302 images leave an empty stage",
        ),
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
    (job, *_) = experiments.plan(spec, protocol, ["fire"], [0], tmp_path).jobs
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


def finished(folder, **measures):
    """A plan of one run that has finished, with one record of its first phase."""
    spec = benchmarks.get("digits_random_labels")()
    planned = experiments.plan(spec, spec.presets["smoke"].protocol, ["base"], [0], folder)
    (job,) = planned.jobs
    job.directory.create(job.info())
    job.directory.append({"phase": 0, "step": 10, "event": "phase_end", "seconds": 1.0, **measures})
    job.directory.finish()
    return planned


def test_a_report_that_fails_is_told_in_json_too(tmp_path, capsys):
    finished(tmp_path)
    command = [arg for arg in SMOKE if arg != "--no-report"] + ["--methods", "base", "--seeds", "1"]
    assert main([*command, "--out", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert [run["method"] for run in answer["finished"]] == ["base"]
    assert (answer["failed"], answer["report"]) == ({}, None)
    assert "has completed its first task" in answer["report_error"]
    assert f"the report is not: {answer['report_error']}" in said.err


@pytest.mark.parametrize("as_json", [True, False])
def test_the_records_are_read_once_for_the_report(tmp_path, capsys, monkeypatch, as_json):
    from replastic.cli.run import Run

    planned = finished(tmp_path, **{"metric/accuracy": 0.5})
    command = Run([SMOKE[1], "--preset", "smoke", "--out", str(tmp_path), *(["--json"] if as_json else [])])
    read, records = [], RunDirectory.records
    monkeypatch.setattr(RunDirectory, "records", lambda self: read.append(self.path) or records(self))
    assert command._conclude(planned, {})
    assert len(read) == 1
    said = capsys.readouterr().out
    assert (json.loads(said)["report_error"] is None) if as_json else "after task 1" in said
    assert (tmp_path / "report.html").is_file()


def test_an_estimate_says_what_would_run_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SMOKE, "--estimate", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "4 runs (2 methods x 2 seeds) in runs/digits_random_labels-smoke" in said
    assert re.search(r"expected: about \d+ seconds with 2 jobs at a time, by timing the network here", said)
    assert main([*SMOKE, "--estimate", "--jobs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["to_do"], found["jobs_at_a_time"]) == (4, 4, 1)
    assert 0 < found["expected"]["seconds"] < 60
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ("digits_random_labels --preset smoke", "digits_random_labels-smoke"),
        ("digits_warm_start --preset smoke --ratio 0.25", "digits_warm_start-smoke-ratio=0.25"),
        ("digits_warm_start --preset smoke --seeds 1 --methods base", "digits_warm_start-smoke"),
        ("digits_warm_start --preset smoke --from-start", "digits_warm_start-smoke-from-start"),
        (
            "digits_warm_start --preset smoke --network mlp --hidden 16 8 --recipe default",
            "digits_warm_start-smoke-network=mlp-hidden=-16-8-recipe=default",
        ),
        ("digits_warm_start --preset smoke --data digits", "digits_warm_start-digits-smoke"),
        ("vision_continual --preset smoke --data digits --epochs 1", "vision_continual-digits-smoke-epochs=1"),
    ],
)
def test_other_settings_mean_another_folder(arguments, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments.split(), "--estimate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == f"runs/{folder}"


def test_presets_of_one_protocol_share_a_folder_and_the_data_name_it(tmp_path, capsys, monkeypatch, shared_data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLASTIC_DATA", str(shared_data))
    made = []
    monkeypatch.setattr("replastic.experiments.plan", lambda *a, **k: made.append(str(a[4])) or sys.exit(0))
    for arguments in (["--preset", "small"], ["--preset", "ablation"], ["--data", "cifar100:test=200"]):
        with pytest.raises(SystemExit):
            main(["run", "vision_warm_start", *arguments])
    source = f"cifar10:source={shared_data / 'cifar10'}"
    with pytest.raises(SystemExit):
        main(["run", "vision_warm_start", "--data", source])
    assert made == [
        "runs/vision_warm_start-cifar10-small",
        "runs/vision_warm_start-cifar10-small",
        "runs/vision_warm_start-cifar100-small-test=200",
        "runs/vision_warm_start-cifar10-small",
    ]


@pytest.mark.slow
def test_from_the_start_a_penalty_is_on_in_the_first_phase_and_the_table_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["run", "digits_warm_start", "--preset", "smoke", "--methods", "base", "l2_init:strength=0.5", "--seeds"]
    assert main([*command, "1"]) == 0
    late = content(tmp_path / "runs" / "digits_warm_start-smoke")
    capsys.readouterr()
    assert main([*command, "1", "--from-start"]) == 0
    assert "(methods on from the start)" in capsys.readouterr().out
    folder = tmp_path / "runs" / "digits_warm_start-smoke-from-start"
    assert not (folder / ".shared").exists()
    early = content(folder)

    def first_phase(found, method):
        return [record for record in found[f"{method}/seed-0"] if record["phase"] == 0]

    pulled = "l2_init-strength=0.5"
    assert first_phase(late, "base") == first_phase(late, pulled) == first_phase(early, "base")
    assert first_phase(early, pulled) != first_phase(early, "base")
    assert "(methods on from the start)" in RunDirectory(folder / "base" / "seed-0").info().summary["score_label"]


@pytest.mark.slow
def test_a_probe_chooses_the_settings_of_speed_once_and_the_folder_keeps_them(tmp_path, monkeypatch, capsys):
    from replastic.experiments import speed as _speed

    command = [*SMOKE, "--methods", "base", "--speed", "auto", "--out", str(tmp_path)]
    probed = []

    def choose(protocol, splits, device):
        probed.append(torch.get_num_threads())
        return _speed.Choice({"precision": "float32", "channels_last": True, "compiled": False}, {"float32": 2.0})

    monkeypatch.setattr(_speed, "choose", choose)
    assert main([*command, "--seeds", "1"]) == 0
    assert json.loads((tmp_path / "speed.json").read_text()) == {
        "chosen": {"precision": "float32", "channels_last": True, "compiled": False},
        "milliseconds_per_update": {"float32": 2.0},
    }
    assert main([*command, "--seeds", "2"]) == 0
    assert probed == [1]
    assert [run.info().config["trainer"]["channels_last"] for run in find_runs(tmp_path)] == [True, True]
    assert main([*SMOKE, "--out", str(tmp_path)]) == 2
    assert "trainer.channels_last: True and False" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_probe_settles_on_what_training_takes(tmp_path):
    from replastic.experiments.speed import FIELDS, settle

    protocol = benchmarks.get("digits_warm_start")().presets["smoke"].protocol
    settled, choice = settle(protocol, tmp_path, "cpu")
    assert {name: getattr(settled.trainer, name) for name in FIELDS} == dict(choice.settings)
    assert settled.trainer.compiled is False
    assert min(choice.table.values()) > 0


@pytest.mark.slow
def test_two_processes_of_torchrun_write_what_one_writes(tmp_path):
    settings = ["run", "digits_warm_start", "--preset", "smoke", "--methods", "base", "l2_init", "--seeds", "1"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main([*settings, "--out", str(alone), "--jobs", "1"]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*torchrun, "replastic", *settings, "--out", str(together), "--json"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)  # One process speaks.
    assert [run["method"] for run in answer["finished"]] == ["base", "l2_init"]
    assert (together / "report.html").is_file()
    assert {run.info().environment["processes"] for run in find_runs(together)} == {2}
    expected, found = content(alone), content(together)
    assert expected.keys() == found.keys()
    for name, records in expected.items():
        assert len(records) == len(found[name])
        for one, other in zip(records, found[name], strict=True):
            assert one.keys() == other.keys()
            # The same sums in another order; accuracies may differ by a sample, and units by one at the threshold.
            loose = {key: 0.02 for key in one if "accuracy" in key or "dormant" in key}
            for key, value in one.items():
                if key.startswith("metric/"):
                    assert other[key] == pytest.approx(value, rel=1e-3, abs=loose.get(key, 1e-4)), (name, key)


def test_an_output_that_cannot_be_written_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMOKE, "--out", str(tmp_path / "file" / "runs")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_two_processes_cannot_write_the_same_folder(tmp_path, capsys):
    from replastic.experiments.experiment import alone

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
