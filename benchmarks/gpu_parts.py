"""The parts of `./run gpu` in order of worth: what each shows, what it needs, how long it takes, and its commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from gpu_needs import missing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WARM_START = ("base", "fire", "full_reset", "rescale", "interpolation:strength=0.8")
Command = list[str]


@dataclass(frozen=True)
class Place:
    """Where it runs."""

    out: Path
    data: Path | None = None
    dry: bool = False

    @property
    def device(self) -> str:
        """For flags."""
        return "cpu" if self.dry else "cuda"

    def has(self, name: str) -> bool:
        """Whether the folder of data holds a set."""
        return self.data is not None and any((self.data / name).glob("*.parquet"))

    def environment(self) -> dict[str, str]:
        """Variables of the commands: this checkout's package, the data, and the device of the tests."""
        source = os.pathsep.join(p for p in (str(ROOT / "src"), os.environ.get("PYTHONPATH", "")) if p)
        data = {} if self.data is None else {"REPLASTIC_DATA": str(self.data)}
        cache = {"REPLASTIC_CACHE": str(self.out / "cache"), "OMP_NUM_THREADS": "1"} if self.dry else {}
        tests = {"REPLASTIC_TEST_DEVICE": self.device}
        return {**os.environ, **data, **cache, **tests, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Part:
    """One thing to run."""

    name: str
    what: str
    seconds: float
    """About what it takes on one H200: a guess until it has run on one."""
    commands: Callable[[Place], Sequence[Command]]
    found: Callable[[Place], str]
    """What it found so far, in Markdown."""
    needs: tuple[str, ...] = ()
    """Modules beside those of the package itself."""
    images: str = ""
    """Data set."""
    smoke: float = 20.0
    """About what it takes in a dry run."""

    def expected(self, here: Place) -> float:
        """Seconds that must be left for it to begin; one that goes on where it was needs less than its whole time."""
        return self.smoke if here.dry else self.seconds


def script(name: str, *arguments: object) -> Command:
    """A script of this folder."""
    return [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]


def replastic(*arguments: object) -> Command:
    """A command of the package."""
    return [sys.executable, "-m", "replastic", *map(str, arguments)]


def tests(here: Place) -> list[Command]:
    """All tests marked gpu; in a dry run one file of them on the CPU."""
    where = [ROOT / "tests/gpu/test_training.py", "-k", "checksum"] if here.dry else [ROOT / "tests"]
    side_by_side = ["-n", "4"] if not here.dry and not missing(["xdist"]) else []
    flags = ["-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", f"--junitxml={here.out / 'tests.xml'}"]
    return [[sys.executable, "-m", "pytest", "--rootdir", str(ROOT), *map(str, where), *flags, *side_by_side]]


def solvers(here: Place) -> list[Command]:
    """Networks of the paper."""
    chosen = (
        ["--models", "tiny", "--repeats", 1] if here.dry else ["--models", "ResNet-18", "ViT-Tiny", "VGG-16", "GPT-2"]
    )
    return [script("gpu_solvers", "--device", here.device, "--json", here.out / "solvers.rows.json", *chosen)]


def large(here: Place) -> list[Command]:
    """Matrices as those of a 7B language model."""
    chosen = ["--models", "tiny", "--repeats", 1] if here.dry else ["--models", "4096", "11008", "--repeats", 3]
    return [script("gpu_solvers", "--device", here.device, "--json", here.out / "large.rows.json", *chosen)]


def throughput(here: Place) -> list[Command]:
    """Images a second beside the plain loop."""
    small = ["--preset", "small", "--data", "cifar10:train=200,test=100", "--settings", "float32", "--workers", 0]
    small += ["--updates", 1, "--repeats", 1, "--curve", 0]
    settings = ["float32", "channels_last", "bfloat16+channels_last", "bfloat16+channels_last+compiled"]
    whole = [
        "--preset",
        "paper",
        "--settings",
        *settings,
        "--workers",
        0,
        8,
        "--updates",
        50,
        "--curve",
        150,
        "--seeds",
        3,
    ]
    flags = ["--device", here.device, "--json", here.out / "throughput.rows.json"]
    first = [script("gpu_noise", "cifar10:train=200,test=100")] if here.dry and not here.has("cifar10") else []
    return [*first, script("vision_throughput", *flags, *(small if here.dry else whole))]


def at_once(here: Place) -> list[Command]:
    """How many runs share a device best."""
    counts = ["--preset", "smoke", "--counts", 1, 2, "--updates", 2] if here.dry else ["--counts", 1, 2, 3, 4, 6]
    return [script("gpu_at_once", "--device", here.device, "--json", here.out / "at_once.rows.json", *counts)]


def warm_start(here: Place) -> list[Command]:
    """One seed of every method first, then three: the folder goes on where it was."""
    first = [script("gpu_noise", "cifar10:train=200,test=100")] if here.dry and not here.has("cifar10") else []
    probe = here.out / "at_once.rows.json"
    known = json.loads(probe.read_text(encoding="utf-8")) if probe.is_file() else {}
    jobs = 1 if here.dry else known.get("jobs", 1)
    speed = [] if here.dry else known.get("flags", [])
    size = ["--preset", "smoke", "--first-epochs", 1, "--epochs", 1] if here.dry else ["--preset", "paper"]
    flags = [*size, "--methods", *WARM_START, "--device", here.device, "--jobs", jobs, *speed, "--no-report"]
    out = ["--out", here.out / "vision_warm_start"]
    seeds = (1,) if here.dry else (1, 3)
    return first + [replastic("run", "vision_warm_start", *flags, *out, "--seeds", count) for count in seeds]


def updates(here: Place) -> list[Command]:
    """Updates a second of other learners."""
    names = ["digits_warm_start"] if here.dry else ["minatar_priming", "atari_dqn", "humanoid_sac"]
    size = ["--preset", "smoke", "--updates", 2] if here.dry else ["--preset", "paper"]
    flags = ["--device", here.device, "--json", here.out / "updates.rows.json"]
    return [script("gpu_updates", *flags, *size, "--benchmarks", *names)]


def language(here: Place) -> list[Command]:
    """Tokens a second and model-FLOP utilisation of the 124M shape, on sentences made here."""
    whole = ["--preset", "paper", "--settings", "bfloat16", "bfloat16+compiled", "--first", "grammar:count=4000"]
    whole += ["--accumulate", 1, "--batch-size", 16]
    size = ["--preset", "smoke", "--updates", 1, "--repeats", 1] if here.dry else whole
    return [script("language_throughput", "--device", here.device, "--json", here.out / "language.rows.json", *size)]


def from_rows(name: str) -> Callable[[Place], str]:
    """The table that a script of this folder wrote."""

    def found(here: Place) -> str:
        file = here.out / f"{name}.rows.json"
        if not file.is_file():
            return ""
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            f"| {r['what']} | {r['variant']} | {r['value']:.4g} {r['unit']} | {_goal(r)} | {r['note']} |"
            for r in content["rows"]
        ]
        settings = ", ".join(f"{key} {value}" for key, value in content["settings"].items())
        return "\n".join([settings, "", "| what | variant | value | goal | note |", "|---|---|--:|---|---|", *rows])

    return found


