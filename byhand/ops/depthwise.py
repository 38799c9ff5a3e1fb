"""Depthwise convolution: each channel has kernels of its own, so that there is nothing to add up between channels.

Without that sum there is no matrix product, and to cut windows would only copy. What is left is kH · kW times the whole
image, moved by one place of the kernel and multiplied by one number a channel:

    y      += w[u, v] · (x moved by u, v),
    ∂L/∂x moved by u, v += w[u, v] · g,
    ∂L/∂w[u, v] = Σ g · (x moved by u, v) over images and pixels.

An image moved is a view, and padding is written nowhere: a moved image ends at the border, as zeros would add nothing.
With the batch innermost in memory (``byhand.ops.layout``) the pixels of a row stand side by side, and so do those that
a row of the output sees, whatever the place and dilation: long runs of neighbours for every multiply-add.

A few rows of the output go through all places of the kernel while they are in the processor's cache.

Images that lie one after the other in memory go other ways: small ones of few channels and many tiny ones that of
``byhand.ops.depthwise_matrix``, the rest that of ``depthwise_planes``.

Source: Howard et al., MobileNets (2017), section 3.1; Sandler et al., MobileNetV2 (2018), section 3.1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from byhand.ops.layout import full_like, is_batch_innermost, preferred, sum_by_channel
from byhand.ops.precision import is_wide, wide
from byhand.ops.room import is_followed
from byhand.ops.tape import operation

Sides = tuple[int, int, int, int]  # zeros at the left, right, top and bottom

BLOCK = 1 << 20  # numbers of the output that go through at once: 4 MB of float32


@dataclass(frozen=True)
class Axis:
    """One axis of the convolution: ``size`` pixels of the image, ``before`` and ``after`` of padding, a kernel."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def places(self) -> int:
        """Outputs along this axis."""
        covered = self.dilation * (self.kernel - 1) + 1
        return (self.size + self.before + self.after - covered) // self.stride + 1

    def moved(self, u: int, first: int, last: int) -> tuple[slice, slice] | None:
        """Which of the outputs first..last−1 see a pixel at place u, counted from the first, and which pixels they see.

        None where they all see padding.
        """
        offset = u * self.dilation - self.before
        start = max(first, -(offset // self.stride))
        stop = min(last, (self.size - 1 - offset) // self.stride + 1)
        if stop <= start:
            return None
        pixel = start * self.stride + offset
        seen = slice(pixel, pixel + (stop - start - 1) * self.stride + 1, self.stride)
        return slice(start - first, stop - first), seen


def axes(x: Tensor, weight: Tensor, stride, sides: Sides, dilation) -> tuple[Axis, Axis]:
    """The rows and the columns of a convolution of ``x`` by ``weight``."""
    left, right, top, bottom = sides
    rows = Axis(x.shape[2], weight.shape[2], stride[0], dilation[0], top, bottom)
    return rows, Axis(x.shape[3], weight.shape[3], stride[1], dilation[1], left, right)


def one_after_another(x: Tensor, weight: Tensor) -> bool:
    """Whether images lie one after the other on a CPU, with one finite kernel a channel: then there are sooner ways.

    They multiply zeros, of padding or of matrices, which a weight that is infinite would turn into NaN.
    """
    if is_followed():
        return False
    fits = is_wide(x) and x.device.type == "cpu" and len(weight) == x.shape[1] and not is_batch_innermost(x)
    return fits and math.isfinite(weight.detach().sum())


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis) -> Tensor:
    """y[b, c·m + k, i, j] = bias[c·m + k] + Σ_{u, v} w[c·m + k, 0, u, v] x[b, c, i·s + u·d, j·s + v·d].

    x has zeros at its sides. (B, C, H, W) and (C·m, 1, kH, kW) -> (B, C·m, H', W'); m is the channel multiplier.
    """
    return _depthwise_conv2d(x, weight, bias, rows, columns)


def depthwise_conv2d_forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis):
    x = preferred(x)
    exact, C = x.to(wide(x)), x.shape[1]
    y = _empty(exact, len(weight), rows.places, columns.places)
    pixels, outputs, kernel = _by_channel(exact, C), _by_channel(y, C), _kernel(weight, exact)
    for first, last in _blocks(outputs):
        block = outputs[first:last]
        if bias is None:
            block.zero_()
        else:
            block.copy_(bias.view(C, -1, 1))
        for u, v, out, seen in _moved(rows, columns, first, last):
            block[out].addcmul_(pixels[seen], kernel[u, v])
    return y.to(x.dtype), (x, weight, rows, columns)


def depthwise_conv2d_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, rows: Axis, columns: Axis):
    C, exact = x.shape[1], x.to(wide(x))
    pixels, kernel = _by_channel(exact, C), _kernel(weight, exact)
    g = _by_channel(preferred(grad).to(wide(grad)), C)
    d_input = full_like(exact, x.shape, 0) if needed[0] else None
    d_pixels = None if d_input is None else _by_channel(d_input, C)[:, :, :, 0]
    # One number for each example, added up at the end: sums over pixels go along the memory, and over examples not.
    d_kernel = exact.new_zeros(*kernel.shape[:4], len(x)) if needed[1] else None
    blocks = _blocks(g)
    room = exact.new_empty(g[slice(*blocks[0])].numel() if needed[1] else 0)
    for first, last in blocks:
        block = g[first:last]
        for u, v, out, seen in _moved(rows, columns, first, last):
            part = block[out]
            if d_kernel is not None:
                d_kernel[u, v].add_(_sum_of_products(part, pixels[seen], room))
            if d_pixels is not None:
                for k in range(part.shape[3]):
                    d_pixels[seen].addcmul_(part[:, :, :, k], kernel[u, v, :, k])
    return (
        None if d_input is None else d_input.to(x.dtype),
        None if d_kernel is None else d_kernel.sum(4).permute(2, 3, 0, 1).reshape(weight.shape).to(weight.dtype),
        sum_by_channel(grad) if needed[2] else None,
        None,
        None,
    )


