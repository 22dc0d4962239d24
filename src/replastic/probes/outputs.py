"""The outputs of a network on a batch as a function of its parameters and inputs, in float64 where it can be run so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from replastic.errors import UserError, is_out_of_memory
from replastic.probes._trees import mapped
from replastic.probes.forward import forward_on
from replastic.probes.loss import loss_on
from replastic.probes.quiet import undisturbed

Read = Callable[[Any], Tensor]
"""From what the model returns to its outputs, (samples, outputs)."""
_HINT = (
    "pass outputs=<function of what the model returns>, such as outputs=lambda out: out.logits[:, -1], to the probe "
    "(replastic.probes.ntk and others)"
)


class OutputFunction:
    """f(parameters, inputs) -> (samples, outputs): the model in evaluation mode, as the loss calls it.

    The first call of the model is recorded: by `loss_fn` if there is one, else with the batch. From then on the model
    runs with copies of its parameters and buffers, in float64 if it can, outside of autocast. Use the object inside
    `quietly`, which leaves no trace in the model.

    Args:
        model: The module. Its trainable real parameters are differentiated.
        batch: The argument of `loss_fn`, or, without one, inputs of the model (the first of a tuple).
        loss_fn: Mean loss of the model on a batch.
        outputs: From what the model returns to a tensor (samples, outputs). By default the tensor itself, or its
            attribute `logits`.
        samples: Number of samples taken from the start of the batch; None for all.
        entries: Limit on samples times outputs, for which fewer samples are taken, though never fewer than 2.

    Raises:
        UserError: No trainable parameter; no sample; the outputs are no finite tensor (samples, outputs); the loss
            function does not call the model; inference mode is on.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Any,
        loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        *,
        outputs: Read | None = None,
        samples: int | None = None,
        entries: int | None = None,
    ) -> None:
        _check(model, samples)
        self.model = model
        self._read = outputs or _tensor_of
        with undisturbed(model), torch.no_grad():
            self.args, self.kwargs, shape = self._recorded(batch, loss_fn)
            count = shape[0]
            self.samples = count if samples is None else min(samples, count)
            if entries is not None:
                self.samples = min(self.samples, max(2, entries // shape[1]))
            self._cut(count)
            found = self._in_widest_dtype()
            if not bool(torch.isfinite(found).all()):
                raise UserError(
                    "the outputs of the network hold NaN or infinite numbers on this batch: check the batch, then the "
                    "weights (replastic.diagnose(model) names those that are NaN)"
                )
            self.outputs = found.shape[1]
            self.dtype, self.device = found.dtype, found.device
            self.independent = self._samples_are_independent(found)

    def require_independent(self) -> None:
        """Refuse a network in which a sample has no Jacobian of its own.

        Raises:
            UserError: The outputs of a sample depend on the other samples of the batch.
        """
        if not self.independent:
            raise UserError(
                "the outputs of a sample depend on the other samples of the batch, so a sample has no Jacobian of its "
                "own: give the normalisation layers running statistics"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each trainable parameter; tied ones appear once."""
        return {name: p.numel() for name, p in self.parameters.items()}

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Evaluation mode without a trace in the model, gradients on, attention on the plain kernel."""
        with undisturbed(self.model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            yield

    def __call__(
        self,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        args: Any = None,
        kwargs: Any = None,
    ) -> Tensor:
        """Outputs (samples, outputs).

        Args:
            parameters: Values of trainable parameters, by name; those that are left out keep theirs.
            args: Positional arguments of the model instead of the recorded ones.
            kwargs: Keyword arguments instead of the recorded ones.
        """
        state = self._state | self.parameters | dict(parameters or {})
        given = self.args if args is None else args
        named = self.kwargs if kwargs is None else kwargs
        with torch.autocast(self._autocast, enabled=False):
            return self._shaped(functional_call(self.model, state, given, named))

    def rows(self, part: slice) -> tuple[Any, Any]:
        """The recorded arguments of some samples alone."""

        def cut(value: Tensor) -> Tensor:
            return value[part] if value.dim() and len(value) == self.samples else value

        return mapped(cut, self.args), mapped(cut, self.kwargs)

    def _recorded(self, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor] | None) -> tuple[Any, Any, torch.Size]:
        """Arguments of the first call of the model, and the shape of its outputs."""
        calls: list[tuple[Any, Any, Any]] = []

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append((args, kwargs, output))

        handle = self.model.register_forward_hook(note, with_kwargs=True)
        try:
            if loss_fn is None:
                forward_on(self.model, batch)
            else:
                loss_on(self.model, batch, loss_fn, finite=False)
        finally:
            handle.remove()
        if not calls:
            raise UserError("loss_fn does not call the model, so its outputs are unknown: call model(...) in loss_fn")
        args, kwargs, output = calls[0]
        return args, kwargs, self._shaped(output).shape

    def _shaped(self, output: Any) -> Tensor:
        """Outputs (samples, outputs) from the result of the model."""
        found = self._read(output)
        if not isinstance(found, Tensor):
            raise UserError(f"the outputs must be a tensor (samples, outputs), got {type(found).__name__}: {_HINT}")
        if found.dim() == 1:
            found = found[:, None]
        if found.dim() != 2 or not found.is_floating_point():
            raise UserError(
                f"the outputs must be real numbers (samples, outputs), got {found.dtype} {tuple(found.shape)}: {_HINT}"
            )
        if not found.numel():
            raise UserError("the batch holds no samples")
        return found

    def _cut(self, count: int) -> None:
        """Keep the first samples of the recorded arguments."""

        def first(value: Tensor) -> Tensor:
            return value[: self.samples] if value.dim() and len(value) == count else value

        self.args, self.kwargs = mapped(first, self.args), mapped(first, self.kwargs)

    def _in_widest_dtype(self) -> Tensor:
        """Copy parameters, buffers and arguments to float64, or keep their dtype if the model does not run in it."""
        given = self.args, self.kwargs
        self._autocast = next(self.model.parameters()).device.type
        for widen in (True, False):
            self._take(*given, widen=widen)
            try:
                return self()
            except UserError:
                raise
            except Exception as error:
                if not widen or is_out_of_memory(error):
                    raise
        raise AssertionError

    def _take(self, args: Any, kwargs: Any, *, widen: bool) -> None:
        def copied(value: Tensor) -> Tensor:
            wide = torch.float64 if widen and value.is_floating_point() and value.device.type != "mps" else value.dtype
            return value.detach().to(wide, copy=True)

        named = dict(self.model.named_parameters())
        self.parameters = {n: copied(p) for n, p in named.items() if p.requires_grad and p.is_floating_point()}
        rest = {n: p for n, p in named.items() if n not in self.parameters} | dict(self.model.named_buffers())
        self._state = {n: copied(value) for n, value in rest.items()}
        self.args, self.kwargs = mapped(copied, args), mapped(copied, kwargs)

    def _samples_are_independent(self, found: Tensor) -> bool:
        """Whether the outputs of the last sample are the same when it is alone."""
        if self.samples == 1:
            return True
        args, kwargs = self.rows(slice(self.samples - 1, self.samples))
        try:
            alone = self(args=args, kwargs=kwargs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
        tolerance = torch.finfo(self.dtype).eps ** 0.5
        scale = found.abs().max()
        return alone.shape == (1, self.outputs) and bool((alone[0] - found[-1]).abs().max() <= tolerance * scale)


def _tensor_of(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else getattr(output, "logits", output)
    return found


def _check(model: nn.Module, samples: int | None) -> None:
    if torch.is_inference_mode_enabled():
        raise UserError("gradients are needed, which torch.inference_mode() forbids: make this call outside of it")
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise UserError(f"samples must be a whole number of at least 1, got {samples!r}")
    if not any(p.requires_grad and p.is_floating_point() for p in model.parameters()):
        raise UserError("the model has no trainable parameter: set requires_grad=True on those that are trained")