def from_tests(here: Place) -> str:
    """How many tests passed, and the first line of what those that failed said."""
    try:
        suite = ElementTree.parse(here.out / "tests.xml").getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        return ""
    if suite is None:
        return ""
    counted = ", ".join(f"{suite.get(kind, '0')} {kind}" for kind in ("tests", "failures", "errors", "skipped"))
    failed = [
        f"* `{case.get('classname')}.{case.get('name')}`: {(problem.get('message') or '').splitlines()[:1]}"
        for case in suite
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    return "\n".join([counted, *failed])


def from_runs(here: Place) -> str:
    """Last record of every run, finished or not."""
    lines = []
    for file in sorted((here.out / "vision_warm_start").glob("*/seed-*/metrics.jsonl")):
        records = file.read_text(encoding="utf-8").splitlines()
        if records:
            last = json.loads(records[-1])
            score = last.get("metric/accuracy")
            run = f"{file.parent.parent.name}, {file.parent.name}"
            state = "finished" if (file.parent / "DONE").exists() else "unfinished"
            lines.append(f"| {run} | {state} | {last['phase']} | {last['step']} | {score} | {last.get('seconds')} |")
    head = ["| run | | phase | updates | test accuracy | processor s |", "|---|---|--:|--:|--:|--:|"]
    return "\n".join([*head, *lines]) if lines else ""


def _goal(row: dict[str, object]) -> str:
    if row.get("goal") is None:
        return ""
    return f"{'>=' if row['better'] == 'higher' else '<='} {row['goal']:g}: {'met' if row['met'] else 'MISSED'}"


IMAGES = ("datasets", "pyarrow", "PIL")
PARTS = (
    Part("tests", "every test marked gpu", 240, tests, from_tests, ("pytest", "hypothesis")),
    Part("solvers", "`fire_` and the solvers beside the plain loop", 90, solvers, from_rows("solvers")),
    Part("at_once", "the probe: how many runs at once are fastest", 90, at_once, from_rows("at_once")),
    Part("throughput", "training beside the plain loop", 150, throughput, from_rows("throughput"), IMAGES, "cifar10"),
    Part("warm_start", "the FIRE paper's warm start on CIFAR-10", 60, warm_start, from_runs, IMAGES, "cifar10"),
    Part("language", "tokens a second of GPT-2 124M", 150, language, from_rows("language"), ("tokenizers",)),
    Part("updates", "updates a second of agents", 90, updates, from_rows("updates")),
    Part("large", "solvers on matrices of 4096 x 4096", 60, large, from_rows("large")),
)
"""In order of worth; `warm_start` takes whatever time is left, and goes on at the next call."""
ORDER = tuple(part.name for part in PARTS)


def chosen(names: Sequence[str] | None) -> list[Part]:
    """The parts asked for, in order of worth.

    Raises:
        SystemExit: There is no such part.
    """
    unknown = sorted(set(names or ()) - set(ORDER))
    if unknown:
        raise SystemExit(f"gpu: no part is called {', '.join(unknown)}; there are {', '.join(ORDER)}")
    return [part for part in PARTS if names is None or part.name in names]
