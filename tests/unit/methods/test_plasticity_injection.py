"""Plasticity injection: outputs before and after, what is trained, and many injections one after the other."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic import methods, networks
from replastic.errors import UserError
from replastic.networks.mlp import Mlp
from replastic.networks.resnet18 import ResNet18
from replastic.networks.vit_tiny import VitTiny
from replastic.weights.redraw import redraw
from replastic.weights.writer import write

RunOn = Callable[..., methods.Run]


def network() -> nn.Module:
    return networks.build(Mlp(hidden=(7, 6)), (5,), 4, 0).double()


def data(count: int = 9) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(1)).double()


def run_for(model: nn.Module, run_on: RunOn, phase: int = 1) -> methods.Run:
    """A run whose draws have the names of the network as it was at first, as in training."""
    blank = deepcopy(model)
    return run_on(model, fresh=lambda seed: redraw(blank, seed), phase=phase, seed=3)


def inject(model: nn.Module, run: methods.Run, method: methods.Method) -> None:
    change = method.on_boundary(run)
    assert change is not None
    write(run.store, change)


def ready(model: nn.Module, run: methods.Run, spec: str = "plasticity_injection") -> methods.Method:
    method = methods.from_spec(spec)
    methods.check_needs(method, run)
    method.setup(run)
    return method


@pytest.mark.parametrize("hidden", [0, 1, 2, 9])
def test_outputs_stay_and_what_is_trained_is_new(hidden: int, run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    objects = {name: id(p) for name, p in model.named_parameters()}
    before, old = model(data()).detach(), {n: v.clone() for n, v in model.state_dict().items()}
    inject(model, run, ready(model, run, f"plasticity_injection:hidden={hidden}"))
    torch.testing.assert_close(model(data()), before, rtol=1e-12, atol=1e-13)
    trained = {n: id(p) for n, p in model.named_parameters() if p.requires_grad}
    assert trained == objects, "parameters keep their names and identity"
    names = ["hidden1.linear", "hidden2.linear", "head"]
    new = names[max(0, 2 - hidden) :]
    assert run.fresh is not None
    for name in names:
        stays = torch.equal(model.get_parameter(f"{name}.weight"), old[f"{name}.weight"])
        assert stays == (name not in new), name
    assert torch.equal(model.get_submodule("head.old.0").head.weight, old["head.weight"])
    assert torch.equal(model.get_submodule("head.fresh.0").head.weight, model.get_parameter("head.weight"))


def test_training_moves_the_new_classifier_and_the_encoder_alone(run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    inject(model, run, ready(model, run))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    model(data()).square().mean().backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in model.named_parameters() if p.requires_grad}
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert frozen
    assert all(torch.equal(model.get_parameter(n), value) for n, value in frozen.items())


def test_the_gradient_is_that_of_the_sum_written_out(run_on: RunOn) -> None:
    model, plain = network(), network()
    run = run_for(model, run_on)
    inject(model, run, ready(model, run))
    with torch.no_grad():
        for name in ("hidden2.linear.weight", "head.weight"):
            model.get_parameter(name).add_(0.3)
    fresh, new = deepcopy(plain), deepcopy(plain)
    encoder = nn.Sequential(*list(new.children())[:2])

    def classifier(of: nn.Module, x: Tensor) -> Tensor:
        children = dict(of.named_children())
        return children["head"](children["hidden2"](x))

    inside = {n.removeprefix("head.fresh.0."): p for n, p in model.named_parameters() if n.startswith("head.fresh")}
    fresh.load_state_dict({**fresh.state_dict(), **inside})
    new.load_state_dict({n: p for n, p in model.state_dict().items() if not n.startswith(("head.old", "head.fresh"))})
    between = encoder(data())
    wanted = classifier(new, between) + classifier(plain, between) - classifier(fresh, between)
    torch.testing.assert_close(model(data()), wanted, rtol=1e-12, atol=1e-13)
    wanted.square().sum().backward()
    model(data()).square().sum().backward()
    for name, parameter in new.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-10, atol=1e-12)


def test_twenty_injections(run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    method = ready(model, run)
    for phase in range(1, 21):
        run.phase = phase
        before = model(data()).detach()
        inject(model, run, method)
        torch.testing.assert_close(model(data()), before, rtol=1e-10, atol=1e-11)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(phase)).to(p))
        assert not torch.allclose(model(data()), before, rtol=1e-3)
    assert method.state_dict()["pairs"].tolist() == 20
    assert len({float(c.head.weight.sum()) for c in model.get_submodule("head.fresh")}) == 20


def test_a_network_is_rebuilt_from_the_number_of_pairs(run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    method = ready(model, run)
    for run.phase in (1, 2):
        inject(model, run, method)
    other = network()
    again_run = run_for(other, run_on)
    again = ready(other, again_run)
    again.load_state_dict(method.state_dict())
    change = again.rebuild(again_run)
    assert change is not None
    write(again_run.store, change)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(data()), model(data()))
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]
    run.phase = again_run.phase = 3
    inject(model, run, method)
    inject(other, again_run, again)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_nothing_to_rebuild_before_the_first_injection(run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    method = ready(model, run)
    method.load_state_dict(method.state_dict())
    assert method.rebuild(run) is None


def test_dry_run_and_undo_leave_no_trace(run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    before, structure = model.state_dict(), repr(model)
    before = {name: value.clone() for name, value in before.items()}
    for dry in (True, False):
        change = ready(model, run).on_boundary(run)
        assert change is not None
        outcome = write(run.store, change, dry_run=dry)
        if not dry:
            outcome.undo_()
        assert repr(model) == structure
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("build", "names"),
    [(ResNet18.reduced(), ("hidden1", "head")), (VitTiny.reduced(), ("head",))],
    ids=["resnet18", "vit_tiny"],
)
def test_classifiers_of_the_papers_networks(build: networks.Network, names: tuple[str, ...], run_on: RunOn) -> None:
    model = networks.build(build, (3, 32, 32), 10, 0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(images).detach()
    run = run_on(model, fresh=lambda seed: networks.build(build, (3, 32, 32), 10, seed).state_dict(), phase=1)
    inject(model, run, ready(model, run))
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)
    assert tuple(n for n, _ in model.get_submodule("head.old.0").named_children()) == names


def test_the_library_call_can_be_repeated() -> None:
    model = network()
    before = model(data()).detach()
    for seed in (1, 2):
        replastic.apply_("plasticity_injection", model, seed=seed)
        torch.testing.assert_close(model(data()), before, rtol=1e-12, atol=1e-13)
    assert len(model.get_submodule("head.old")) == 2
    copied = deepcopy(model)
    assert torch.equal(copied(data()), model(data()))


def test_frozen_copies_stay_in_evaluation_mode(run_on: RunOn) -> None:
    model = network()
    run = run_for(model, run_on)
    inject(model, run, ready(model, run))
    model.train()
    assert not model.get_submodule("head.old.0").training
    assert not model.get_submodule("head.fresh.0").training
    assert model.get_submodule("head").training


def test_what_cannot_be_injected_is_named(run_on: RunOn) -> None:
    with pytest.raises(UserError, match=r"needs a network that ends with an nn\.Linear"):
        methods.check_needs(
            methods.from_spec("plasticity_injection"), run_for(nn.Sequential(nn.Conv1d(1, 1, 1)), run_on)
        )
    model = network()
    run = run_on(model, fresh=lambda seed: {}, exclude_modules=["head"])
    with pytest.raises(UserError, match=r"but head\.weight is to be left alone"):
        methods.check_needs(methods.from_spec("plasticity_injection"), run)
    run = run_on(model, fresh=lambda seed: {})
    with pytest.raises(UserError, match=r"needs a new draw of hidden2\.linear\.weight"):
        ready(model, run).on_boundary(run)


def test_a_weight_of_the_same_name_outside_the_classifier_is_left_alone(run_on: RunOn) -> None:
    """The classifier's last layer is ``2.0``, another layer of the network is ``0``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 3))).double()
    run = run_for(model, run_on)
    encoder, before = model[0].weight.detach().clone(), model(data()).detach()
    inject(model, run, ready(model, run))
    assert torch.equal(model[0].weight, encoder)
    torch.testing.assert_close(model(data()), before, rtol=1e-12, atol=1e-13)
