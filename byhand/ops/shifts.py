"""Convolution by shifts of the image: the way for images that lie one after the other, (B, C, H, W), a few at a time.

With zeros around it an image is C long rows of numbers, and what place (u, v) of the kernel sees from all outputs is
the same rows begun a little later: a view, no copy. So

    Y = Σ_{u, v} W_uv · X[:, shifted by u, v],     (O, H' P) = Σ (O, C) (C, H' P),

kH · kW products, added up where they land. P, the pitch, is the length of a row with the zeros that end it, which are
those that the next row begins with; the P − W' outputs that begin there mean nothing and are left out.

The gradients are the same products turned over: ∂L/∂W_uv = Σ G (X shifted)ᵀ, and for the pixels that a place saw
∂L/∂X = Σ W_uvᵀ · (G shifted back). All of it happens for as many images as stay in the processor's cache: the products
take half of the time that they take out of it.

Equal to the way of ``byhand.ops.columns`` up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from byhand.ops.depthwise import Axis, Sides, axes
from byhand.ops.layout import ENOUGH, is_batch_innermost, sum_by_channel
from byhand.ops.precision import is_wide
from byhand.ops.room import is_followed, rooms, step_of
from byhand.ops.tape import operation

WIDE = 12  # channels from which on the products of single places are worth while
LARGE = 64  # pixels of an image from which on that holds for a batch
BLOCK = 3 << 17  # numbers of images and outputs that go through at once: 1.5 MB of float32

Shift = tuple[int, int]  # by rows and columns


@dataclass(frozen=True)
class Shifts:
    """How a convolution along these two axes, with a stride of 1, is shifted."""

    rows: Axis
    columns: Axis

    @cached_property
    def taps(self) -> list[Shift]:
        """For each place of the kernel how far down and to the right it sees."""
        down, right = (
            [u * axis.dilation - axis.before for u in range(axis.kernel)] for axis in (self.rows, self.columns)
        )
        return [(i, j) for i in down for j in right]

    @cached_property
    def pitch(self) -> int:
        """From row to row: no shift reaches from the pixels of one row to those of another."""
        (_, least), (_, greatest) = self.taps[0], self.taps[-1]
        return max(self.columns.size - least, self.columns.places + max(greatest, 0))

    @cached_property
    def images(self) -> "Frame":
        """For images with their zeros."""
        (least, _), (greatest, _) = self.taps[0], self.taps[-1]
        return Frame(-least, max(self.rows.size, self.rows.places + greatest), self.pitch)

    @cached_property
    def gradients(self) -> "Frame":
        """For ∂L/∂Y, with the zeros that shifts back will see."""
        (least, _), (greatest, _) = self.taps[0], self.taps[-1]
        return Frame(max(greatest, 0), max(self.rows.places, self.rows.size - least), self.pitch)


@lru_cache(maxsize=64)
def shifts_of(rows: Axis, columns: Axis) -> Shifts:
    """The same shifts again for the same axes, with all that they once worked out."""
    return Shifts(rows, columns)


@dataclass(frozen=True)
class Frame:
    """How images (b, C, H, W) lie in memory: with zeros above, below and behind their rows."""

    above: int
    below: int
    pitch: int

    @property
    def top(self) -> int:
        """The row where pixels begin; at each end is one more than shifts ask for, where they may begin and end."""
        return self.above + 1

    def shape(self, images: int, channels: int) -> tuple[int, ...]:
        """Of the memory: (b, C, rows, pitch)."""
        return images, channels, self.top + self.below + 1, self.pitch

    def fill(self, memory: Tensor, x: Tensor) -> None:
        """Write the pixels of as many images as there are between the zeros that stand there."""
        memory[: len(x), :, self.top : self.top + x.shape[2], : x.shape[3]] = x

    def seen(self, memory: Tensor, shift: Shift, rows: int) -> Tensor:
        """So many rows of the images shifted, a view: (b, C, rows · pitch)."""
        start = (self.top + shift[0]) * self.pitch + shift[1]
        return memory.flatten(2).narrow(2, start, rows * self.pitch)


def worthwhile(x: Tensor, weight: Tensor, stride: tuple[int, int], groups: int) -> bool:
    """Whether shifts compute it soonest: many channels, images of some size that lie one after the other in memory."""
    O, C, kH, kW = weight.shape
    if groups != 1 or kH * kW == 1 or min(O, C) < WIDE or stride != (1, 1):
        return False
    if is_followed() or not is_wide(x):
        return False
    return len(x) < ENOUGH or (x[0, 0].numel() >= LARGE and not is_batch_innermost(x))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, sides: Sides, dilation) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i + u·d, j + v·d], x with zeros at its sides."""
    return _conv2d_shifts(x, weight, bias, shifts_of(*axes(x, weight, (1, 1), sides, dilation)))


