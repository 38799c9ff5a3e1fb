"""Convolution by shifts of the image: the way for images that lie one after the other, (B, C, H, W), a few at a time.

With zeros around it an image is C long rows of numbers, and what place (u, v) of the kernel sees from all outputs is
the same rows begun a little later: a view, no copy. So

    Y = Σ_{u, v} W_uv · X[:, shifted by u, v],     (O, H' P) = Σ (O, C) (C, H' P),

kH · kW products, added up where they land. P, the pitch, is the length of a row with the zeros that end it, which are
those that the next row begins with; the P − W' outputs that begin there mean nothing and are left out. A stride s cuts
the image into s · s images of every s-th pixel beforehand, and each place of the kernel sees one of them.

The gradients are the same products turned over: ∂L/∂W_uv = Σ G (X shifted)ᵀ, and for the pixels that a place saw
∂L/∂X = Σ W_uvᵀ · (G shifted back). All of it happens for as many images as stay in the processor's cache: the products
take half of the time that they take out of it.

Equal to the way of ``byhand.ops.convolution`` up to rounding.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from byhand.ops.depthwise import Axis, Sides, axes
from byhand.ops.layout import ENOUGH, is_batch_innermost, sum_by_channel
from byhand.ops.tape import operation

WIDE = 12  # channels from which on the products of single places are worth while
LARGE = 64  # pixels of an image from which on that holds for a batch
BLOCK = 3 << 17  # numbers of images and outputs that go through at once: 1.5 MB of float32

Place = tuple[int, int]  # row and column of the kernel


@dataclass(frozen=True)
class Shifts:
    """How a convolution along these two axes is shifted."""

    rows: Axis
    columns: Axis

    @cached_property
    def taps(self) -> dict[Place, tuple[Place, Place]]:
        """For each place of the kernel which of the cut images it sees, and by how many rows and columns shifted."""
        found = {}
        for u in range(self.rows.kernel):
            for v in range(self.columns.kernel):
                down, row = divmod(u * self.rows.dilation - self.rows.before, self.rows.stride)
                right, column = divmod(v * self.columns.dilation - self.columns.before, self.columns.stride)
                found[u, v] = (row, column), (down, right)
        return found

    @cached_property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the largest of the cut images."""
        return -(-self.rows.size // self.rows.stride), -(-self.columns.size // self.columns.stride)

    @cached_property
    def reach(self) -> tuple[int, int, int, int]:
        """Least and greatest shift down, least and greatest to the right."""
        down = [shift for _, (shift, _) in self.taps.values()]
        right = [shift for _, (_, shift) in self.taps.values()]
        return min(down), max(down), min(right), max(right)

    @cached_property
    def pitch(self) -> int:
        """From row to row: no shift reaches from the pixels of one row to those of another."""
        _, _, least, greatest = self.reach
        return max(self.size[1] - least, self.columns.places + max(greatest, 0))

    def images(self, x: Tensor) -> "Room":
        """Room for images of the shape of ``x`` (b, C, H, W), cut and with their zeros."""
        least, greatest, _, _ = self.reach
        cut = self.rows.stride, self.columns.stride
        return Room(x, cut, -least, max(self.size[0], self.rows.places + greatest), self.pitch)

    def gradients(self, g: Tensor) -> "Room":
        """Room for ∂L/∂Y of the shape of ``g`` (b, O, H', W'), with the zeros that shifts back will see."""
        least, greatest, _, _ = self.reach
        return Room(g, (1, 1), max(greatest, 0), max(self.rows.places, self.size[0] - least), self.pitch)


@lru_cache(maxsize=64)
def shifts_of(rows: Axis, columns: Axis) -> Shifts:
    """The same shifts again for the same axes, with all that they once worked out."""
    return Shifts(rows, columns)


class Room:
    """Memory for a few images with zeros above, below and behind their rows, cut by ``stride``, to be filled often."""

    def __init__(self, like: Tensor, stride: tuple[int, int], above: int, below: int, pitch: int) -> None:
        self.stride, self.pitch, self.top = stride, pitch, above + 1  # one row more at each end, where shifts begin
        self.memory = like.new_zeros(*like.shape[:2], *stride, self.top + below + 1, pitch)

    def fill(self, x: Tensor) -> "Room":
        """The room with the pixels of ``x`` (b, C, H, W), at most as many images as there is room for."""
        sH, sW = self.stride
        self.filled = self.memory[: len(x)]
        for row in range(sH):
            for column in range(sW):
                some = x[:, :, row::sH, column::sW]
                self.filled[:, :, row, column, self.top : self.top + some.shape[2], : some.shape[3]] = some
        return self

    def seen(self, cut: Place, shift: Place, rows: int) -> Tensor:
        """One of the cut images, so many rows of it shifted, a view: (b, C, rows · pitch)."""
        image, channel, row, column = self.filled.stride()[:4]
        start = cut[0] * row + cut[1] * column + (self.top + shift[0]) * self.pitch + shift[1]
        return self.filled.as_strided((*self.filled.shape[:2], rows * self.pitch), (image, channel, 1), start)


def worthwhile(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether shifts compute it soonest: many channels, images of some size that lie one after the other in memory."""
    O, C, kH, kW = weight.shape
    if groups != 1 or kH * kW == 1 or min(O, C) < WIDE:
        return False
    if x.dtype not in (torch.float32, torch.float64):  # half precision would round the sum at each place
        return False
    return len(x) < ENOUGH or (x[0, 0].numel() >= LARGE and not is_batch_innermost(x))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _conv2d_shifts(x, weight, bias, shifts_of(*axes(x, weight, stride, sides, dilation)))


def conv2d_shifts_forward(x: Tensor, weight: Tensor, bias: Tensor | None, shifts: Shifts):
    O, H, W = len(weight), shifts.rows.places, shifts.columns.places
    step, kernels = _step(x, weight, shifts), weight.permute(2, 3, 0, 1).flatten(0, 1).contiguous()
    y = x.new_empty(len(x), O, H, W)
    room, sums = shifts.images(x[:step]), y.new_empty(*y[:step].shape[:2], H * shifts.pitch)
    for images, out in _blocks(step, x, y):
        room.fill(images)
        pairs = zip(kernels, (room.seen(*tap, H) for tap in shifts.taps.values()), strict=True)
        total = _sum_of_products(pairs, sums[: len(out)]).view(len(out), O, H, -1)[..., :W]
        if bias is None:
            out.copy_(total)
        else:
            torch.add(total, bias[:, None, None], out=out)
    return y, (x, weight, shifts)


def conv2d_shifts_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, shifts: Shifts):
    H, step = shifts.rows.places, _step(x, weight, shifts)
    turned = weight.permute(2, 3, 1, 0).flatten(0, 1).contiguous()
    d_x = x.new_empty(x.shape) if needed[0] else None
    d_kernels = torch.zeros_like(turned.mT) if needed[1] else None
    gradients, room = shifts.gradients(grad[:step]), shifts.images(x[:step])
    sums = x.new_empty(*x[:step].shape[:2], shifts.size[0] * shifts.pitch)
    for start in range(0, len(x), step):
        some = slice(start, start + step)
        gradients.fill(grad[some])
        if d_x is not None:
            _write_input_gradient(d_x[some], gradients, turned, shifts, sums)
        if d_kernels is not None:
            room.fill(x[some])
            outputs = gradients.seen((0, 0), (0, 0), H)
            seen = (room.seen(*tap, H) for tap in shifts.taps.values())
            d_kernels += torch.stack([torch.bmm(outputs, pixels.mT).sum(0) for pixels in seen])
    return (
        d_x,
        d_kernels.view(*weight.shape[2:], *weight.shape[:2]).permute(2, 3, 0, 1).contiguous()
        if d_kernels is not None
        else None,
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
    return max(max(BLOCK, weight.numel()) // max(numbers, 1), 1)


def _sum_of_products(pairs: Iterable[tuple[Tensor, Tensor]], out: Tensor) -> Tensor:
    """Write Σ kernel · pixels, (O, C) · (b, C, N), into ``out`` (b, O, N)."""
    for number, (kernel, pixels) in enumerate(pairs):
        if number:
            torch.baddbmm(out, kernel.expand(len(pixels), -1, -1), pixels, out=out)
        else:
            torch.bmm(kernel.expand(len(pixels), -1, -1), pixels, out=out)
    return out


def _write_input_gradient(out: Tensor, gradients: Room, turned: Tensor, shifts: Shifts, sums: Tensor) -> None:
    """Write ∂L/∂X (b, C, H, W) of the images whose ∂L/∂Y the room holds into ``out``; ``turned`` place by place."""
    rows, columns = shifts.rows.stride, shifts.columns.stride
    for row in range(rows):
        for column in range(columns):
            some = out[:, :, row::rows, column::columns]
            pairs = [
                (kernel, gradients.seen((0, 0), (-down, -right), shifts.size[0]))
                for kernel, (cut, (down, right)) in zip(turned, shifts.taps.values(), strict=True)
                if cut == (row, column)
            ]
            if not pairs:  # no place of the kernel sees these pixels
                some.zero_()
                continue
            total = _sum_of_products(pairs, sums[: len(out)]).view(*out.shape[:2], -1, shifts.pitch)
            some.copy_(total[:, :, : some.shape[2], : some.shape[3]])


def _blocks(step: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors cut alike along the batch."""
    return zip(*(tensor.split(step) for tensor in tensors), strict=True)
