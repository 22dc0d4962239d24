"""Which calls of a training loop a method waits for, and an error where the loop leaves one out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.method import Method


class Asked:
    """The calls that were made for the coming update."""

    def __init__(self) -> None:
        self.penalty = False
        self.backward = False

    def check(self, method: Method) -> None:
        """See that nothing was left out, and begin anew with the next update.

        Raises:
            UserError: The method computes the loss twice, and `backward` was not called; or it adds a term to the loss,
                and `penalty` was not called.
        """
        name = "+".join(part.name for part in method.parts)
        if method.repeats_backward and not self.backward:
            raise UserError(
                f"{name} computes the loss twice for each update: give a function that computes it and its gradients "
                "to method.backward(closure), before the optimizer's step"
            )
        if any(type(part).penalty is not Method.penalty for part in method.parts) and not self.penalty:
            raise UserError(
                f"{name} adds a term to the loss, and nobody asked for it: call method.penalty() before the backward "
                "pass of each update, and add what it returns (a scalar, or None) to the loss"
            )
        self.penalty = self.backward = False


def with_gradients(closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Callable[[], Tensor]:
    """The closure, which from now on has to leave gradients.

    Args:
        closure: Computes the loss and its gradients, and returns the loss.
        parameters: Those that the gradients are for.

    Raises:
        UserError: It is no function, or (when it is called) no parameter has a gradient afterwards.
    """
    if not callable(closure):
        raise UserError(
            "method.backward needs a function that computes the loss and its gradients, calls loss.backward() itself "
            f"and returns the loss, got {'a tensor' if isinstance(closure, Tensor) else type(closure).__name__}"
        )

    def checked() -> Tensor:
        loss = closure()
        if not any(p.grad is not None for p in parameters):
            raise UserError(
                "after the closure given to method.backward no parameter has a gradient: call loss.backward() in it"
            )
        return loss

    return checked
