"""The one place where formulas by hand meet a tape: autograd's, or our own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def operation(forward: Callable, backward: Callable) -> Callable:
    """The function that computes ``forward`` and records ``backward`` for the way back.

    ``forward(*arguments)`` returns ``(output, saved)``: the result, and a tuple of what the gradient will need.
    ``backward(needed, grad, *saved)`` takes the gradient of the loss with respect to the output and returns one
    gradient for each argument of ``forward``, None for those that are no tensors or whose ``needed`` is False.
    The node on the tape bears the name of the formula: ``linear_forward`` gives ``linearBackward``.
    """

    def forward_on_tape(ctx, *arguments):
        output, saved = forward(*arguments)
        # Tensors go through save_for_backward, so that writing into one before the way back is an error, not a wrong
        # gradient; the rest (sizes, strides, flags) is kept as it is.
        tensors = [item for item in saved if isinstance(item, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.plain = None
        if len(tensors) < len(saved):
            ctx.plain = [None if isinstance(item, Tensor) else (item,) for item in saved]
        # A result that forward reshaped at the end is a view of its own work, which nobody else sees; autograd would
        # forbid the caller to change it in place. No forward may return a view of an argument.
        return output.detach() if output._is_view() else output

    def gradients(ctx, grad):
        saved = ctx.saved_tensors
        if ctx.plain is not None:
            tensors = iter(saved)
            saved = [next(tensors) if item is None else item[0] for item in ctx.plain]
        return backward(ctx.needs_input_grad, grad, *saved)

    marked = once_differentiable(gradients)  # costs as much as a small layer, so only where somebody may ask for more

    def backward_on_tape(ctx, grad):
        return marked(ctx, grad) if torch.is_grad_enabled() else gradients(ctx, grad)

    name = forward.__name__.removesuffix("_forward")
    members = {
        "__doc__": forward.__doc__,
        "__module__": forward.__module__,
        "forward": staticmethod(forward_on_tape),
        "backward": staticmethod(backward_on_tape),
    }
    node: Any = type(name, (torch.autograd.Function,), members)

    def call(*arguments):
        if Tape.running is not None:
            return Tape.running.record(forward, backward, arguments)
        # Without a tape (evaluation, prediction) the formula alone is enough, and quicker.
        return node.apply(*arguments) if torch.is_grad_enabled() else forward(*arguments)[0]

    call.__name__ = call.__qualname__ = name
    call.__doc__ = forward.__doc__
    return call


class Tape:
    """Reverse-mode differentiation by hand: what was computed, in order, to be walked backwards.

        with Tape(parameters) as tape:
            loss = ...
        gradients = tape.gradients(loss)

    While it runs, each operation notes its backward formula and what that needs, if it depends on one of the given
    tensors; autograd is off. The way back goes through the notes from the last to the first: the gradient of an output
    becomes those of its arguments, and a tensor that was used in several places gets their sum (Griewank & Walther,
    Evaluating Derivatives, 2008, section 3.2). For a small network this takes a fraction of the time that autograd and
    Python need to call each other.

    It sees our own operations alone: torch's arithmetic between them (``x + y``, a view) would cut the way back.
    ``gradients`` raises KeyError for a tensor that the loss cannot be traced back to.
    """

    running: "Tape | None" = None

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self.followed = {id(tensor) for tensor in self.tensors}
        self.notes: list[tuple[Callable, list[bool], Tensor, tuple, tuple]] = []

    def __enter__(self) -> "Tape":
        self.autograd = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        self.before, Tape.running = Tape.running, self
        return self

    def __exit__(self, *error: object) -> None:
        Tape.running = self.before
        torch.set_grad_enabled(self.autograd)

    def record(self, forward: Callable, backward: Callable, arguments: tuple) -> Tensor:
        """The output of ``forward``, with a note of the way back if there is one."""
        output, saved = forward(*arguments)
        needed = [id(argument) in self.followed for argument in arguments]
        if any(needed):
            self.followed.add(id(output))
            self.notes.append((backward, needed, output, arguments, saved))  # which also keeps the identities alive
        return output

    def gradients(self, loss: Tensor, scale: float = 1.0) -> list[Tensor]:
        """∂(scale · loss)/∂t for each of the tensors that the tape was given, in their order."""
        with torch.no_grad():
            found = {id(loss): torch.full_like(loss, scale)}
            while self.notes:  # each is gone when it was used, and its memory free for the next
                backward, needed, output, arguments, saved = self.notes.pop()
                grad = found.pop(id(output), None)
                if grad is None:  # the loss does not depend on it
                    continue
                for argument, needs, share in zip(arguments, needed, backward(needed, grad, *saved), strict=True):
                    if needs:
                        before = found.get(id(argument))
                        found[id(argument)] = share if before is None else before + share
            return [found[id(tensor)] for tensor in self.tensors]
