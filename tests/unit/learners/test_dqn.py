"""DQN by hand: targets, exploration, replay ratio, phases, evaluation without a trace, and going on after a stop."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from replastic.envs import Transitions
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.methods import Method, from_spec
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from replastic.training.failures import DivergedError
from replastic.training.session import Session
from support.small_runs import content
from support.tiny_agents import IN_CORRIDOR
from support.toy_games import games

TASK = IN_CORRIDOR
TRAINER = Trainer(batch_size=4, learning_rate=1e-3, warmup=0.0, clip_norm=0.0, save_seconds=0.0)


def protocol(**changes):
    return Protocol(task=replace(TASK, **changes), trainer=TRAINER)


@pytest.fixture
def agent():
    return TASK.learner(games(), 3, TRAINER)


def session(task=TASK, method="base", source=None):
    return Session(Protocol(task=task, trainer=TRAINER), source or games(), from_spec(method), 3)


def played(task, source=None, updates=10, phase=0):
    with session(task, source=source) as run:
        run.begin(phase)
        run.learner.begin(phase, 0)
        for _ in range(updates):
            run.update(1, 1)
        return run.learner


def transitions():
    seen = torch.rand(5, 2, 5, 5)
    return Transitions(
        seen,
        torch.tensor([0, 2, 1, 1, 0]),
        torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0]),
        torch.rand(5, 2, 5, 5),
        torch.tensor([False, True, False, True, False]),
    )


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("td_loss", ["huber", "squared"])
def test_the_loss_is_that_of_the_temporal_difference_errors_by_hand(double, td_loss):
    task = replace(TASK, double=double, td_loss=td_loss, gamma=0.9)
    agent, batch = task.learner(games(), 3, TRAINER), transitions()
    other = agent.draw(8)
    agent.copy_target(other)
    twin = task.learner(games(), 3, TRAINER).model
    twin.load_state_dict(dict(other))
    total = 0.0
    for i in range(5):
        value = agent.model(batch.observations[i : i + 1])[0, batch.actions[i]]
        ahead = twin(batch.next_observations[i : i + 1])[0]
        best = int(agent.model(batch.next_observations[i : i + 1])[0].argmax()) if double else int(ahead.argmax())
        goal = batch.rewards[i] + (0.0 if batch.terminated[i] else 0.9 * ahead[best])
        error = float(abs(value - goal).detach())
        total += error**2 if td_loss == "squared" else 0.5 * error**2 if error < 1 else error - 0.5
    assert float(agent.loss(agent.model, batch).detach()) == pytest.approx(total / 5, rel=1e-5)


def test_the_target_has_no_gradient_and_is_copied_every_so_many_updates(agent):
    assert not any(value.requires_grad for value in agent.target.values())
    learner = played(TASK, updates=6)
    drawn = TASK.learner(games(), 3, TRAINER).model.state_dict()
    assert all(torch.equal(value, drawn[name]) for name, value in learner.target.items())
    assert not torch.equal(learner.model.head.weight, drawn["head.weight"])
    learner = played(TASK, updates=7)
    assert all(torch.equal(value, learner.target[name]) for name, value in learner.model.state_dict().items())


def test_updates_are_those_of_plain_torch_on_the_same_batches():
    """Adam with its epsilon on the Huber loss, nothing besides."""
    learner = played(TASK, updates=0)
    model = TASK.learner(games(), 3, TRAINER).model
    plain = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1.5e-4)
    target = {name: value.clone() for name, value in model.state_dict().items()}
    with session() as run:
        run.begin(0)
        learner = run.learner
        learner.begin(0, 0)
        for number in range(9):
            learner.act_until(TASK.due(0, number))
            batch = learner.batch()
            run.update(1, 1)
            values = model(batch.observations.float()).gather(1, batch.actions[:, None])[:, 0]
            ahead = torch.func.functional_call(model, target, (batch.next_observations.float(),)).max(1).values.detach()
            goals = batch.rewards + 0.99 * ahead * ~batch.terminated
            plain.zero_grad()
            functional.huber_loss(values, goals).backward()
            plain.step()
            if number == 6:
                target = {name: value.clone() for name, value in model.state_dict().items()}
        for mine, its in zip(learner.model.parameters(), model.parameters(), strict=True):
            assert torch.allclose(mine, its, atol=1e-6)


def test_epsilon_falls_linearly_after_the_warm_up(agent):
    for interactions, expected in ((0, 1.0), (12, 1.0), (17, 0.775), (32, 0.1), (50, 0.1)):
        agent.interactions = interactions
        assert agent.chance() == pytest.approx(expected)


def test_actions_are_greedy_or_random_with_the_probability_of_epsilon(agent):
    agent.interactions = 0
    assert agent.chance() == 1.0
    task = replace(TASK, copies=1, first_epsilon=0.3, epsilon=0.3)
    agent = task.learner(games(), 3, TRAINER)
    seen = torch.rand(1, 2, 5, 5)
    best, taken = int(agent.model(seen).argmax()), []
    for interactions in range(3000):
        agent.interactions = interactions
        taken.append(int(agent.actions(seen)))
    shares = [taken.count(action) / 3000 for action in range(3)]
    assert shares[best] == pytest.approx(0.7 + 0.1, abs=0.03)
    assert sorted(set(taken)) == [0, 1, 2]
    drawn = torch.Generator().manual_seed(0)
    judged = replace(task, judged_epsilon=0.0).learner(games(), 3, TRAINER)
    assert {int(judged.judged_actions(seen, drawn)) for _ in range(50)} == {best}


@pytest.mark.parametrize(("ratio", "copies"), [(1.0, 1), (0.25, 1), (2.0, 1), (0.5, 4)])
def test_the_replay_ratio_is_kept_between_interactions_and_updates(ratio, copies):
    task = replace(TASK, replay_ratio=ratio, copies=copies, steps=100)
    total = int((100 - 12) * ratio)
    assert sum(task.updates_of(phase) for phase in range(2)) == total
    with session(task) as run:
        run.begin(0)
        run.learner.begin(0, 0)
        for done in range(1, 11):
            run.update(1, 1)
            least = 12 + done / ratio
            assert least <= run.learner.interactions < least + copies
            assert len(run.learner.replay_buffer) == run.learner.interactions
            assert run.learner.position() == {
                "frames": 2 * run.learner.interactions,
                "interactions": run.learner.interactions,
            }


def test_phases_lie_between_interventions_and_evaluations_are_even():
    task = replace(TASK, steps=100, interventions=(0.25, 50), evaluations=10, environment="toy/a+toy/b")
    assert task.phases == 6
    assert [tuple(task.stretch(phase)) for phase in range(6)] == [
        (stage, first, last) for stage in (0, 1) for first, last in ((0, 25), (25, 50), (50, 100))
    ]
    agent = task.learner(games("corridor", "other"), 3, TRAINER)
    assert [agent.extent(phase).updates for phase in range(6)] == [13, 25, 50, 25, 25, 50]
    assert agent.extent(2).marks == (10, 20, 30, 40, 50)
    assert agent.extent(1).marks == (5, 15, 25)


def test_priming_is_a_phase_of_updates_on_the_first_transitions_alone():
    task = replace(TASK, priming=9)
    assert (task.phases, task.updates_of(0), task.updates_of(1)) == (3, 9, 18)
    learner = played(task, updates=9)
    assert (learner.interactions, len(learner.replay_buffer), learner.updates) == (12, 12, 9)
    learner.begin(1, 0)
    learner.act_until(task.due(0, 0))
    assert learner.interactions == 13


def test_stages_come_one_after_the_other_and_the_replay_stays_or_is_emptied():
    for keep in (True, False):
        task = replace(TASK, environment="toy/a+toy/b", interventions=(), restart=True, keep_replay=keep, steps=20)
        learner = played(task, games("corridor", "other"), updates=8)
        before = len(learner.replay_buffer)
        learner.begin(1, 0)
        assert (learner.stage, learner.here, learner.interactions) == (1, 0, 20)
        assert learner.environment.name == "toy/other"
        learner.act_until(12)
        assert len(learner.replay_buffer) == (before + 12 if keep else 12)
        assert learner.chance() == pytest.approx(0.1)
        learner.task = replace(task, restart_epsilon=True)
        assert learner.chance() == 1.0


def test_an_evaluation_leaves_no_trace_and_its_seeds_are_its_own():
    def run(looks):
        with session() as one:
            one.begin(0)
            one.learner.begin(0, 0)
            for number in range(15):
                one.update(1, 1)
                for _ in range(looks * (number % 3 == 0)):
                    one.learner.evaluate(0)
                    one.learner.probe(0, 5)
                    next(iter(one.learner.batches(0)))
            return {k: v.clone() for k, v in one.learner.state_dict().items()}, one.learner.model.state_dict()

    (state, weights), (watched, same) = run(0), run(2)
    assert state.keys() == watched.keys()
    assert all(torch.equal(value, watched[name]) for name, value in state.items())
    assert all(torch.equal(value, same[name]) for name, value in weights.items())


def test_the_return_is_the_mean_of_whole_episodes_or_what_they_have_when_cut():
    agent = replace(TASK, episodes=6, judged_epsilon=0.0).learner(games(), 3, TRAINER)
    with torch.no_grad():
        agent.model.head.weight.zero_()
        agent.model.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))  # always to the right
    assert agent.evaluate(0)["metric/return"] == 1.0
    with torch.no_grad():
        agent.model.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    assert agent.evaluate(0)["metric/return"] == 0.0
    short = replace(agent.task, longest=1).learner(games(), 3, TRAINER)
    short.model.load_state_dict(agent.model.state_dict())
    assert short.evaluate(0)["metric/return"] == 0.0
    assert "metric/training_return" not in short.evaluate(0)


def test_the_training_return_is_that_of_the_last_episodes():
    learner = played(TASK, updates=40)
    assert learner.evaluate(0)["metric/training_return"] == sum(learner._scores) / len(learner._scores)
    assert set(learner._scores) <= {0.0, 1.0}


def test_q_magnitude_is_that_of_the_actions_taken(agent):
    batch = agent.probe(0, 256)
    values = agent.model(batch.observations.float())
    expected = torch.stack([row[action].abs() for row, action in zip(values, batch.actions, strict=True)]).mean()
    assert agent.evaluate(0)["metric/q_magnitude"] == pytest.approx(float(expected.detach()), rel=1e-5)


def run(path, *, stop_at=99.0, source=None, method=None, task=TASK):
    class Stop(Exception):
        pass

    def progress(phases):
        if phases >= stop_at:
            raise Stop

    directory = RunDirectory(path)
    try:
        one = Protocol(task=task, trainer=TRAINER, metrics=("dormant", "feature_srank", "dfi", "weight_norm"))
        train(one, source or games(), method or Method(), 3, directory, progress=progress)
    except Stop:
        assert not directory.done
    return content(directory)


@pytest.mark.parametrize("stop_at", [0.5, 1.0, 1.4])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, stop_at):
    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", stop_at=stop_at)
    assert run(tmp_path / "stopped") == whole
    last = whole[-1]
    assert last["frames"] == 2 * last["interactions"] == 120
    assert {"metric/return", "metric/q_magnitude", "metric/dormant", "metric/feature_srank"} <= last.keys()


def test_where_the_simulator_cannot_be_restored_a_new_episode_begins(tmp_path):
    source = games(exact=False)
    run(tmp_path / "stopped", stop_at=0.5, source=source)
    found = run(tmp_path / "stopped", source=source)
    assert found[-1]["interactions"] == 60
    assert found != run(tmp_path / "whole", source=source)


def test_values_that_are_no_numbers_end_the_run_and_keep_the_last_good_state(tmp_path):
    with pytest.raises(DivergedError, match=r"the loss became (inf|nan) at update .* last good state, after .* in "):
        run(tmp_path, source=games(bad_after=3))
    assert (tmp_path / "state" / "state.safetensors").is_file()


def test_a_state_of_another_game_or_network_is_refused(tmp_path):
    run(tmp_path, stop_at=0.5)
    with pytest.raises(UserError, match="the saved state is of MinAtarCnn on toy/corridor, and this run is of"):
        run(tmp_path, source=games("other"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 12}, "a budget of 12 steps is no longer than the warm-up of 12"),
        ({"interventions": (0.1,)}, "no update would be made from interaction 0 to 6"),
        ({"interventions": (0.5, 0.2)}, "interventions must rise"),
        ({"interventions": (70,)}, "lie between 0 and the 60 steps"),
        ({"keep_replay": False}, "give restart with it"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        replace(TASK, **changes)


def test_reports_know_what_an_agent_shows():
    shown = replace(TASK, environment="minatar/breakout+minatar/asterix", interventions=(0.5,)).summary()
    assert shown["game"] == "environment"
    assert "metric/training_return" in shown["further"]
    assert (shown["tasks"], len(shown["phase_names"])) == ("phases", 4)
    assert "tasks" not in TASK.summary()
