"""The smallest interface that covers every method: what it needs, when it is asked, what it proposes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from replastic.interventions.run import Need, Run
from replastic.linalg import GramRoot
from replastic.registry import Registry
from replastic.weights.change import Change, UnitReset
from replastic.weights.entries import MatrixInfo
from replastic.weights.optimizer_state import Policy

Scope = Literal["matrices", "layers", "parameters", "state"]
"""Which tensors a weight method gets, and how; see `WeightMethod.scope`."""


class Solution(NamedTuple):
    """`WeightMethod.solve` may return this: new matrices, and numbers to report of them."""

    weight: Tensor
    """In the shape that `solve` was given."""
    facts: Mapping[str, Any] = {}
    """By name: numbers, strings, or tensors with one value for each matrix of the batch. Of such tensors the worst is
    shown for ``residual`` (largest) and ``alignment`` (smallest), the mean for any other."""


@dataclass(kw_only=True)
class Method:
    """An intervention. Subclasses are keyword-only dataclasses whose fields are the hyperparameters, each an `option`.

    Everything has a default that does nothing, so a subclass says only what it does. Over a run the calls are:
    `check` (before anything starts), `setup`, `make_optimizer`, then for every step `penalty`, `backward`
    and `after_step`, between two phases `on_boundary`, after either `after_write` where weights were replaced, and
    `close` in the end.
    """

    name: ClassVar[str] = ""
    """Public name; set by `register`."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """Fields that the run must have; checked before `setup`, with a message naming the remedy. See `required`."""
    inert: ClassVar[bool] = False
    """Whether it is meant to change nothing at all, as what other methods are compared with."""
    changes_structure: ClassVar[bool] = False
    """Whether it adds or replaces modules; see `rebuild`."""
    scales_updates: ClassVar[bool] = False
    """Whether it scales what the optimizer's step has done: in a combination it comes first, before others write."""
    goes_back: ClassVar[bool] = False
    """Whether it puts earlier weights in place of all there are: in a combination it comes first, as it would undo what
    others did. One method of this kind is enough."""
    changes_forward: ClassVar[bool] = False
    """Whether `setup` changes what the network computes, by hooks: other parts of a combination are set up after it."""
    policy: ClassVar[Policy | None] = None
    """The fate of the optimizers' state at a boundary, in place of the run's own policy; None leaves it to the run."""
    takes_shards: ClassVar[bool] = False
    """Whether it works on a model of whose weights each process holds a part alone (FSDP2); others are refused there. A
    `WeightMethod` does: it gets its weights whole."""

    @property
    def draws(self) -> bool:
        """Whether the run's seed decides what it does, with these hyperparameters."""
        return "fresh" in self.required()

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods it consists of, in the order in which they act at a boundary: itself, unless it combines some."""
        return (self,)

    @property
    def acts_between_phases(self) -> bool:
        """Whether it may change something at a boundary; the others act while the network trains, or not at all."""
        return any(type(part).on_boundary is not Method.on_boundary for part in self.parts)

    @property
    def makes_optimizer(self) -> bool:
        """Whether it has an optimizer of its own, in place of the run's."""
        return any(type(part).make_optimizer is not Method.make_optimizer for part in self.parts)

    @property
    def changes_rate(self) -> bool:
        """Whether it may change the learning rate: see `rate`."""
        return any(type(part).rate is not Method.rate for part in self.parts)

    @property
    def repeats_backward(self) -> bool:
        """Whether it needs the loss more than once an update, and so a function that computes it: see `backward`."""
        return any(type(part).backward is not Method.backward for part in self.parts)

    def __post_init__(self) -> None:
        """Note in `explicit` the fields the caller set by hand, which no recipe overrides.

        Here those that differ from their defaults; `from_spec` knows better and notes those it was given.
        """
        self.explicit: frozenset[str] = frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def validate(self) -> None:
        """Refuse fields that do not go together; types, choices and ranges are checked by then.

        Raises:
            UserError: Naming the fields, their values and what is allowed.
        """

    def required(self) -> frozenset[Need]:
        """Fields that the run must have with these hyperparameters; `needs` unless a field asks for more."""
        return self.needs

    def idle(self) -> frozenset[str]:
        """Names of the fields that have no effect beside the values of the others."""
        return frozenset()

    def check(self, run: Run) -> None:
        """Look at the run without touching it, so that what would fail later fails before training.

        Raises:
            UserError: The run does not suit the method.
        """

    def setup(self, run: Run) -> None:
        """Called once, before the first phase in which the method is on; in a resumed process once more.

        What it looks up, such as hooks and parameters, goes into attributes; `close` lets go of it. In a resumed
        process the network is still as it was at initialisation, its saved weights are loaded later: what begins at
        the weights as they are, such as a copy of them, must be in `state_dict`.
        """

    def make_optimizer(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """The optimizer to train with from now on; asked for once for each optimizer of the run.

        Args:
            groups: Its parameters, as parameter groups of torch with the settings that are a group's own, not the
                defaults of the run's optimizer; may be split or given other settings.
            build: Makes the run's own optimizer from groups.
        """
        return build(groups)

    def rate(self, run: Run) -> float:
        """Factor on the learning rate of the coming update, decoupled weight decay included."""
        return 1.0

    def penalty(self, run: Run) -> Tensor | None:
        """A scalar to add to the loss of every step, differentiable in the parameters, or None."""
        return None

    def backward(self, run: Run, parameters: Sequence[Tensor], closure: Callable[[], Tensor]) -> Tensor:
        """Have the gradients of the coming update computed, for methods that need the loss at other weights as well.

        Args:
            run: The run under way.
            parameters: Those that the coming update trains.
            closure: Clears the gradients, computes the whole loss with its penalty at the weights as they are, leaves
                its gradients in `.grad`, and returns the loss. It may be called again.

        Returns:
            The loss at the weights as they were. They are so again at the end.
        """
        return closure()

    def after_step(self, run: Run) -> Change | None:
        """Called after every optimizer update; what it proposes is written before the next."""
        return None

    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """Called when weights were replaced, by any part of the run's method, so that copies of them can follow.

        That is after every change between two phases, and after a change that resets units. Other changes after an
        update, such as a projection, are a part of that update.

        Args:
            run: The run; its store has the new values.
            names: Tensors with a new value.
            units: Rows and columns with new values in tensors that are otherwise what they were.
        """

    def on_boundary(self, run: Run) -> Change | None:
        """Called between two phases, before the new phase's first step.

        None means that the method does not act between phases; an empty `Change` that there was nothing to do.
        """
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """The state for resuming, beside the fields and the findings of `setup`; tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave; called after `setup`."""

    def rebuild(self, run: Run) -> Change | None:
        """The modules that a resumed run needs before its saved weights can be loaded.

        Called in a resumed process, after `load_state_dict`, on a network as it was at initialisation. For methods
        that replace modules (`changes_structure`): their state says what they had put in place. None if nothing.
        """
        return None

    def close(self) -> None:
        """Remove hooks and let go of the model: called at the end of a run, or on an error, even before `setup`."""


@dataclass(kw_only=True)
class WeightMethod(Method):
    """A method that is a function of the weights alone, one batch of matrices at a time: it also runs on files.

    A subclass writes `solve`. `Attached` reads the weights, cuts them into matrices, measures and writes.
    """

    takes_shards: ClassVar[bool] = True
    scope: ClassVar[Scope] = "matrices"
    """Which tensors `solve` gets, and how:

    * ``matrices``: the weights the recipe chose, as (batch, d_out, d_in);
    * ``parameters``: every trainable parameter, recipe or not, in its own shape;
    * ``state``: buffers as well;
    * ``layers``: every trainable parameter, as (batch, d_out, d_in) where it is a matrix, in its own shape where not.
    """
    compared_with: ClassVar[str] = "initial weights"
    """The words for what `reference` gives, for messages."""
    batched: ClassVar[bool] = False
    """Whether matrices of several weights with equal shape and taps may come in one call; `info` is then the first's.
    For methods that treat every matrix alike and draw nothing: `generator` is then the first's, too."""

    @property
    def acts_between_phases(self) -> bool:
        """That is all it does."""
        return True

    def narrowed(self, run: Run) -> Run:
        """The run with the choice of weights that the method makes itself, if it makes one."""
        return run

    def fitted(self, run: Run) -> WeightMethod:
        """The method with the settings that the run's network decides; itself unless overridden.

        Asked once for each plan, after the options of the recipe's rules are in.
        """
        return self

    def reference(self, run: Run) -> Mapping[str, Tensor] | None:
        """The `w0` of `solve`, by the weights' names, such as a new draw or a gradient; None for `Run.init`.

        Asked once at every boundary, of the method itself and of every method that a recipe's rule names.
        """
        return None

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor | Solution:
        """New matrices for old ones.

        Args:
            w: (batch, d_out, d_in), float32 or wider, read only; with the other scopes the tensor in its own shape.
            info: What they are.
            w0: The same matrices in what `reference` gives, which is at initialisation unless it is overridden; None
                where that lacks the weight, or when the run has no `init`.
            generator: On the device of `w`, seeded from the run's seed, its phase, the weight's name and the block, so
                that a draw depends neither on the order of the weights nor on where they are stored.

        Returns:
            The new matrices, in the shape of `w`; in a `Solution` if there is something to report of them.

        Raises:
            MatrixError: One of the matrices has no answer; the caller names its layer.
        """
        raise NotImplementedError

    def takes_gram(self, info: MatrixInfo) -> bool:
        """Whether `from_gram` answers for such a matrix, which has d_out > d_in. No, unless overridden."""
        return False

    def from_gram(self, root: GramRoot, info: MatrixInfo) -> tuple[float, Mapping[str, Any]]:
        """The scale s, where the answer for a matrix W is s W (W^T W)^(-1/2), and the facts that `solve` reports of it.

        With it a weight whose rows lie in several processes is solved where they are. Otherwise it is sent to one.
        """
        raise NotImplementedError


REGISTRY: Registry[type[Method]] = Registry("method", "replastic.methods")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry
