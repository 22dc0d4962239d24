"""SAC: phases, normalisation, going on after a stop, and settings that do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.learners._games import Games
from replastic.learners.sac import Sac
from replastic.methods import Method
from replastic.networks.mlp import Mlp
from replastic.networks.simba import Simba
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from replastic.training.failures import DivergedError
from support.sac_runs import TASK, TRAINER, agent_of, played, session
from support.small_runs import content
from support.toy_control import control
from support.toy_games import games


def test_the_discount_follows_from_the_horizon_in_interactions() -> None:
    source = control()
    found = {h: TASK.discount(replace(source, horizon=h)) for h in (500, 20, 10_000)}
    assert found == {500: pytest.approx(0.99), 20: 0.95, 10_000: 0.995}
    assert replace(TASK, gamma=0.7).discount(source) == 0.7
    with pytest.raises(UserError, match="episodes of toy_control/point have no limit: give gamma"):
        TASK.discount(replace(source, horizon=0))
    facts = TASK.facts(source)
    assert facts["updates per interaction"] == 2.0
    assert facts["updates per frame"] == 1.0
    assert facts["discount"] == 0.95


def test_observations_are_normalised_by_the_whole_stream_and_no_method_touches_that() -> None:
    with session(method="full_reset") as run:
        agent = agent_of(run)
        seen: list[Tensor] = []
        kept = agent.step

        def step(actions: Tensor) -> Any:
            taken = kept(actions)
            seen.append(taken.observations.double())
            return taken

        agent.step = step  # type: ignore[method-assign]
        played(run, 20)
        stream = torch.cat(seen)
        assert len(stream) == agent.interactions == 22
        torch.testing.assert_close(agent.normaliser.mean, stream.mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(agent.normaliser.variance, stream.var(0, correction=0), rtol=1e-3, atol=1e-3)
        raw = agent.replay_buffer.take(torch.arange(22))
        ready = agent.ready(raw)
        expected = (raw.next_observations.double() - stream.mean(0)) / (stream.var(0, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(ready.next_observations[:, :2].double(), expected[:, :2], rtol=1e-3, atol=1e-3)
        before = {name: value.clone() for name, value in agent.normaliser.state_dict().items()}
        weights = agent.model.actor.stem.weight.detach().clone()
        run.attached.cross(1, begin=True)
        run.learner.begin(1, 0)
        assert not torch.equal(agent.model.actor.stem.weight, weights)
        assert all(torch.equal(value, before[name]) for name, value in agent.normaliser.state_dict().items())


@pytest.mark.parametrize("method", ["base", "full_reset", "fire"])
def test_temperature_targets_and_optimizers_are_reset_for_every_method_or_for_none(method: str) -> None:
    for resets in (True, False):
        policy = "reset_all" if resets else "keep"
        task = replace(TASK, copy_target=resets, reset_temperature=resets, tau=0.1)
        with session(task, method, replace(TRAINER, optimizer_policy=policy)) as run:
            agent = played(run, 20)
            moved = float(agent.log_temperature.detach())
            assert moved != math.log(0.01)
            before = {name: value.clone() for name, value in agent.target.items()}
            run.attached.cross(1, begin=True)
            run.learner.begin(1, 0)
            assert (float(agent.log_temperature.detach().exp()) == pytest.approx(0.01)) == resets
            assert float(agent.log_temperature.detach()) == moved or resets
            states = [optimizer.state for optimizer in run.attached.optimizers.values()]
            assert all(not state for state in states) == resets
            live = agent.model.critic.state_dict()
            same = [torch.equal(value, live[name]) for name, value in agent.target_critic.state_dict().items()]
            kernels = [torch.equal(agent.target[n], live[n]) for n in live if n.endswith("fc1.weight")]
            if resets:
                assert all(same)
            elif method == "base":
                assert all(torch.equal(value, before[name]) for name, value in agent.target.items())
            else:
                assert all(kernels), "a target that is not copied follows what was rewritten"
            assert agent.target_critic.state_dict().keys() == agent.target.keys()


def test_fire_with_the_papers_recipe_projects_every_dense_kernel_of_actor_and_critics() -> None:
    trainer = replace(TRAINER, optimizer_policy="keep")
    with session(method="fire", trainer=trainer) as run:
        agent = played(run, 5)
        before = {name: value.clone() for name, value in agent.model.state_dict().items()}
        outcomes = run.attached.cross(1, begin=True)
        written = [layer.weight for outcome in outcomes for layer in outcome.layers]
        kernels = [name for name, value in before.items() if value.dim() == 2]
        assert sorted(written) == sorted(kernels)
        assert len(kernels) == 5 + 2 * 4
        for name, value in agent.model.state_dict().items():
            assert torch.equal(value, before[name]) == (name not in kernels), name
            if name in kernels:
                scaled = value.double() / math.sqrt(value.shape[0] / value.shape[1])
                values = torch.linalg.svdvals(scaled)
                assert values.max() < 1.3, name


def test_evaluations_leave_no_trace_and_their_actions_have_no_noise() -> None:
    def go(looks: int) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        with session() as run:
            run.begin(0)
            run.learner.begin(0, 0)
            for number in range(15):
                run.update(1, 1)
                for _ in range(looks * (number % 3 == 0)):
                    run.learner.evaluate(0)
                    run.learner.loss(run.model, run.learner.probe(0, 5))
            return {k: v.clone() for k, v in run.learner.state_dict().items()}, run.model.state_dict()

    (state, weights), (watched, same) = go(0), go(2)
    assert state.keys() == watched.keys()
    assert all(torch.equal(value, watched[name]) for name, value in state.items())
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    agent = TASK.learner(control(), 3, TRAINER)
    seen = torch.randn(4, 3)
    mean = agent.model.actor(seen).chunk(2, 1)[0]
    assert torch.equal(agent.judged_actions(seen, torch.Generator()), mean.tanh())


def test_q_magnitude_and_temperature_are_recorded() -> None:
    with session() as run:
        agent = played(run)
        batch = agent.probe(0, 256)
        values = agent.model(batch.observations, batch.actions)
        found = agent.evaluate(0)
    assert values.shape == (2, 256)
    assert found["metric/q_magnitude"] == pytest.approx(float(values.detach().abs().mean()), rel=1e-5)
    assert found["metric/temperature"] == pytest.approx(float(agent.log_temperature.detach().exp()))


def run_to(path: Path, *, stop_at: float = 99.0, source: Games | None = None, task: Sac = TASK) -> Any:
    class Stop(Exception):
        pass

    def progress(phases: float) -> None:
        if phases >= stop_at:
            raise Stop

    directory = RunDirectory(path)
    one = Protocol(task=task, trainer=TRAINER, metrics=("dormant", "feature_srank", "dfi", "weight_norm"))
    try:
        train(one, source or control(), Method(), 3, directory, progress=progress)
    except Stop:
        assert not directory.done
    return content(directory)


@pytest.mark.parametrize("stop_at", [0.5, 1.0, 1.4])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path: Path, stop_at: float) -> None:
    whole = run_to(tmp_path / "whole")
    run_to(tmp_path / "stopped", stop_at=stop_at)
    assert run_to(tmp_path / "stopped") == whole
    last = whole[-1]
    assert last["frames"] == 2 * last["interactions"] == 120
    assert {"metric/return", "metric/temperature", "metric/feature_srank"} <= last.keys()
    named = [name for name in last if name.startswith("metric/dormant/")]
    assert {name.split("/")[2].partition(".block")[0] for name in named} == {"actor", "critic.q1", "critic.q2"}


def test_values_that_are_no_numbers_end_the_run_and_keep_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gave observations or rewards that are not finite, near interaction .* its"):
        run_to(tmp_path / "broken", source=control(breaks_after=3))
    assert (tmp_path / "broken" / "state" / "state.safetensors").is_file()
    task = replace(TASK, temperature=1e30)
    with pytest.raises(DivergedError, match=r"the loss became (inf|nan) at update"):
        run_to(tmp_path / "diverged", task=task)


def test_discrete_actions_are_refused() -> None:
    with pytest.raises(UserError, match="sac takes actions that are values, and toy/corridor has 3 actions"):
        replace(TASK, environment="toy/corridor").learner(games(), 3, TRAINER)


@pytest.mark.parametrize(
    "changes", [{"compiled": True}, {"precision": "bfloat16"}, {"accumulate": 2}], ids=lambda c: next(iter(c))
)
def test_settings_of_the_trainer_that_it_does_not_have_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"sac makes its updates in float32.*{next(iter(changes))}"):
        TASK.learner(control(), 3, replace(TRAINER, **changes))


def test_any_network_can_be_actor_and_critic() -> None:
    task = replace(TASK, network=Mlp(hidden=(4,)), actor="mlp:norm=layer")
    with session(task) as run:
        agent = played(run, 3)
    assert isinstance(agent.model.actor.hidden1, nn.Sequential)
    assert isinstance(agent.model.critic.q2.hidden1, nn.Sequential)
    assert TASK.with_network("mlp").network == Mlp.reduced()


@pytest.mark.parametrize(
    ("actor", "words"), [("simbo", "did you mean 'simba'"), ("simba:wide=3", "simba has no option 'wide'")]
)
def test_an_actor_that_does_not_exist_is_refused(actor: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(TASK, actor=actor)


@pytest.mark.slow
def test_it_learns_to_hold_the_point() -> None:
    """What a controller that was tuned by hand gets, to a tenth; at random it is far below."""
    small = Simba(width=32, blocks=1)
    task = replace(
        TASK,
        steps=1500,
        learning_starts=200,
        buffer_size=2000,
        episodes=20,
        network=small,
        actor="simba:width=32,blocks=1",
    )
    trainer = replace(TRAINER, batch_size=32, learning_rate=3e-3, weight_decay=0.01)
    with session(replace(task, interventions=(), gamma=0.9), trainer=trainer) as run:
        run.begin(0)
        run.learner.begin(0, 0)
        first = run.learner.evaluate(0)["metric/return"]
        for _ in range(task.updates_of(0)):
            run.update(1, 1)
        last = run.learner.evaluate(0)["metric/return"]
    assert first < 5
    assert last > 14


def test_plasticity_injection_changes_no_output_of_actor_and_critics_and_gives_each_a_new_head() -> None:
    with session(method="plasticity_injection") as run:
        agent = played(run, 20)
        seen, actions = torch.randn(7, 3), torch.rand(7, 2)
        target = agent.target_critic(torch.cat((seen, actions), 1))
        before = agent.model.actor(seen), agent.model(seen, actions)
        run.attached.cross(1, begin=True)
        for now, then in zip((agent.model.actor(seen), agent.model(seen, actions)), before, strict=True):
            torch.testing.assert_close(now, then, rtol=1e-4, atol=1e-5)
        injected = [name for name, module in agent.model.named_modules() if type(module).__name__ == "Injected"]
        assert injected == ["actor.head.mean", "actor.head.log_std", "critic.q1.head", "critic.q2.head"]
        heads = agent.model.critic.q1.head.old[0].head.weight, agent.model.critic.q1.head.weight
        assert not torch.equal(*heads)
        run.learner.begin(1, 0)
        now = agent.target_critic(torch.cat((seen, actions), 1))
        torch.testing.assert_close(now, before[1], rtol=1e-4, atol=1e-5)
        assert not torch.equal(target, before[1])
        run.position.phase = 1
        for _ in range(5):
            run.update(1, 1)
        assert torch.equal(agent.model.critic.q1.head.old[0].head.weight, heads[0])


def test_full_reset_with_the_papers_recipe_puts_every_tensor_back() -> None:
    with session(method="full_reset") as run:
        first = {name: value.clone() for name, value in run.model.state_dict().items()}
        played(run, 20)
        moved = [name for name, value in run.model.state_dict().items() if not torch.equal(value, first[name])]
        assert len(moved) > len(first) / 2
        run.attached.cross(1, begin=True)
        assert all(torch.equal(value, first[name]) for name, value in run.model.state_dict().items())
