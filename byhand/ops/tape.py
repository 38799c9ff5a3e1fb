"""The one place where formulas by hand meet autograd's tape."""

from collections.abc import Callable
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
        ctx.save_for_backward(*[item for item in saved if isinstance(item, Tensor)])
        ctx.plain = [item for item in saved if not isinstance(item, Tensor)]
        ctx.order = [isinstance(item, Tensor) for item in saved]
        # A result that forward reshaped at the end is a view of its own work, which nobody else sees; autograd would
        # forbid the caller to change it in place. No forward may return a view of an argument.
        return output.detach() if output._is_view() else output

    def gradients(ctx, grad):
        tensors, plain = iter(ctx.saved_tensors), iter(ctx.plain)
        return backward(ctx.needs_input_grad, grad, *[next(tensors if item else plain) for item in ctx.order])

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
        # Without a tape (evaluation, prediction) the formula alone is enough, and quicker.
        return node.apply(*arguments) if torch.is_grad_enabled() else forward(*arguments)[0]

    call.__name__ = call.__qualname__ = name
    call.__doc__ = forward.__doc__
    return call
