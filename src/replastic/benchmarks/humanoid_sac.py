"""SAC with SimBa on humanoids with an intervention at half time, as in section 4.3 of the FIRE paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from replastic.experiments import agents
from replastic.experiments.spec import BenchmarkSpec, Preset, every_method, register
from replastic.learners.sac import Sac
from replastic.networks.simba import Simba
from replastic.training import Protocol

WALK: Final = "humanoidbench/h1-walk:repeat=2"
"""An action is taken for two steps of the simulator, so that two updates an interaction are one a step."""


@register("humanoid_sac", reference="https://arxiv.org/abs/2602.08040")
def humanoid_sac() -> BenchmarkSpec:
    """One intervention at half time, by default on a humanoid of dm_control that is to stand; score: return at the end.

    The paper's tasks are ``--environment humanoidbench/h1-walk:repeat=2``, ``h1-run`` and ``h1-balance_simple``.
    """
    trainer = agents.trainer(1e-4, weight_decay=0.01, batch_size=256, optimizer_policy="reset_all", save_seconds=600.0)
    paper = Protocol(
        task=Sac(environment=WALK, evaluations=20),
        trainer=trainer,
        recipe="paper-sac",
        metrics=agents.MEASURES,
        boundary_metrics=agents.BOUNDARY_MEASURES,
        probe_samples=512,
    )
    assert isinstance(paper.task, Sac)
    small = replace(
        paper,
        task=replace(
            paper.task,
            environment="dm_control/humanoid-stand:repeat=2",
            steps=50_000,
            buffer_size=60_000,
            evaluations=10,
            network=Simba.reduced(),
        ),
        trainer=replace(trainer, batch_size=128, save_seconds=60.0),
    )
    assert isinstance(small.task, Sac)
    kept = replace(
        small,
        task=replace(small.task, copy_target=False, reset_temperature=False),
        trainer=replace(small.trainer, optimizer_policy="keep"),
    )
    walk = replace(
        small.task,
        environment=WALK,
        steps=2000,
        learning_starts=500,
        buffer_size=3000,
        evaluations=4,
        episodes=4,
    )
    tiny = replace(
        small,
        task=replace(
            small.task,
            steps=40,
            learning_starts=12,
            buffer_size=100,
            evaluations=2,
            episodes=2,
            longest=5,
            network=Simba(width=8, blocks=1),
            actor="simba:width=8,blocks=1",
        ),
        trainer=replace(small.trainer, batch_size=8),
        probe_samples=16,
    )
    shown = agents.summary()
    return BenchmarkSpec(
        name="humanoid_sac",
        presets={
            "small": Preset(
                protocol=small,
                methods=("base", "full_reset", agents.INTERPOLATION, "fire", "head_reset"),
                seeds=3,
                help="dm_control, one block of 128 in every network, 100,000 steps; twenty minutes a run on one core",
            ),
            "kept": Preset(
                protocol=kept,
                methods=(*agents.CONTROLS, agents.INTERPOLATION, "fire"),
                seeds=3,
                help="as small, but optimizers, temperature and targets are reset for no method",
            ),
            "full": Preset(
                protocol=small,
                methods=every_method(**agents.TUNED),
                seeds=3,
                help="as small, with every method and control",
                folder="small",
            ),
            "walk": Preset(
                protocol=replace(small, task=walk),
                methods=("base", "fire"),
                seeds=1,
                help="HumanoidBench h1-walk, 4,000 steps with an intervention in the middle; a few minutes",
            ),
            "paper": Preset(
                protocol=paper,
                methods=(*agents.CONTROLS, agents.INTERPOLATION, "plasticity_injection", "fire"),
                seeds=5,
                help="table 4 of the paper: HumanoidBench, a million steps; needs a GPU (3 updates a second on a core)",
            ),
            "smoke": Preset(protocol=tiny, methods=("base", "fire"), seeds=2, help="does it run? seconds"),
        },
        summary={**shown, "curves": [*shown["curves"], "metric/temperature"]},
    )
