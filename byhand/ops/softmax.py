"""Softmax and its logarithm, safe for logits of any size; Dive into Deep Learning, section 3.4."""

import torch
from torch import Tensor

from byhand.ops.tape import operation


def softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """pᵢ = e^(oᵢ) / Σⱼ e^(oⱼ) along ``dim``, same shape; with g = ∂L/∂p, ∂L/∂o = p (g − Σ g p).

    Without ``dim`` torch's old rule holds: axis 0 of tensors with 0, 1 or 3 axes, else axis 1.
    """
    return _softmax(input, _axis(input, dim))


def softmax_forward(o: Tensor, dim: int):
    e = torch.exp(below_zero(o, dim))
    p = e / e.sum(dim, keepdim=True)
    return p, (p, dim)


def softmax_backward(needed, grad: Tensor, p: Tensor, dim: int):
    return p * (grad - (grad * p).sum(dim, keepdim=True)), None


_softmax = operation(softmax_forward, softmax_backward)


def log_softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """log pᵢ = oᵢ − log Σⱼ e^(oⱼ) along ``dim``, same shape; with g = ∂L/∂(log p), ∂L/∂o = g − p Σ g.

    The logarithm is never taken of a p that has rounded to 0. ``dim`` as in ``softmax``.
    """
    return _log_softmax(input, _axis(input, dim))


def log_softmax_forward(o: Tensor, dim: int):
    o = below_zero(o, dim)
    log_p = o - torch.exp(o).sum(dim, keepdim=True).log()
    return log_p, (log_p, dim)


def log_softmax_backward(needed, grad: Tensor, log_p: Tensor, dim: int):
    return grad - torch.exp(log_p) * grad.sum(dim, keepdim=True), None


_log_softmax = operation(log_softmax_forward, log_softmax_backward)


def below_zero(o: Tensor, dim: int) -> Tensor:
    """The logits less the largest of them along ``dim``: p is unchanged, and no exp() overflows."""
    return o - o.amax(dim, keepdim=True) if o.numel() else o  # nothing has no largest


def _axis(input: Tensor, dim: int | None) -> int:
    if dim is not None:
        return dim
    return 0 if input.ndim in (0, 1, 3) else 1
