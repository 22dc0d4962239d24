"""Every benchmark from the command line, and one run shared by two processes."""

import json
import subprocess
import sys

import pytest

from replastic import benchmarks
from replastic.cli import main
from replastic.errors import MissingExtraError
from replastic.extras import require_all
from replastic.records import find_runs
from support.commands import content

MEASURES = {
    "classification": {"metric/accuracy", "metric/dfi", "metric/dormant", "metric/effective_rank"},
    "dqn": {"metric/q_magnitude", "metric/dormant", "metric/churn"},
    "ppo": {"metric/training_return", "metric/dormant", "metric/weight_norm"},
    "sac": {"metric/q_magnitude", "metric/temperature", "metric/dormant", "metric/churn"},
    "bit_flipping": {"metric/error", "metric/dormant", "metric/effective_rank"},
    "language": {"metric/loss_old", "metric/bits_new", "metric/dfi"},
}
"""Some of what the last record of a run holds, by its learner."""


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", benchmarks.names())
def test_every_benchmark_smokes_and_ends_with_a_page(benchmark, tmp_path, capsys, request, monkeypatch):
    out = tmp_path / "out"
    preset = benchmarks.get(benchmark)().presets["smoke"]
    protocol = preset.protocol
    try:
        require_all(protocol.task.extras())
    except MissingExtraError as error:
        pytest.skip(str(error))
    if protocol.config().get("data", "digits") != "digits":
        monkeypatch.setenv("REPLASTIC_DATA", str(request.getfixturevalue("shared_data")))
    assert main(["run", benchmark, "--preset", "smoke", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert (out / "report.html").is_file()
    assert str(out / "report.html") in said
    runs = find_runs(out)
    assert len(runs) == len(preset.methods) * preset.seeds
    for run in runs:
        assert run.done
        last = run.records()[-1]
        assert last["phase"] == protocol.task.phases - 1
        assert last.keys() >= {protocol.task.score.key, *MEASURES[protocol.task.name]}
    if protocol.methods_from:
        firsts = {
            (run.info().seed, json.dumps([r for r in run.records() if r["phase"] == 0], sort_keys=True)) for run in runs
        }
        assert len(firsts) == preset.seeds  # one first phase per seed, to the second


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
