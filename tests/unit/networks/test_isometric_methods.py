"""Methods on networks whose matrices are orthonormal by a parametrization: they leave these alone, or refuse them."""

import pytest
import torch

from replastic import fire_, methods, networks
from replastic.errors import UserError
from replastic.networks.convnet import ConvNet
from replastic.networks.mlp import Mlp
from replastic.training.session import Session
from support.small_runs import with_task

MLP = Mlp(hidden=(64, 64), activation="maxmin", weights="orthonormal")
CONVNET = ConvNet(channels=(4, 16), activation="maxmin", norm="none", weights="orthonormal")
NETWORKS = pytest.mark.parametrize("network", [MLP, CONVNET], ids=["mlp", "convnet"])


def matrices(model):
    """The matrices of all layers but the head, as they are used."""
    return {name: m.weight.detach().clone() for name, m in model.named_modules() if hasattr(m, "parametrizations")}


@NETWORKS
def test_fire_rewrites_the_head_and_says_why_it_leaves_the_others(network):
    model = networks.build(network, (1, 8, 8), 10, seed=0)
    before, head = matrices(model), model.head.weight.detach().clone()
    outcome = fire_(model, recipe="all")
    assert not torch.equal(model.head.weight, head)
    for name, weight in matrices(model).items():
        assert torch.equal(weight, before[name])
    assert "parametrization" in str(outcome.to_dict())


@NETWORKS
@pytest.mark.parametrize("spec", ["parseval", "spectral", "nap"])
def test_methods_that_need_every_matrix_refuse_it_in_a_sentence(network, spec, protocol, splits):
    changed = with_task(protocol, network=network)
    with (
        Session(changed, splits, methods.from_spec(spec), 0) as session,
        pytest.raises(UserError, match="computed by a parametrization"),
    ):
        session.begin(0)


@NETWORKS
@pytest.mark.parametrize("spec", ["adamo", "isometry", "full_reset", "base"])
def test_methods_of_the_comparison_train_it_and_it_stays_orthonormal(network, spec, protocol, splits):
    changed = with_task(protocol, network=network)
    with Session(changed, splits, methods.from_spec(spec), 0) as session:
        start = matrices(session.model)
        session.begin(0)
        session.learner.begin(0, 0)
        for step in range(3):
            session.update(step, 3)
        moved = matrices(session.model)
        assert not any(torch.equal(moved[name], start[name]) for name in start)
        session.inform(1)
        session.attached.cross(1, begin=True)
        for name, weight in matrices(session.model).items():
            s = torch.linalg.svdvals(weight.double())
            torch.testing.assert_close(s, torch.ones_like(s), rtol=0, atol=1e-5)
            assert torch.allclose(weight, start[name] if spec == "full_reset" else moved[name], atol=1e-6)
