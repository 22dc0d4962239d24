"""Number format, memory layout and compilation: what they change, and all that they must leave alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from replastic.learners._batches import shuffled
from replastic.methods import Method
from replastic.networks.convnet import ConvNet
from replastic.records import RunDirectory
from replastic.streams.warm_start import WarmStart
from replastic.training import train
from replastic.training.session import Session
from replastic.weights.change import Change
from support.small_runs import content, steps, trained_by, with_task

SETTINGS = [
    {"precision": "bfloat16"},
    {"channels_last": True},
    {"precision": "bfloat16", "channels_last": True},
]
TORCHS_OWN = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
"""A warning that torch 2.13 raises while it imports its own compiler."""
SKIPFILES = pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles:UserWarning")
"""A warning that torch 2.6 raises while it compiles."""
COMPILED = [pytest.mark.slow, TORCHS_OWN, SKIPFILES]


@pytest.fixture
def convolutional(protocol):
    """A convnet with batch normalisation, evaluated after every pass."""
    stream = WarmStart(ratio=0.5, first_epochs=2, epochs=2)
    protocol = with_task(protocol, network=ConvNet(channels=(4, 6)), stream=stream)
    return trained_by(protocol, batch_size=16, evaluate_every=1, save_seconds=0, optimizer_policy="keep")


def session_with(protocol, splits, method=None, **settings):
    return Session(trained_by(protocol, **settings), splits, method or Method(), 0)


def batch_of(splits):
    return next(shuffled(splits.train, 16, 0, seed=0))


def update_on(session, batch):
    """The loss of an update on a batch of the test's choice."""
    session.learner.stream = lambda phase, first: iter([batch])
    return steps(session, 0, 1)[0]


def test_plain_settings_are_the_module_itself(convolutional, splits):
    session = session_with(convolutional, splits)
    inputs, _ = batch_of(splits)
    assert torch.equal(session.learner.forward(inputs), session.model(inputs))


def test_bfloat16_is_autocast_around_the_forward_pass_alone(convolutional, splits):
    plain, half = session_with(convolutional, splits), session_with(convolutional, splits, precision="bfloat16")
    inputs, targets = batch_of(splits)
    found = half.learner.forward(inputs)
    half_outputs = found.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        expected = half.model(inputs)
    assert expected.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())
    # bfloat16 keeps 8 bits, so outputs of about 1 are within some hundredths.
    exact = plain.learner.forward(inputs)
    assert 0 < float((found - exact).detach().abs().max()) < 0.05 * float(exact.detach().abs().max()) + 0.02
    assert update_on(half, (inputs, targets)) == float(functional.cross_entropy(half_outputs, targets))


@pytest.mark.parametrize("settings", SETTINGS)
def test_methods_see_the_plain_module_in_float32(settings, convolutional, splits):
    session = session_with(convolutional, splits, **settings)
    assert session.attached.run.model is session.model
    inputs, targets = batch_of(splits)
    expected = functional.cross_entropy(session.model(inputs), targets)
    assert torch.equal(session.attached.run.loss_fn(session.attached.run.model, (inputs, targets)), expected)
    assert session.model(inputs).dtype == torch.float32


@pytest.mark.parametrize("settings", SETTINGS)
def test_parameters_keep_identity_dtype_and_names_through_an_update(settings, convolutional, splits):
    plain, session = session_with(convolutional, splits), session_with(convolutional, splits, **settings)
    before = {name: (id(p), p.dtype) for name, p in session.model.named_parameters()}
    losses = [update_on(s, batch_of(splits)) for s in (plain, session)]
    assert before == {name: (id(p), p.dtype) for name, p in session.model.named_parameters()}
    assert list(plain.model.state_dict()) == list(session.model.state_dict())
    assert all(p.grad.dtype == torch.float32 for p in session.model.parameters())
    half = "precision" in settings
    assert losses[1] == pytest.approx(losses[0], rel=0.02 if half else 1e-5)
    for (name, p), q in zip(session.model.named_parameters(), plain.model.parameters(), strict=True):
        scale = float(q.grad.abs().max())
        assert float((p.grad - q.grad).abs().max()) <= (0.2 if half else 1e-4) * scale + 1e-6, name


def test_channels_last_reaches_the_weights_and_the_images(convolutional, splits):
    session = session_with(convolutional, splits, channels_last=True)
    seen = []
    session.model.stage2.conv.register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output)))
    session.learner.forward(batch_of(splits)[0])
    for tensor in (*seen[0], session.model.stage2.conv.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


@pytest.mark.parametrize("settings", [*SETTINGS, pytest.param({"compiled": True}, marks=COMPILED)])
def test_stopped_and_resumed_the_numbers_are_the_same(settings, convolutional, splits, tmp_path):
    protocol = trained_by(convolutional, **settings)

    class Stop(Exception):
        pass

    def go(path, stop_at=99.0):
        def progress(phases):
            if phases >= stop_at:
                raise Stop

        directory = RunDirectory(path)
        try:
            train(protocol, splits, Method(), 0, directory, progress=progress)
        except Stop:
            assert not directory.done
        return content(directory)

    whole = go(tmp_path / "whole")
    for stop in (0.5, 1.0, 1.5):
        path = tmp_path / str(stop)
        go(path, stop)
        assert go(path) == whole, f"stopped at phase {stop}"


class Headed(Method):
    """Replaces the head by one that says 0 for everything."""

    changes_structure = True

    def on_boundary(self, run):
        head = nn.Linear(run.model.head.in_features, run.model.head.out_features)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return Change(modules={"head": head})


@pytest.mark.slow
@TORCHS_OWN
@SKIPFILES
def test_a_compiled_network_computes_the_same_and_follows_hooks_and_new_modules(convolutional, splits):
    plain = session_with(convolutional, splits)
    session = session_with(convolutional, splits, Headed(), compiled=True)
    ran = []
    compiled = session.learner.forward._compiled
    session.learner.forward._compiled = lambda inputs: ran.append(len(inputs)) or compiled(inputs)
    batch = batch_of(splits)
    names, parameters = list(session.model.state_dict()), [id(p) for p in session.model.parameters()]
    for _ in range(3):
        losses = [update_on(s, batch) for s in (plain, session)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert ran == [16, 16, 16]
    assert (list(session.model.state_dict()), [id(p) for p in session.model.parameters()]) == (names, parameters)
    seen = []
    hook = session.model.head.register_forward_hook(lambda *_: seen.append(1))
    session.learner.forward(batch[0])
    assert (len(ran), seen) == (3, [1]), "with hooks the network runs as it is"
    hook.remove()
    session.learner.forward(batch[0][:5])
    assert len(ran) == 3, "sizes that come once are not compiled"
    session.begin(0)
    session.attached.cross(1)
    assert not session.learner.forward(batch[0]).any()
    assert len(ran) == 4
