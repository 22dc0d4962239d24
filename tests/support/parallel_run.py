"""Short runs in float64, alone or as one process of several: `python parallel_run.py FOLDER CASE CASE ...`."""

import sys
from dataclasses import dataclass, replace

import torch

from replastic import methods
from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.methods import Method
from replastic.networks import Network
from replastic.networks.convnet import ConvNet
from replastic.networks.resnet18 import ResNet18
from replastic.networks.vit_tiny import VitTiny
from replastic.parallel import distributed
from replastic.records import RunDirectory
from replastic.streams.warm_start import WarmStart
from replastic.training import Protocol, train
from replastic.weights.change import Change, Proposal


@dataclass(frozen=True, kw_only=True)
class Double(Network):
    """A network in float64, so that the order of sums does not blur what is compared."""

    inner: Network

    def module(self, sample_shape, classes):
        return self.inner.module(sample_shape, classes).double()


class Watcher(Method):
    """Adds the mean activation of the head's inputs, over the batch and a pass of the data, to the head's bias."""

    def setup(self, run):
        self.mean = torch.zeros((), dtype=torch.float64)
        self.hook = run.model.head.register_forward_hook(self.watch)

    def watch(self, module, inputs, output):
        if module.training and torch.is_grad_enabled():
            self.seen = inputs[0].detach().mean()

    def penalty(self, run):
        return 1e-3 * sum(p.square().sum() for p in run.model.parameters())

    def after_step(self, run):
        self.mean = 0.9 * self.mean + 0.1 * run.average(self.seen)
        if run.step % 5 == 0:
            return Change(proposals=[Proposal("head.bias", run.store.read("head.bias") + 0.1 * self.mean)])
        return None

    def close(self):
        if hasattr(self, "hook"):
            self.hook.remove()


class Breaking(Method):
    """Fails in the second process alone."""

    def after_step(self, run):
        if run.step == 4 and distributed.rank() == 1:
            raise UserError("broken on purpose in the second process")


CASES = {
    "fire": (ResNet18(width=4, blocks=(1, 1), stem_stride=1, head=(8,)), lambda: methods.from_spec("fire")),
    "dash": (ConvNet(channels=(4, 6)), lambda: methods.from_spec("dash")),
    "average": (ConvNet(channels=(4, 6)), Watcher),
    "vit": (VitTiny(patch=4, dim=12, depth=2, heads=2, mlp=16), lambda: methods.from_spec("shrink_perturb")),
    "redo": (
        ResNet18(width=4, blocks=(1, 1), stem_stride=1, head=(8,)),
        lambda: methods.from_spec("redo:dormancy_threshold=0.9,batches=2"),
    ),
    "cbp": (ConvNet(channels=(4, 6)), lambda: methods.from_spec("cbp:maturity_threshold=2,replacement_rate=0.05")),
    "snr": (
        ResNet18(width=4, blocks=(1, 1), stem_stride=1, head=(64,)),
        lambda: methods.from_spec("snr:percentile=0.6,max_gap=2"),
    ),
    "sam": (ResNet18(width=4, blocks=(1, 1), stem_stride=1, head=(8,)), lambda: methods.from_spec("sam:rho=0.5")),
    "breaking": (ConvNet(channels=(4, 6)), Breaking),
}


TRAINER = Trainer(batch_size=21, evaluate_every=1, save_seconds=0, optimizer_policy="keep", weight_decay=0.1)
ACCUMULATED = {"vit": 4}
"""Parts of a batch, by case; batch normalisation would see other parts in one process than in two."""


def run(case, folder):
    network, method = CASES[case]
    draw = torch.Generator().manual_seed(0)
    whole = Dataset(
        torch.randn(150, 3, 8, 8, generator=draw, dtype=torch.float64), torch.randint(4, (150,), generator=draw), 4
    )
    # Batches of 21 samples, which two processes cannot halve.
    protocol = Protocol(
        task=Classification(
            data="made up",
            stream=WarmStart(ratio=0.4, first_epochs=3, epochs=2),
            network=Double(inner=network),
        ),
        trainer=replace(TRAINER, accumulate=ACCUMULATED.get(case, 1)),
        boundary_metrics=("sfe",),
    )
    splits = Splits(whole.first(110), whole.take(torch.arange(110, 130)), whole.take(torch.arange(130, 150)))
    # In two parts, so that the second goes on from what the first saved.
    for until in (1, 2):
        train(protocol, splits, method(), 0, RunDirectory(folder), until=until)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.processes("cpu"):
        for case in sys.argv[2:]:
            run(case, f"{sys.argv[1]}/{case}")
