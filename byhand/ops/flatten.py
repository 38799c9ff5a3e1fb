"""From maps to vectors."""

import torch
from torch import Tensor

from byhand.ops.tape import operation


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from ``start_dim`` to ``end_dim`` as one, (B, C, H, W) -> (B, C·H·W) with start_dim=1.

    The gradient is the same numbers in the shape that came in.
    """
    return _flatten(input, start_dim, end_dim)


def flatten_forward(x: Tensor, start_dim: int, end_dim: int):
    y = torch.flatten(x, start_dim, end_dim)
    # autograd asks for a new tensor, not for its own argument, where there is nothing to flatten
    return y.view(y.shape) if y is x else y, (x.shape,)


def flatten_backward(needed, grad: Tensor, shape: torch.Size):
    return grad.reshape(shape), None, None


_flatten = operation(flatten_forward, flatten_backward)
