"""Depthwise convolution by shifts: for images that lie one after the other in memory, (B, C, H, W), a few at a time.

The images with their zeros are those of ``byhand.ops.shifts``. What a place of the kernel sees from all outputs of a
channel is one run of memory, so that each place costs one multiply-add along long runs:

    y += w[u, v] · (x shifted),   ∂L/∂x += w[u, v] · (g shifted back),   ∂L/∂w[u, v] = Σ g · (x shifted).

Equal to the way of ``byhand.ops.depthwise`` up to rounding; where a weight's gradient is not finite, that way is taken.
"""

import math

import torch
from torch import Tensor

from byhand.ops import depthwise
from byhand.ops.depthwise import Sides, axes
from byhand.ops.layout import ENOUGH, sum_by_channel
from byhand.ops.shifts import LARGE, Meeting, Shifts, add_gradients, shifts_of, sum_of_shifted
from byhand.ops.tape import operation

BLOCK = 3 << 16  # numbers of images and outputs that go through at once, for each thread: 768 KB of float32


def worthwhile(x: Tensor) -> bool:
    """Whether shifts compute it soonest, of images ``one_after_another``: of some size, or a few."""
    return len(x) < ENOUGH or x.shape[2:].numel() >= LARGE


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _depthwise_shifts(x, weight, bias, shifts_of(*axes(x, weight, stride, sides, dilation)))


def depthwise_shifts_forward(x: Tensor, weight: Tensor, bias: Tensor | None, shifts: Shifts):
    step = shifts.step(x, len(weight), BLOCK * torch.get_num_threads())
    return sum_of_shifted(x, _factors(weight), bias, shifts, step, _DEPTHWISE), (x, weight, shifts)


def depthwise_shifts_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, shifts: Shifts):
    step, factors = shifts.step(x, len(weight), BLOCK * torch.get_num_threads()), _factors(weight)
    d_x = x.new_empty(x.shape) if needed[0] else None
    d_factors = torch.zeros_like(factors) if needed[1] else None
    add_gradients(d_x, d_factors, grad, x, factors, shifts, step, _DEPTHWISE)
    if d_factors is not None and not math.isfinite(d_factors.sum()):  # zeros at the sides times infinity
        return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, shifts.rows, shifts.columns)[:4]
    return (
        d_x,
        d_factors.permute(2, 3, 0, 1).contiguous() if d_factors is not None else None,
        sum_by_channel(grad) if needed[2] else None,
        None,
    )


_depthwise_shifts = operation(depthwise_shifts_forward, depthwise_shifts_backward)


def _factors(weight: Tensor) -> Tensor:
    """The weight (C, 1, kH, kW) by places, (kH, kW, C, 1)."""
    return weight.permute(2, 3, 0, 1).contiguous()


def _multiple(factor: Tensor, pixels: Tensor, out: Tensor) -> None:
    """Write factor · pixels, (C, 1) · (b, C, N), into ``out``."""
    torch.mul(pixels, factor, out=out)


def _add_multiple(factor: Tensor, pixels: Tensor, out: Tensor) -> None:
    """Add factor · pixels to ``out``."""
    out.addcmul_(pixels, factor)


def _factor_gradient(outputs: Tensor, pixels: Tensor, memory: Tensor) -> Tensor:
    """Σ over images of outputs · pixels, both (b, C, N) -> (C, 1)."""
    # 0 + outputs · pixels: the product alone takes half as long again
    return torch.addcmul(outputs.new_zeros(()), outputs, pixels, out=memory).sum(2, keepdim=True).sum(0)


_DEPTHWISE = Meeting(_multiple, _add_multiple, _factor_gradient)
