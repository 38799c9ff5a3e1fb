"""Convolution by columns: the way for few images or channels, for strides, and for groups.

The window that each output sees becomes a column, so that the whole sum is one matrix product:

    Y = W · columns,     ∂L/∂W = G · columnsᵀ,     ∂L/∂columns = Wᵀ · G,

and what a column gets is added where it was cut. The columns hold each pixel kH · kW times. If they are not many they
are kept for the way back; else those of a few images are there at once, and are cut again.

Source: Chellapilla, Puri and Simard, High Performance Convolutional Neural Networks for Document Processing (2006).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from byhand.ops.depthwise import Sides
from byhand.ops.layout import FEW, is_batch_innermost, sum_by_channel
from byhand.ops.precision import is_wide, wide
from byhand.ops.room import rooms, step_of
from byhand.ops.shifts import WIDE
from byhand.ops.tape import operation

KEPT = 3 << 20  # numbers in all columns up to which they are kept: 12 MB of float32
BLOCK = 1 << 18  # numbers in the columns that are there at once otherwise, 1 MB, to stay in the processor's cache
SMALL = 1 << 19  # numbers in all columns up to which they are sooner than shifts or strips
LARGE = 100  # pixels of an image from which on they are sooner than strips where a stride leaves some out


def worthwhile(x: Tensor, weight: Tensor, stride: tuple[int, int], groups: int) -> bool:
    """Whether columns compute it soonest: images one after the other, of few channels, small, or with a stride."""
    O, C, kH, kW = weight.shape
    if groups != 1 or kH * kW == 1 or is_batch_innermost(x) or not is_wide(x):
        return False
    numbers = x.numel() * kH * kW // math.prod(stride)
    many = min(O, C) >= WIDE and (numbers <= SMALL or (stride != (1, 1) and x[0, 0].numel() >= LARGE))
    return C <= FEW or many


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation, groups: int = 1) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _conv2d(x, weight, bias, stride, sides, dilation, groups)


def conv2d_forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation, groups: int):
    held = _padded(x, sides)  # for the way back: the columns, or what they are cut from
    seen = windows(held, (weight.shape[2], weight.shape[3]), stride, dilation)
    kept = seen.is_contiguous() or seen.numel() <= KEPT
    if kept:
        held = seen = seen.contiguous()
    y = x.new_empty(len(x), len(weight), *seen.shape[4:])
    for some, columns in _blocks(seen, kept, groups):
        out = y[some].view(len(columns), len(weight) // groups, columns.shape[2])
        torch.bmm(_matrices(weight, groups, len(out)), columns, out=out)
    if bias is not None:
        y += bias[:, None, None]
    return y, (held, kept, weight, x.shape, stride, sides, dilation, groups)


def conv2d_backward(
    needed, grad: Tensor, held: Tensor, kept: bool, weight: Tensor, shape, stride, sides: Sides, dilation, groups: int
):
    (B, C, H, W), (left, right, top, bottom) = shape, sides
    size, grad = (top + H + bottom, left + W + right), grad.contiguous()
    seen = held if kept else windows(held, (weight.shape[2], weight.shape[3]), stride, dilation)
    alone = seen.shape[2:] == (1, 1, *size)  # each pixel is a column
    d_padded = (grad.new_empty if alone else grad.new_zeros)(B, C, *size) if needed[0] else None
    exact = wide(grad)  # for what blocks give, added up
    d_weight = grad.new_zeros(groups, len(weight) // groups, weight[0].numel(), dtype=exact) if needed[1] else None
    for some, columns in _blocks(seen, kept, groups):
        g = grad[some].view(len(columns), len(weight) // groups, columns.shape[2])
        if d_weight is not None:
            d_weight += torch.bmm(g, columns.mT).unflatten(0, (-1, groups)).sum(0, dtype=exact)
        if d_padded is not None:
            if alone:
                d_columns = d_padded[some].view(columns.shape)
            else:
                d_columns = rooms(columns, columns.shape)[0] if kept else columns
            torch.bmm(_matrices(weight, groups, len(g)).mT, g, out=d_columns)
            if not alone:
                fold(d_columns.view(seen[some].shape), d_padded[some], stride, dilation)
    return (
        None if d_padded is None else d_padded[:, :, top : top + H, left : left + W],
        None if d_weight is None else d_weight.view(weight.shape).to(weight.dtype),
        sum_by_channel(grad) if needed[2] else None,
        None,
        None,
        None,
        None,
    )


_conv2d = operation(conv2d_forward, conv2d_backward)


def _padded(x: Tensor, sides: Sides) -> Tensor:
    """The images one after the other, with zeros at their sides."""
    if sides == (0, 0, 0, 0):
        return x
    (B, C, H, W), (left, right, top, bottom) = x.shape, sides
    padded = x.new_zeros(B, C, top + H + bottom, left + W + right)
    padded[:, :, top : top + H, left : left + W] = x
    return padded


def windows(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """The pixels under the kernel at each place, a view by strides: (B, C, H, W) -> (B, C, kH, kW, H', W')."""
    B, C, H, W = x.shape
    b, c, h, w = x.stride()
    (kH, kW), (sH, sW), (dH, dW) = kernel, stride, dilation
    places = (H - dH * (kH - 1) - 1) // sH + 1, (W - dW * (kW - 1) - 1) // sW + 1
    return x.as_strided((B, C, kH, kW, *places), (b, c, dH * h, dW * w, sH * h, sW * w), x.storage_offset())


def fold(seen: Tensor, out: Tensor, stride: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """Add what each of the windows (B, C, kH, kW, H', W') holds to where it was cut from ``out`` (B, C, H, W)."""
    kH, kW, H, W = seen.shape[2:]
    (sH, sW), (dH, dW) = stride, dilation
    for u in range(kH):
        rows = slice(u * dH, u * dH + sH * H, sH)
        for v in range(kW):
            out[:, :, rows, v * dW : v * dW + sW * W : sW] += seen[:, :, u, v]
    return out


def _blocks(seen: Tensor, kept: bool, groups: int) -> Iterator[tuple[slice, Tensor]]:
    """Columns of some images after the other, one matrix a group: (b · groups, C/groups kH kW, H' W').

    All at once if they are kept; else in memory that serves all of them, and may be written to.
    """
    B, C, kH, kW, H, W = seen.shape
    matrix = C // groups * kH * kW, H * W
    if kept:
        yield slice(0, B), seen.view(B * groups, *matrix)
        return
    step = step_of(B, C * kH * kW * H * W, BLOCK) if seen.device.type == "cpu" else B
    (memory,) = rooms(seen, (step, *seen.shape[1:]))
    for start in range(0, B, step):
        some = slice(start, min(start + step, B))
        yield some, memory[: some.stop - start].copy_(seen[some]).view(-1, *matrix)


def _matrices(weight: Tensor, groups: int, products: int) -> Tensor:
    """The weight as one matrix a group, for so many products: (products, O/groups, C/groups kH kW)."""
    by_group = weight.reshape(groups, len(weight) // groups, -1)
    return by_group.expand(products // groups, -1, -1, -1).flatten(0, 1)