_depthwise_conv2d = operation(depthwise_conv2d_forward, depthwise_conv2d_backward)


def _moved(rows: Axis, columns: Axis, first: int, last: int) -> Iterator[tuple[int, int, tuple, tuple]]:
    """For each place u, v of the kernel the outputs of rows first..last−1 that see a pixel there, and those pixels."""
    across = [columns.moved(v, 0, columns.places) for v in range(columns.kernel)]
    for u in range(rows.kernel):
        down = rows.moved(u, first, last)
        for v, right in enumerate(across):
            if down is not None and right is not None:
                yield u, v, (down[0], right[0]), (down[1], right[1])


def _sum_of_products(a: Tensor, b: Tensor, room: Tensor) -> Tensor:
    """Σ a · b over the pixels, (h, w, C, m, B) -> (C, m, B), by way of ``room`` for that many numbers."""
    h, w, C, m, B = a.shape
    # The products lie there without gaps: a sum over rows with something left out at their ends takes twenty times as
    # long, and one of all rows is soonest as a matrix product.
    if a.stride(4) == 1:
        products = room[: a.numel()].view(a.shape)
        torch.mul(a, b, out=products)
        return (room.new_full((1, h * w), 1.0) @ products.view(h * w, -1)).view(C, m, B)
    products = room[: a.numel()].view(B, C, m, h, w)
    torch.mul(a, b, out=products.permute(3, 4, 1, 2, 0))
    return products.view(B, C, m, h * w).sum(3).permute(1, 2, 0)


def _by_channel(x: Tensor, channels: int) -> Tensor:
    """A view of the pixels first, (B, C·m, H, W) -> (H, W, C, m, B), whatever the order in memory."""
    B, O, H, W = x.shape
    return x.permute(2, 3, 1, 0).view(H, W, channels, O // channels, B)


def _kernel(weight: Tensor, x: Tensor) -> Tensor:
    """The weight (C·m, 1, kH, kW) by places, (kH, kW, C, m, 1), or repeated for each of the B examples of ``x``."""
    O, _, kH, kW = weight.shape
    C = x.shape[1]
    kernel = weight.to(wide(weight)).reshape(C, O // C, kH, kW).permute(2, 3, 0, 1)[..., None]
    if not is_batch_innermost(x):
        return kernel
    # Repeated, a row of pixels and its factors are both one run of memory; else runs would end with each channel.
    return kernel.expand(kH, kW, C, O // C, len(x)).contiguous()


def _empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Room for (B, channels, height, width), laid out as ``x`` is."""
    if is_batch_innermost(x):
        return x.new_empty(height, width, channels, len(x)).permute(3, 2, 0, 1)
    return x.new_empty(len(x), channels, height, width)


def _blocks(outputs: Tensor) -> list[tuple[int, int]]:
    """First row and the row after the last of each block of (H', W', C, m, B): as many as fit, all of them on a GPU."""
    height = len(outputs)
    step = max(BLOCK // max(outputs[0].numel(), 1), 1) if outputs.device.type == "cpu" else height
    return [(first, min(first + step, height)) for first in range(0, height, step)]
