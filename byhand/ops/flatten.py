"""From maps to vectors."""

import torch
from torch import Tensor

from byhand.ops.tape import Tape, operation


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from ``start_dim`` to ``end_dim`` as one, (B, C, H, W) -> (B, C·H·W) with start_dim=1.

    The gradient is the same numbers in the shape that came in. As in torch the result shares its memory with an input
    that lies in order; only another one is copied.
    """
    first, last = start_dim % max(input.ndim, 1), end_dim % max(input.ndim, 1)
    if not (-input.ndim <= start_dim < input.ndim and -input.ndim <= end_dim < input.ndim and first <= last):
        shape = torch.empty(input.shape, device="meta").flatten(start_dim, end_dim).shape  # torch's errors, its numbers
    else:
        shape = torch.Size((*input.shape[:first], input.shape[first : last + 1].numel(), *input.shape[last + 1 :]))
    if input.is_contiguous() and Tape.running is None:
        return input.view(shape)
    return _flatten(input, shape)


def flatten_forward(x: Tensor, shape: torch.Size):
    return x.contiguous().view(shape), (x.shape,)


def flatten_backward(needed, grad: Tensor, shape: torch.Size):
    return grad.reshape(shape), None


_flatten = operation(flatten_forward, flatten_backward)
