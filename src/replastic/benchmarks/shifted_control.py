"""Gym control with shifted observations: PPO plays one game at ten levels, each with an offset in what it sees."""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments.spec import BenchmarkSpec, Preset, every_method, register
from replastic.learners import Trainer
from replastic.learners.dqn import Dqn
from replastic.learners.ppo import Ppo
from replastic.networks.mlp import Mlp
from replastic.training import Protocol

CHOSEN = ("base", "full_reset", "optimizer_reset", "head_reset", "fire", "trac")
"""The reference, networks made anew at every level, the two controls of every table, FIRE, and TRAC, from whose paper
the experiment comes."""
EVERY = every_method(
    interpolation="interpolation:strength=0.8",
    redo="redo:every=1000",
    l2_init="l2_init:strength=0.001",
    l2="l2:strength=0.001",
)
"""With settings that were not searched."""
CURVES = ["metric/training_return", "metric/dormant", "metric/feature_srank", "metric/dfi", "metric/weight_norm"]


@register("shifted_control", reference="https://arxiv.org/abs/2405.16642")
def shifted_control() -> BenchmarkSpec:
    """Ten levels of CartPole or Acrobot, observations moved by a draw of N(0, 2) each; score: return at the end."""
    task = Ppo(
        environment="gym/CartPole-v1",
        levels=10,
        shift=2.0,
        interventions=(),
        steps=40_000,
        copies=8,
        horizon=100,
        epochs=5,
        reward_scale=20.0,
        evaluations=5,
        episodes=10,
        longest=500,
        network=Mlp(hidden=(256, 256, 256), activation="leaky_relu"),
    )
    small = Protocol(
        task=task,
        trainer=Trainer(
            learning_rate=1e-3, batch_size=32, warmup=0.0, clip_norm=0.0, optimizer_policy="keep", save_seconds=60.0
        ),
        methods_from=1,
        metrics=("dormant", "feature_srank", "dfi", "weight_norm"),
        boundary_metrics=("sfe",),
        probe_samples=512,
    )
    acrobot = replace(small, task=replace(task, environment="gym/Acrobot-v1"))
    dqn = replace(
        small,
        task=Dqn(
            environment="gym/CartPole-v1",
            levels=10,
            shift=2.0,
            interventions=(),
            steps=40_000,
            learning_starts=1000,
            replay_ratio=0.25,
            buffer_size=20_000,
            target_every=250,
            evaluations=5,
            episodes=10,
            longest=500,
            network=task.network,
        ),
        trainer=replace(small.trainer, learning_rate=5e-4),
    )
    paper = replace(small, task=replace(task, steps=160_000, evaluations=20))
    tiny = replace(
        small,
        task=replace(
            task,
            levels=3,
            steps=128,
            copies=2,
            horizon=32,
            epochs=1,
            evaluations=2,
            episodes=2,
            longest=20,
            network=Mlp(hidden=(16, 16)),
        ),
        probe_samples=32,
    )
    return BenchmarkSpec(
        name="shifted_control",
        presets={
            "small": Preset(
                protocol=small,
                methods=CHOSEN,
                seeds=5,
                help="CartPole, a quarter of the steps of C-CHAIN; two to three minutes a run on one core",
            ),
            "acrobot": Preset(protocol=acrobot, methods=CHOSEN, seeds=5, help="as small, on Acrobot"),
            "dqn": Preset(protocol=dqn, methods=CHOSEN, seeds=5, help="CartPole with DQN instead; two minutes a run"),
            "full": Preset(
                protocol=small,
                methods=EVERY,
                seeds=5,
                help="every method and control",
                folder="small",
            ),
            "paper": Preset(
                protocol=paper,
                methods=EVERY,
                seeds=10,
                help="CartPole, 160,000 steps a level as in the code of C-CHAIN; ten minutes a run",
            ),
            "smoke": Preset(protocol=tiny, methods=("base", "fire"), seeds=2, help="does it run? seconds"),
        },
        summary={"phase_label": "level", "curves": CURVES},
    )
