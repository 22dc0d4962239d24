"""The crew of a cluster without Ray itself: Ctrl-C, the environment, folders that are still held, refusals."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from replastic import benchmarks, experiments
from replastic.errors import UserError
from replastic.experiments import cluster
from replastic.experiments.experiment import alone


def ctrl_c(times: int, steps: list[str]) -> None:
    """Press Ctrl-C so often in a block that asks for it at its end."""
    with cluster._interrupts() as interrupted:
        interrupted()
        for press in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            steps.append(f"after {press + 1}")
        interrupted()
        steps.append("not stopped")


@pytest.mark.parametrize(("times", "reached"), [(0, ["not stopped"]), (1, ["after 1"]), (2, ["after 1"])])
def test_ctrl_c_is_held_until_asked_for_and_a_second_one_acts_at_once(times: int, reached: list[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    steps: list[str] = []
    if times:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c(times, steps)
    else:
        ctrl_c(times, steps)
    assert steps == reached
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_just_before_the_end_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), cluster._interrupts():
        os.kill(os.getpid(), signal.SIGINT)


def test_what_tune_keeps_of_the_callback_holds_no_terminal() -> None:
    heard: list[tuple[str, object]] = []
    listener = experiments.Listener(progress=lambda *told: heard.append(told), ended=lambda *told: heard.append(told))
    told = cluster._told(SimpleNamespace(Callback=object), listener, lambda: None)
    assert told.__getstate__() == {}
    trial = SimpleNamespace(config={"name": "a"}, last_result={"problem": "bad"})
    told.on_trial_result(1, [], trial, {"phases": 0.5})
    told.on_trial_complete(1, [], trial)
    told.on_trial_error(1, [], trial)
    assert heard == [("a", 0.5), ("a", "bad"), ("a", "its process died")]


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_TEST_A", "mine")
    monkeypatch.delenv("REPLASTIC_TEST_B", raising=False)
    with cluster._environment({"REPLASTIC_TEST_A": "0", "REPLASTIC_TEST_B": "1"}):
        assert (os.environ["REPLASTIC_TEST_A"], os.environ["REPLASTIC_TEST_B"]) == ("0", "1")
    assert os.environ["REPLASTIC_TEST_A"] == "mine"
    assert "REPLASTIC_TEST_B" not in os.environ
    assert cluster.ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_run_that_another_process_holds_is_waited_for_and_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    with (
        alone(tmp_path),
        pytest.raises(UserError, match="another process is running an experiment"),
        cluster._when_free(tmp_path),
    ):
        pytest.fail("two processes would write the same run")
    with cluster._when_free(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = benchmarks.get("digits_warm_start")()
    (job,) = experiments.plan(spec, spec.presets["smoke"].protocol, ["base"], [0], tmp_path / "elsewhere").jobs
    told: list[dict[str, object]] = []
    monkeypatch.setattr(cluster, "require", lambda *_: SimpleNamespace(report=told.append))
    cluster._trial({"name": "a"}, jobs={"a": pickle.dumps(job)}, plugins=(), cwd=os.getcwd())
    assert "a cluster needs one its machines share" in str(told[-1]["problem"])
    assert not (tmp_path / "elsewhere").exists()


def test_gpus_are_handed_out_by_ray(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="--device must be cpu or cuda with --address"),
        cluster.ray_crew("auto", jobs=1, folder=tmp_path, device="cuda:1"),
    ):
        pytest.fail("a crew without a device")


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore lines.")

    left: list[str] = []
    ray = SimpleNamespace(init=init, shutdown=lambda: left.append("left"))
    monkeypatch.setattr(cluster, "require", lambda *_: ray)
    with (
        pytest.raises(UserError) as error,
        cluster.ray_crew("auto", jobs=1, folder=tmp_path),
    ):
        pytest.fail("a crew without a cluster")
    assert str(error.value) == ("the Ray cluster at 'auto' cannot be joined: Could not find any running Ray instance.")
    assert left == ["left"]
    assert os.environ.get("RAY_AIR_NEW_OUTPUT") is None
