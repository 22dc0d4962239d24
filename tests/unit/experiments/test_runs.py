"""Names of what is run, and the settings of speed that a folder was begun with."""

import re
from dataclasses import replace

import pytest

from replastic import benchmarks, methods
from replastic.errors import UserError
from replastic.experiments.runs import execute, folder_name
from replastic.experiments.spec import every_method
from replastic.experiments.speed import settle
from replastic.parallel.workers import attempt
from replastic.registry import load_plugin
from support.small_plans import planned


def test_every_method_follows_the_registry():
    specs = every_method("fire:solver=exact", interpolation="interpolation:strength=0.5")
    special = {"average", "from_checkpoint", "replay"}
    assert {text.split(":")[0] for text in specs} == set(methods.names()) - special
    assert "average:last=3" in every_method(average="average:last=3")
    assert "interpolation" not in specs
    assert specs[-1] == "fire:solver=exact"


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("base", "base"),
        ("fire:solver=exact,scale=init", "fire-solver=exact-scale=init"),
        ("a/../b: c", "a-..-b-c"),
    ],
)
def test_a_methods_folder_is_one_plain_name(spec, folder):
    assert folder_name(spec) == folder


def test_long_specs_have_short_folders_of_their_own():
    specs = ["fire:targets=" + "|".join(["stem"] * 70 + [last]) for last in ("head", "tail")]
    names = [folder_name(spec) for spec in specs]
    assert names[0] != names[1]
    assert all(len(name) < 200 and name.startswith("fire-targets=stem-stem") for name in names)


@pytest.mark.parametrize("name", ["run.json", "shared.json"])
@pytest.mark.parametrize("content", [b'{"config": ', b"[1]", b"\xff\xfe"])
def test_settings_of_speed_in_a_damaged_file(name, content, tmp_path):
    folder = tmp_path / "base" / "seed-0"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    protocol = benchmarks.get("digits_warm_start")().presets["smoke"].protocol
    with pytest.raises(UserError, match=f"{re.escape(name)} is damaged: .*move .*seed-0 away"):
        settle(protocol, tmp_path, "cpu")


def test_a_folders_name_fits_the_file_system_in_every_writing():
    assert len(folder_name("fire:targets=" + "шум" * 100).encode()) < 200
    assert folder_name("fire:targets=шум") == "fire-targets=шум"


FAILING = """
import sys
from dataclasses import dataclass
from replastic import methods

@methods.register("failing")
@dataclass(kw_only=True)
class Failing(methods.Method):
    def setup(self, run):
        {setup}

    def on_boundary(self, run):
        {boundary}
"""


@pytest.mark.parametrize(
    ("setup", "boundary", "words"),
    [
        ("raise OSError(28, 'no space')", "pass", r"line 10, in Failing\.setup: OSError: .*no space"),
        ("pass", "sys.exit(3)", r"line 13, in Failing\.on_boundary: it calls sys\.exit\(3\)"),
        ("pass", "return run.no_such_field", r"line 13, in Failing\.on_boundary: AttributeError"),
    ],
)
def test_a_plugin_that_fails_is_named_and_its_traceback_kept(setup, boundary, words, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(FAILING.format(setup=setup, boundary=boundary))
    load_plugin(plugin)
    job = planned(tmp_path / "out", chosen=("base",), seeds=(0,), methods_from=0).jobs[0]
    failing = replace(job, method="failing")
    problem = attempt(execute, failing, lambda phases: None)
    log = failing.directory.path / "error.log"
    assert re.search(words, problem)
    assert problem.startswith(f"plug-in {plugin}")
    assert problem.endswith(f"(all of it in {log})")
    assert len(problem.splitlines()) == 1
    assert "Traceback" in log.read_text()
    assert setup.split("(")[0] in log.read_text() or boundary in log.read_text()
    plugin_free = job
    (plugin_free.directory.path).mkdir(parents=True)
    (plugin_free.directory.path / "error.log").write_text("of an earlier failure")
    execute(plugin_free, lambda phases: None)
    assert not (plugin_free.directory.path / "error.log").exists()
