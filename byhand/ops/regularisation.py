"""Regularisation: dropout and the penalty of weight decay; Dive into Deep Learning, sections 4.5 and 4.6."""

import torch
from torch import Tensor

from byhand.errors import SettingsError
from byhand.ops.layout import is_batch_innermost
from byhand.ops.tape import operation


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """x · m / (1 − p), where each element of m is 0 with probability p, else 1; in evaluation x itself.

    Inverted dropout: dividing while training keeps the mean, so evaluation needs no correction. The mask comes from
    torch's default generator by the draws that torch's own dropout makes: one seed, one mask in both hands.

    Raises SettingsError where p lies outside 0..1. Source: Srivastava et al. (2014), section 10.
    """
    if not 0 <= p <= 1:
        raise SettingsError(f"dropout probability has to be between 0 and 1, but got p={p}")
    if not training or p == 0:
        return input
    return _dropout(input, p)


def dropout_forward(x: Tensor, p: float):
    if p == 1:
        scale = torch.zeros_like(x)
    else:
        # Torch draws in the order of memory, and its images lie there one after the other; ours may not.
        ours = x.ndim == 4 and is_batch_innermost(x)
        scale = torch.empty_like(x, memory_format=torch.contiguous_format if ours else torch.preserve_format)
        scale.bernoulli_(1 - p).div_(1 - p)
    return x * scale, (scale,)


def dropout_backward(needed, grad: Tensor, scale: Tensor):
    return grad * scale, None


_dropout = operation(dropout_forward, dropout_backward)


def l2_penalty(weight: Tensor) -> Tensor:
    """½ ‖w‖², any shape; its gradient is w, which is why adding λ times it to the loss decays the weights by lr · λ."""
    return _l2_penalty(weight)


def l2_penalty_forward(w: Tensor):
    return (w * w).sum() / 2, (w,)


def l2_penalty_backward(needed, grad: Tensor, w: Tensor):
    return (grad * w,)


_l2_penalty = operation(l2_penalty_forward, l2_penalty_backward)
