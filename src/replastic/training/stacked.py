"""Segments of several runs trained at once: their networks as one, with batched products and one optimizer.

Everything between segments (boundaries, scores, measures, records, states) is the plain loop's, run by run. For the
length of a segment the weights of each network are slices of stacked tensors; methods see them in place, and their
penalties and what they do after an update count as ever. Numbers equal those of the plain loop but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from replastic.denormals import flushed
from replastic.errors import UserError
from replastic.interventions.method import Method
from replastic.parallel import distributed
from replastic.seeds import drawing_from
from replastic.training import light
from replastic.training.loop import Segment
from replastic.training.session import Session
from replastic.training.stacked_layers import stacked, unstackable

State = dict[str, Any]
"""The values that torch's optimizer remembers of one parameter."""
COUNT = "step"
"""Torch's name, in that state, of the number of updates."""


def obstacle(session: Session) -> str:
    """The reason why the updates of this run cannot be made together with others', in words; empty if they can.

    Ask it of a session whose method is on, if it is to be on in the segments that are to come.
    """
    trainer, attached = session.protocol.trainer, session.attached
    method, optimizers = attached.method, list(attached.optimizers.values())
    watched = any("units" in part.required() or part.changes_forward for part in method.parts)
    reasons = {
        "several processes share the run": distributed.is_distributed(),
        "this kind of learning makes updates of its own": session.learner.pieces() is None,
        "batches are trained in parts": trainer.accumulate > 1,
        "it trains in bfloat16": trainer.precision != "float32",
        "it trains compiled": trainer.compiled,
        "it trains channels last": trainer.channels_last,
        f"{method.name} has an optimizer of its own": method.makes_optimizer,
        f"{method.name} changes the network": any(part.changes_structure for part in method.parts),
        "a trigger decides when it acts": session.trigger is not None,
        f"{method.name} changes the learning rate": method.changes_rate,
        f"{method.name} wants the loss more than once an update": method.repeats_backward,
        f"{method.name} watches the network while it trains": watched,
        f"{method.name} reads the optimizer": "optimizer" in method.required(),
        "it has another optimizer than Adam and SGD": any(type(o) not in (Adam, SGD) for o in optimizers),
    }
    found = next((reason for reason, holds in reasons.items() if holds), "") or unstackable(session.model)
    if found:
        return found
    trained = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]
    if len(trained) != 1 or len(optimizers[0].param_groups) != 1 or not _same(trained[0], session.model.parameters()):
        return "it has several optimizers, or groups of parameters"
    return ""


def alike(segments: Sequence[Segment]) -> bool:
    """Whether these, none of a run with an obstacle, can be trained together.

    They begin and end alike, in phases of one extent, and have networks of one shape and optimizers of equal settings.
    """
    first = _kind(segments[0])
    return all(_kind(segment) == first for segment in segments[1:])


def train(segments: Sequence[Segment]) -> None:
    """Make the updates of these segments, which begin and end alike, together.

    Args:
        segments: Of runs without an `obstacle` that are `alike`.
    """
    first = segments[0]
    with drawing_from(0, first.session.model), flushed():
        for segment in segments:
            segment.session.model.train()
        with _Stack(segments).joined() as stack:
            for step in range(first.first, first.last):
                stack.update(step, first.schedule)


class _Stack:
    """The networks of some segments as one."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self.going = list(segments)
        """Those whose method has not been refused a write."""
        self.sessions = [segment.session for segment in segments]
        self.optimizers = [next(iter(s.attached.optimizers.values())) for s in self.sessions]
        self.trainer = self.sessions[0].protocol.trainer
        self.weight_decay = segments[0].weight_decay
        pieces = [session.learner.pieces() for session in self.sessions]
        self.pieces = [one for one in pieces if one is not None]
        self.own = [list(session.model.parameters()) for session in self.sessions]
        self.penalised = [
            index
            for index, session in enumerate(self.sessions)
            if session.attached.is_on
            and any(type(p).penalty is not Method.penalty for p in session.attached.method.parts)
        ]
        self.weights = [
            torch.stack([p.detach() for p in each]).requires_grad_() for each in zip(*self.own, strict=True)
        ]
        names = [name for name, _ in self.sessions[0].model.named_parameters()]
        self.run = stacked(self.sessions[0].model, dict(zip(names, self.weights, strict=True)))
        self.state = _StackedState(self.optimizers, self.own, self.weights, self.trainer)

    @contextmanager
    def joined(self) -> Iterator[_Stack]:
        """Let the networks live in the stack; in the end each has its weights and its optimizer's state for itself."""
        memory = [[p.data for p in mine] for mine in self.own]
        for index, mine in enumerate(self.own):
            for p, weight in zip(mine, self.weights, strict=True):
                p.data = weight.detach()[index]
        try:
            yield self
        finally:
            for mine, places in zip(self.own, memory, strict=True):
                for p, place in zip(mine, places, strict=True):
                    p.data, p.grad = place.copy_(p.data), None
            self.state.hand_back()

    def update(self, step: int, steps: int) -> None:
        """One update of every network, as `Descent` makes it, and what the methods do after it."""
        batches = [piece.take() for piece in self.pieces]
        inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        for weight in self.weights:
            weight.grad = None
        losses = self.pieces[0].losses(self.run(inputs), targets).view(len(self.segments), -1).mean(1)
        torch.autograd.backward(losses.sum())
        self._penalties()
        rate = self.trainer.rate(step, steps)
        with torch.no_grad():
            gradients = [weight.grad for weight in self.weights if weight.grad is not None]
            if self.trainer.clip_norm:
                _clip(gradients, self.trainer.clip_norm)
            self._step(rate)
        self._note(losses.detach().unbind())

    def _penalties(self) -> None:
        """Add the slopes of what the methods add to the loss."""
        for index in self.penalised:
            for p, weight in zip(self.own[index], self.weights, strict=True):
                p.grad = None if weight.grad is None else weight.grad[index]
            penalty = self.sessions[index].attached.penalty()
            if penalty is not None:
                torch.autograd.backward(penalty)

    def _step(self, factor: float) -> None:
        for optimizer in (*self.optimizers, self.state.optimizer):
            group = optimizer.param_groups[0]
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
        if self.weight_decay:
            rate = self.state.optimizer.param_groups[0]["lr"]
            torch._foreach_mul_([w for w in self.weights if w.dim() >= 3], 1.0 - rate * self.weight_decay)
        self.state.step()

    def _note(self, losses: Sequence[Tensor]) -> None:
        for segment, piece, loss in zip(self.segments, self.pieces, losses, strict=True):
            if segment.refused is None:
                piece.note(loss)
                try:
                    segment.session.note_update()
                except UserError as error:
                    segment.refused = error
                else:
                    segment.losses.append(loss)


