"""DQN on Atari with an intervention at half time, as in section 4.3 of the FIRE paper."""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import agents
from replastic.experiments.spec import BenchmarkSpec, Preset, register
from replastic.learners.dqn import Dqn
from replastic.networks.nature_cnn import NatureCnn
from replastic.training import Protocol

LEARNING_RATE = 6.25e-5
"""Of the authors' code, and of the field since Rainbow. Table 3 of the paper says 6.25e-4."""
TABLE_RATE = 6.25e-4


@register("atari_dqn", reference="https://arxiv.org/abs/2602.08040")
def atari_dqn() -> BenchmarkSpec:
    """Asterix (or ``--environment atari/BeamRider`` and others) with one intervention; score: return at the end."""
    task = Dqn(
        environment="atari/Asterix",
        copies=4,
        steps=2_500_000,
        interventions=(0.5,),
        learning_starts=20_000,
        buffer_size=1_000_000,
        target_every=2000,
        epsilon=0.01,
        epsilon_steps=250_000,
        evaluations=25,
        longest=27_000,
        network=NatureCnn(),
    )
    paper = Protocol(
        task=task,
        trainer=agents.trainer(LEARNING_RATE, save_seconds=600.0),
        recipe="paper-dqn",
        metrics=agents.MEASURES,
        boundary_metrics=agents.BOUNDARY_MEASURES,
        probe_samples=512,
    )
    shorter = replace(
        task,
        steps=420_000,
        replay_ratio=0.25,
        buffer_size=200_000,
        epsilon_steps=100_000,
        evaluations=10,
        episodes=4,
        longest=5000,
    )
    tiny = replace(
        shorter,
        steps=64,
        replay_ratio=1.0,
        learning_starts=24,
        buffer_size=200,
        evaluations=2,
        episodes=2,
        longest=20,
        network=NatureCnn(channels=(4, 4, 4), hidden=(16,)),
    )
    of_the_paper = ("base", "full_reset", agents.INTERPOLATION, "plasticity_injection", "fire")
    methods = (*of_the_paper, "optimizer_reset", "head_reset", agents.WITHOUT_RESET)
    return BenchmarkSpec(
        name="atari_dqn",
        presets={
            "small": Preset(
                protocol=replace(paper, task=shorter),
                methods=("base", "full_reset", "optimizer_reset", "head_reset", "fire"),
                seeds=1,
                help="100,000 updates, enough to see learning; about an hour a run on one core",
            ),
            "paper": Preset(
                protocol=paper,
                methods=methods,
                seeds=5,
                help="table 3 of the paper with the learning rate of its code, 6.25e-5; 7 GB of replay, needs a GPU",
            ),
            "table": Preset(
                protocol=replace(paper, trainer=agents.trainer(TABLE_RATE, save_seconds=600.0)),
                methods=methods,
                seeds=5,
                help="as paper, with the learning rate of its table, 6.25e-4",
            ),
            "full": Preset(
                protocol=paper, methods=agents.EVERY, seeds=5, help="as paper, with every method", folder="paper"
            ),
            "smoke": Preset(
                protocol=replace(
                    paper, task=tiny, trainer=agents.trainer(LEARNING_RATE, batch_size=4), probe_samples=16
                ),
                methods=("base", "fire"),
                seeds=2,
                help="does it run? seconds",
            ),
        },
        summary=agents.summary(),
    )
