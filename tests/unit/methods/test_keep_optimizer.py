"""The optimizer's state is kept, whatever the run says, for that part of a comparison alone."""

import pytest
import torch

import replastic
from support.training_bench import build, data, loss_fn


def trained(spec, policy):
    """A network, and its optimizer with what one update leaves in it, after a boundary."""
    model, _ = build(torch.float64)
    optimizer = torch.optim.Adam(model.parameters())
    with replastic.during(spec, model, optimizer, policy=policy) as method:
        loss_fn(model, data(0, torch.float64)[0]).backward()
        optimizer.step()
        method.cross()
    return model, optimizer


@pytest.mark.parametrize("policy", ["reset_all", "reset_touched", "keep"])
@pytest.mark.parametrize(("spec", "like"), [("keep_optimizer", "base"), ("keep_optimizer+fire", "fire")])
def test_it_is_the_same_method_where_the_run_keeps_the_state(spec, like, policy):
    model, optimizer = trained(spec, policy)
    expected, other = trained(like, "keep")
    assert len(optimizer.state) == len(list(model.parameters()))
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(optimizer.state[p][key], other.state[q][key]) for key in other.state[q])


def test_a_run_that_drops_the_state_drops_it_for_all_others():
    _, optimizer = trained("fire", "reset_all")
    assert not any(optimizer.state.values())


def test_what_resets_the_optimizer_by_itself_still_does():
    _, optimizer = trained("keep_optimizer+optimizer_reset", "reset_all")
    assert not any(optimizer.state.values())
