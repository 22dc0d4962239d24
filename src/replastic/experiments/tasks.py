"""Shared by the benchmarks of many short tasks: their methods, their presets, and how they are presented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replastic.experiments.spec import BenchmarkSpec, Preset, every_method
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.streams._repeated import Repeated
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol

METHODS = (
    "base",
    "full_reset",
    "optimizer_reset",
    "fire",
    "fire:scale=auto",
    "rescale",
    "random_isometry",
    "isometry",
    "redo",
    "adamo",
    "l2_init",
    "l2",
    "nap",
    "l2_er",
    "singular_clip",
    "spectral",
    "parseval",
)
"""The methods that AdamO's paper compares, the FIRE paper's, and controls; each at its defaults."""

STRENGTHS = {"adamo": (0.1, 1.0, 10.0), "isometry": (1e-4, 1e-2, 1e-1)}
"""Of the isometry step and of the isometry penalty, beside their default, 1e-3. The step is multiplied by the learning
rate, so that it needs more: at 1e-3 it moves nothing in runs of this length."""

TRAINER = Trainer(learning_rate=1e-3, batch_size=64, warmup=0.0, clip_norm=0.0, optimizer_policy="reset_touched")
"""Nothing tells the optimizer of a boundary: it keeps its state but for weights that a method rewrites, so that a
network that was reset is a new one in all."""

PUBLISHED = Mlp(hidden=(512, 512, 512, 512), weights="orthonormal_start")
"""AdamO's network, as a third party reports it."""

START = (
    "ntk_condition",
    "jacobian_spread",
    "hessian_rank",
    "readiness",
    "gradient_norm",
    "plasticity",
)
"""Measured at the start of every task beside `CURVES`, on a small batch."""
CURVES = ("dfi", "dormant", "effective_rank", "weight_norm")


def protocol(task: Classification, **trainer: Any) -> Protocol:
    """The protocol of such a task; measures are taken at the start and at the end of every task.

    Args:
        task: Data, stream and network.
        trainer: Settings that differ from `TRAINER`.
    """
    return Protocol(
        task=task,
        trainer=replace(TRAINER, **trainer),
        recipe="all",
        metrics=CURVES,
        boundary_metrics=("sfe",),
        probe_samples=500,
        start_metrics=(*CURVES, *START),
        start_samples=64,
        start_every=5,
    )


def variants(network: Mlp) -> dict[str, Mlp]:
    """Networks of the same widths that are said to keep their plasticity, by name of their preset.

    With ``crelu`` each layer but the first has twice as many inputs.
    """
    return {
        "layernorm": replace(network, norm="layer"),
        "crelu": replace(network, activation="crelu"),
        "maxmin": replace(network, activation="maxmin", weights="orthonormal"),
    }


def presets(
    small: Protocol,
    paper: Protocol,
    smoke: Protocol,
    *,
    seeds: int,
    networks: Mapping[str, Network],
    published: str,
) -> dict[str, Preset]:
    """The presets of one benchmark.

    Args:
        small: What one core trains in a minute.
        paper: The published settings as far as they are known.
        smoke: What shows that all works.
        seeds: Of `small`.
        networks: Other networks that the small one is compared with, by name of their preset.
        published: Which of the paper's settings are known, and which are not.
    """
    task = small.task
    assert isinstance(task, Classification)
    others = {
        name: Preset(
            protocol=replace(small, task=replace(task, network=network)),
            methods=("base", "full_reset"),
            seeds=seeds,
            help="as small, with another network; `replastic report` joins the folders",
        )
        for name, network in networks.items()
    }
    return {
        "small": Preset(
            protocol=small, methods=METHODS, seeds=seeds, help="a small network; under a minute a run on one core"
        ),
        **others,
        "full": Preset(
            protocol=small,
            methods=every_method("fire:scale=auto"),
            seeds=seeds,
            help="as small, with every method and control",
            folder="small",
        ),
        "strength": Preset(
            protocol=small,
            methods=(
                "base",
                *(spec for name in STRENGTHS for spec in (name, *(f"{name}:strength={s:g}" for s in STRENGTHS[name]))),
                "fire:scale=auto",
                "adamo:strength=1+fire:scale=auto",
            ),
            seeds=seeds,
            help="as small: how much the strength of the isometry step matters; fire, AdamO and both",
            folder="small",
        ),
        "paper": Preset(protocol=paper, methods=METHODS, seeds=8, help=published),
        "smoke": Preset(
            protocol=smoke, methods=("base", "fire"), seeds=2, help="tiny tasks and network: does it run? seconds"
        ),
    }


def summary(score_label: str) -> dict[str, Any]:
    """How to present the runs."""
    return {
        "score_label": score_label,
        "phase_label": "task",
        "curves": [f"metric/{name}" for name in (*CURVES, *START)],
    }


def random_labels(name: str, *, short: str, network: Mlp, seeds: int) -> BenchmarkSpec:
    """A benchmark of AdamO's paper whose tasks are images with fresh random labels.

    Args:
        name: Of the benchmark, which begins with that of the data set.
        short: The part of the data for the smallest preset.
        network: Of the small preset.
        seeds: Of the small preset.
    """
    task = Classification(
        data=name.removesuffix("_random_labels"),
        stream=RandomLabels(tasks=40, images=600, steps=300),
        network=network,
    )
    published = replace(task, stream=RandomLabels(tasks=50, images=1200, steps=7500), network=PUBLISHED)
    tiny = replace(task, data=short, stream=RandomLabels(tasks=3, images=64, steps=20), network=Mlp(hidden=(16, 16)))
    found = presets(
        protocol(task),
        protocol(published, learning_rate=1e-4, batch_size=64),
        protocol(tiny),
        seeds=seeds,
        networks=variants(network),
        published="AdamO's setting as a third party reports it (4 layers of 512, orthogonal start, 1e-4, 8 seeds); the "
        "number and length of its tasks are not known",
    )
    return BenchmarkSpec(name=name, presets=found, summary=summary("accuracy on the task at its end"))


def scored_on_own_images(name: str, stream: Repeated, *, data: str, small: str, short: str) -> BenchmarkSpec:
    """A benchmark of AdamO's paper whose tasks change one set of images, scored on the images of the task.

    Args:
        name: Of the benchmark.
        stream: The tasks of the small preset.
        data: The whole data set, for the published setting.
        small: The part of it that the small preset takes.
        short: The part for the smallest preset.
    """
    network = Mlp(hidden=(128, 128, 128))
    task = Classification(data=small, stream=stream, network=network)
    published = replace(
        task,
        data=data,
        stream=replace(stream, tasks=50, steps=14_000),
        network=PUBLISHED,
    )
    tiny = replace(task, data=short, stream=replace(stream, tasks=3, steps=20), network=Mlp(hidden=(16, 16)))
    found = presets(
        protocol(task),
        protocol(published, learning_rate=1e-4),
        protocol(tiny),
        seeds=3,
        networks=variants(network),
        published="a task of AdamO's paper at full size, with the network and step size that a third party reports for "
        "its random labels; the number and length of its tasks are not known",
    )
    return BenchmarkSpec(name=name, presets=found, summary=summary("accuracy on the task's own images at its end"))
