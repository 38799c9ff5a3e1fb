"""Convolution by columns of the kernel: the way for many channels, where no window is copied at all.

An image lies in memory as (H, C, W, B): a strip for each row and channel, and in it the pixels of that row, each of a
whole batch. What column v of the kernel sees from all outputs of row i is then a matrix without a copy: its rows are
the kH · C strips below i, one after the other in memory, each begun v pixels later. So

    Y[i] = Σ_v W_v · X[i .. i + kH, :, v : v + W'],     (O, W' B) = Σ (O, kH C) (kH C, W' B),

a batch of products for each column v, with long rows and kH · C numbers to add up in each. The weight's gradient is
∂L/∂W_v = Σ_i G[i] X[i .. i + kH, :, v : v + W']ᵀ. That of the input is, for stride 1, itself a convolution: of the
gradient, with the kernel turned around and its channels exchanged; for other strides what each kernel row gives is
added where it was seen. A stride s across keeps strips of every s-th pixel, so that what a column sees stays in one
piece. A few rows at a time go through all products while they are in the processor's cache.

Equal to the way of ``byhand.ops.columns`` up to rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from byhand.ops.layout import ENOUGH, batch_innermost, sum_by_channel
from byhand.ops.rows import pixels_of
from byhand.ops.tape import operation

DEEP = 32  # numbers in a column of the kernel in all channels from which on it makes a product of its own
BLOCK = 3 << 17  # numbers of images and outputs that go through at once, 1.5 MB of float32, to stay in the cache

Sides = tuple[int, int, int, int]  # zeros at the left, right, top and bottom


@dataclass(frozen=True)
class Cut:
    """How a convolution of a weight of this shape takes images of H × W."""

    shape: torch.Size
    size: tuple[int, int]
    stride: tuple[int, int]
    sides: Sides
    dilation: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns with the zeros around them."""
        left, right, top, bottom = self.sides
        return self.size[0] + top + bottom, self.size[1] + left + right

    @property
    def places(self) -> tuple[int, int]:
        """H', W' of the output."""
        lengths = zip(self.padded, self.shape[2:], self.stride, self.dilation, strict=True)
        H, W = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in lengths)
        return H, W

    @property
    def depth(self) -> int:
        """Kernel rows in one product: all of them where they see neighbouring rows of the image."""
        return self.shape[2] if self.dilation[0] == 1 else 1

    @property
    def products(self) -> list[tuple[int, int]]:
        """First row and the column of the kernel of each product."""
        kH, kW = self.shape[2:]
        return [(u, v) for u in range(0, kH, self.depth) for v in range(kW)]

    def blocks(self, strips: Tensor) -> list[slice]:
        """The rows of the output that go through at once; a GPU has no use for blocks."""
        (H, W), step = self.places, self.places[0]
        if strips.device.type == "cpu":
            numbers = self.stride[0] * strips[0].numel() + W * self.shape[0] * strips.shape[-1]
            step = max(BLOCK // max(numbers, 1), 1)
        return [slice(first, min(first + step, H)) for first in range(0, H, step)]


def worthwhile(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether strips compute it soonest: a batch, and a kernel with many numbers in a column of more than one pixel."""
    _, C, kH, kW = weight.shape
    return groups == 1 and len(x) >= ENOUGH and kH * kW > 1 and kH * C >= DEEP


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _conv2d_strips(x, weight, bias, Cut(weight.shape, (x.shape[2], x.shape[3]), stride, sides, dilation))


def conv2d_strips_forward(x: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut):
    strips = strips_of(x, cut)
    return convolved(strips, weight, bias, cut), (strips, weight, cut)


def conv2d_strips_backward(needed, grad: Tensor, strips: Tensor, weight: Tensor, cut: Cut):
    grad = batch_innermost(grad)
    d_input = input_gradient(grad, weight, cut) if needed[0] else None
    d_weight = weight_gradient(grad, strips, cut) if needed[1] else None
    return d_input, d_weight, sum_by_channel(grad) if needed[2] else None, None


_conv2d_strips = operation(conv2d_strips_forward, conv2d_strips_backward)


def strips_of(x: Tensor, cut: Cut) -> Tensor:
    """Images (B, C, H, W) as strips with their zeros, (rows, C, s, pixels of every s-th column, B)."""
    pixels = pixels_of(x)
    H, _, C, B = pixels.shape
    left, _, top, _ = cut.sides
    step = cut.stride[1]
    rows, columns = cut.padded
    strips = x.new_zeros(rows, C, step, -(-columns // step), B)
    for phase in range(step):
        first = (phase - left) % step  # the first pixel of the image whose column is of this phase
        some = pixels[:, first::step].transpose(1, 2)
        start = (left + first) // step
        strips[top : top + H, :, phase, start : start + some.shape[2]] = some
    return strips


def seen(strips: Tensor, u: int, v: int, cut: Cut) -> Tensor:
    """What the kernel's rows u..u + depth − 1 see in column v, a view: (H', depth · C, W' · B)."""
    _, C, step, _, B = strips.shape
    row, strip, phase = strips.stride()[:3]
    H, W = cut.places
    offset, across = u * cut.dilation[0] * row, v * cut.dilation[1]
    return strips.as_strided(
        (H, cut.depth * C, W * B),
        (cut.stride[0] * row, strip, 1),
        strips.storage_offset() + offset + across % step * phase + across // step * B,
    )


def convolved(strips: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut) -> Tensor:
    """The output (B, O, H', W'), in memory (H', W', O, B)."""
    (H, W), O, B = cut.places, len(weight), strips.shape[-1]
    y, blocks = strips.new_empty(H, W, O, B), cut.blocks(strips)
    room = strips.new_empty(blocks[0].stop, O, W * B)
    kernels = weight.permute(2, 3, 0, 1)  # kH kW O C
    factors = [
        (kernels[u : u + cut.depth, v].transpose(0, 1).reshape(1, O, -1), seen(strips, u, v, cut))
        for u, v in cut.products
    ]
    for rows in blocks:
        out = y[rows]
        total = room[: len(out)]
        for number, (kernel, columns) in enumerate(factors):
            kernel = kernel.expand(len(out), -1, -1)
            if number == 0:
                torch.bmm(kernel, columns[rows], out=total)
            else:
                torch.baddbmm(total, kernel, columns[rows], out=total)
        if bias is not None:
            total += bias[:, None]
        out.copy_(total.view(-1, O, W, B).transpose(1, 2))
    return y.permute(3, 2, 0, 1)


def rows_of(pixels: Tensor) -> Tensor:
    """Pixels (H', W', O, B) row by row: (H', O, W' · B)."""
    return pixels.transpose(1, 2).contiguous().flatten(2)


def weight_gradient(grad: Tensor, strips: Tensor, cut: Cut) -> Tensor:
    """∂L/∂W (O, C, kH, kW)."""
    O, C, kH, kW = cut.shape
    pixels, d_weight = pixels_of(grad), grad.new_zeros(kH, kW, O, C)
    columns = [seen(strips, u, v, cut) for u, v in cut.products]
    for rows in cut.blocks(strips):
        g = rows_of(pixels[rows])
        for (u, v), some in zip(cut.products, columns, strict=True):
            product = torch.bmm(g, some[rows].mT).sum(0)
            d_weight[u : u + cut.depth, v] += product.view(O, cut.depth, C).transpose(0, 1)
    return d_weight.permute(2, 3, 0, 1)


def input_gradient(grad: Tensor, weight: Tensor, cut: Cut) -> Tensor:
    """∂L/∂X (B, C, H, W)."""
    left, right, top, bottom = cut.sides
    down, across = (d * (k - 1) for d, k in zip(cut.dilation, cut.shape[2:], strict=True))
    sides = across - left, across - right, down - top, down - bottom
    if cut.stride == (1, 1) and min(sides) >= 0:
        turned = weight.flip(2, 3).transpose(0, 1)
        back = Cut(turned.shape, cut.places, (1, 1), sides, cut.dilation)
        return convolved(strips_of(grad, back), turned, None, back)
    return scattered(rows_of(pixels_of(grad)), weight, cut)


def scattered(g: Tensor, weight: Tensor, cut: Cut) -> Tensor:
    """∂L/∂X from the rows of ∂L/∂Y for any stride: what each row of the kernel gives, added where it was seen."""
    O, C, kH, kW = cut.shape
    (H, W), B = cut.places, g.shape[2] // cut.places[1]
    (sH, sW), (dH, dW) = cut.stride, cut.dilation
    d_pixels = g.new_zeros(*cut.padded, C, B)
    for u in range(kH):
        kernel = weight[:, :, u].permute(2, 1, 0).reshape(1, kW * C, O).expand(H, -1, -1)
        given = torch.bmm(kernel, g).view(H, kW, C, W, B)
        rows = d_pixels[u * dH : u * dH + sH * (H - 1) + 1 : sH]
        for v in range(kW):
            rows[:, v * dW : v * dW + sW * (W - 1) + 1 : sW] += given[:, v].transpose(1, 2)
    left, _, top, _ = cut.sides
    return d_pixels[top : top + cut.size[0], left : left + cut.size[1]].permute(3, 2, 0, 1)