def conv2d_shifts_forward(x: Tensor, weight: Tensor, bias: Tensor | None, shifts: Shifts):
    (O, C), H, W = weight.shape[:2], shifts.rows.places, shifts.columns.places
    step, kernels, frame = _step(x, weight, shifts), weight.permute(2, 3, 0, 1).flatten(0, 1), shifts.images
    y = x.new_empty(len(x), O, H, W)
    memory, sums = rooms(x, frame.shape(step, C), (step, O, H * shifts.pitch))
    memory.zero_()
    pairs = _pairs(kernels, [frame.seen(memory, shift, H) for shift in shifts.taps])
    for images, out in zip(x.split(step), y.split(step), strict=True):
        frame.fill(memory, images)
        total = _sum_of_products(pairs, sums[: len(out)]).view(-1, O, H, shifts.pitch)[..., :W]
        if bias is None:
            out.copy_(total)
        else:
            torch.add(total, bias[:, None, None], out=out)
    return y, (x, weight, shifts)


def conv2d_shifts_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, shifts: Shifts):
    (O, C), step = weight.shape[:2], _step(x, weight, shifts)
    H, W = x.shape[2:]
    d_x = x.new_empty(x.shape) if needed[0] else None
    d_kernels = x.new_zeros(len(shifts.taps), O, C) if needed[1] else None
    g, pixels, sums, products = rooms(
        x, shifts.gradients.shape(step, O), shifts.images.shape(step, C), (step, C, H * shifts.pitch), (step, O, C)
    )
    g.zero_()
    if d_kernels is not None:
        pixels.zero_()
    back = [shifts.gradients.seen(g, (-down, -right), H) for down, right in shifts.taps]
    pairs = _pairs(weight.permute(2, 3, 1, 0).flatten(0, 1), back)
    outputs = shifts.gradients.seen(g, (0, 0), shifts.rows.places)
    seen = [shifts.images.seen(pixels, shift, shifts.rows.places).mT for shift in shifts.taps]
    for start in range(0, len(x), step):
        n = min(step, len(x) - start)
        some = slice(start, start + n)
        shifts.gradients.fill(g, grad[some])
        if d_x is not None:
            d_x[some] = _sum_of_products(pairs, sums[:n]).view(-1, C, H, shifts.pitch)[..., :W]
        if d_kernels is not None:
            shifts.images.fill(pixels, x[some])
            for d_kernel, columns in zip(d_kernels.unbind(), seen, strict=True):
                d_kernel += torch.bmm(outputs[:n], columns[:n], out=products[:n]).sum(0)
    return (
        d_x,
        d_kernels.view(*weight.shape[2:], O, C).permute(2, 3, 0, 1).contiguous() if d_kernels is not None else None,
        sum_by_channel(grad) if needed[2] else None,
        None,
    )


_conv2d_shifts = operation(conv2d_shifts_forward, conv2d_shifts_backward)


def _step(x: Tensor, weight: Tensor, shifts: Shifts) -> int:
    """Images that go through at once, all of them on a GPU."""
    if x.device.type != "cpu":
        return max(len(x), 1)
    rows, columns = shifts.rows, shifts.columns
    numbers = x.shape[1] * rows.size * columns.size + len(weight) * rows.places * columns.places
    return step_of(len(x), numbers, max(BLOCK, weight.numel()))


def _pairs(kernels: Tensor, seen: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each of the matrices (places, O, C) for every image, and the pixels (b, C, N) that it is multiplied with."""
    matrices = kernels.contiguous()[:, None].expand(-1, len(seen[0]), -1, -1).unbind()
    return list(zip(matrices, seen, strict=True))


def _sum_of_products(pairs: Sequence[tuple[Tensor, Tensor]], out: Tensor) -> Tensor:
    """Write Σ kernel · pixels, (O, C) · (b, C, N), of the first images into ``out`` (b, O, N)."""
    n = len(out)
    for number, (kernels, pixels) in enumerate(pairs):
        if number:
            torch.baddbmm(out, kernels[:n], pixels[:n], out=out)
        else:
            torch.bmm(kernels[:n], pixels[:n], out=out)
    return out