class _StackedState:
    """One optimizer for all networks, that begins with the states of theirs.

    Where all networks have made equally many updates with every weight it holds one state for each stacked weight;
    where they have not, as after a policy that drops the state of what some method wrote, one for each slice of it.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], own: Sequence[Sequence[Tensor]], weights: Sequence[Tensor], trainer: Any
    ) -> None:
        self.optimizers, self.own, self.weights = optimizers, own, weights
        states = [[o.state.get(p, {}) for p in mine] for o, mine in zip(optimizers, own, strict=True)]
        self.whole = len({_age(state) for mine in states for state in mine}) == 1
        settings = {k: v for k, v in optimizers[0].param_groups[0].items() if k != "params"}
        if self.whole:
            parameters = list(weights)
            begins = [_joined(each) for each in zip(*states, strict=True)]
        else:
            parameters = [weight.detach()[index] for index in range(len(own)) for weight in weights]
            begins = [_copied(state) for mine in states for state in mine]
        self.parameters = parameters
        self.optimizer = trainer.make_optimizer([{**settings, "params": parameters}])
        for parameter, state in zip(parameters, begins, strict=True):
            if state:
                self.optimizer.state[parameter] = state

    def step(self) -> None:
        """Step all networks by the gradients of the stacked weights."""
        if not self.whole:
            slopes = [weight.grad for weight in self.weights]
            for place, parameter in enumerate(self.parameters):
                index, number = divmod(place, len(self.weights))
                slope = slopes[number]
                parameter.grad = None if slope is None else slope[index]
        light.step(self.optimizer)

    def hand_back(self) -> None:
        """Give each network's optimizer its own state."""
        for index, (optimizer, mine) in enumerate(zip(self.optimizers, self.own, strict=True)):
            for number, p in enumerate(mine):
                place = number if self.whole else index * len(mine) + number
                state = self.optimizer.state.get(self.parameters[place], {})
                if state:
                    optimizer.state[p] = _slice(state, index) if self.whole else _copied(state)


def _clip(gradients: Sequence[Tensor], most: float) -> None:
    """Clip the norm of each network's gradient; tensors (K, *shape)."""
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    factors = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(factors.view(-1, *(1 for _ in g.shape[1:])))


def _age(state: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """All that must be equal for states to be stacked: which values there are, and the count of updates."""
    return tuple((key, float(value) if key == COUNT else 0.0) for key, value in state.items() if value is not None)


def _joined(states: Sequence[Mapping[str, Any]]) -> State:
    """The state of a stacked weight, of states of equal `_age`."""
    return {
        key: value.clone() if key == COUNT else torch.stack([state[key] for state in states])
        for key, value in states[0].items()
        if value is not None
    }


def _slice(state: Mapping[str, Any], index: int) -> State:
    """One network's part of the state of a stacked weight."""
    values = {key: value for key, value in state.items() if value is not None}
    return {key: (value if key == COUNT else value[index]).clone() for key, value in values.items()}


def _copied(state: Mapping[str, Any]) -> State:
    return {key: value.clone() for key, value in state.items() if value is not None}


def _kind(segment: Segment) -> tuple[Any, ...]:
    model, optimizers = segment.session.model, segment.session.attached.optimizers.values()
    shapes = [(name, p.shape, p.dtype, p.device) for name, p in model.named_parameters()]
    place = segment.phase, segment.first, segment.last, segment.extent
    return str(model), shapes, [_settings(optimizer) for optimizer in optimizers], place


def _settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Settings of the parameter groups, without a rate that a schedule has moved."""
    groups = ({**group, "lr": group.get("initial_lr", group["lr"])} for group in optimizer.param_groups)
    return [{key: value for key, value in group.items() if key not in ("params", "initial_lr")} for group in groups]


def _same(found: Sequence[Tensor], wanted: Iterator[Tensor]) -> bool:
    return [id(p) for p in found] == [id(p) for p in wanted]
