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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from byhand.ops.depthwise import Axis, Sides, axes
from byhand.ops.layout import ENOUGH, is_batch_innermost, sum_by_channel
from byhand.ops.room import rooms
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

    @cached_property
    def images(self) -> "Frame":
        """For images, cut and with their zeros."""
        least, greatest, _, _ = self.reach
        cut = self.rows.stride, self.columns.stride
        return Frame(cut, -least, max(self.size[0], self.rows.places + greatest), self.pitch)

    @cached_property
    def gradients(self) -> "Frame":
        """For ∂L/∂Y, with the zeros that shifts back will see."""
        least, greatest, _, _ = self.reach
        return Frame((1, 1), max(greatest, 0), max(self.rows.places, self.size[0] - least), self.pitch)


@lru_cache(maxsize=64)
def shifts_of(rows: Axis, columns: Axis) -> Shifts:
    """The same shifts again for the same axes, with all that they once worked out."""
    return Shifts(rows, columns)


@dataclass(frozen=True)
class Frame:
    """How images (b, C, H, W), cut by ``stride``, lie in memory: with zeros above, below and behind their rows."""

    stride: tuple[int, int]
    above: int
    below: int
    pitch: int

    @property
    def top(self) -> int:
        """The row where pixels begin; at each end is one more than shifts ask for, where they may begin and end."""
        return self.above + 1

    def shape(self, images: int, channels: int) -> tuple[int, ...]:
        """Of the memory: (b, C, parts down, parts across, rows, pitch)."""
        return images, channels, *self.stride, self.top + self.below + 1, self.pitch

    def fill(self, memory: Tensor, x: Tensor) -> None:
        """Write the pixels of as many images as there are between the zeros that stand there."""
        sH, sW = self.stride
        for row in range(sH):
            for column in range(sW):
                some = x[:, :, row::sH, column::sW]
                memory[: len(x), :, row, column, self.top : self.top + some.shape[2], : some.shape[3]] = some

    def seen(self, memory: Tensor, cut: Place, shift: Place, rows: int) -> Tensor:
        """One of the cut images, so many rows of it shifted, a view: (b, C, rows · pitch)."""
        image, channel, row, column = memory.stride()[:4]
        start = cut[0] * row + cut[1] * column + (self.top + shift[0]) * self.pitch + shift[1]
        shape, strides = (*memory.shape[:2], rows * self.pitch), (image, channel, 1)
        return memory.as_strided(shape, strides, memory.storage_offset() + start)


def worthwhile(x: Tensor, weight: Tensor, stride: tuple[int, int], groups: int) -> bool:
    """Whether shifts compute it soonest: many channels, images of some size that lie one after the other in memory."""
    O, C, kH, kW = weight.shape
    if groups != 1 or kH * kW == 1 or min(O, C) < WIDE or stride != (1, 1):
        return False
    if torch.compiler.is_compiling():  # which does not follow pieces of one memory that see each other
        return False
    if x.dtype not in (torch.float32, torch.float64):  # half precision would round the sum at each place
        return False
    return len(x) < ENOUGH or (x[0, 0].numel() >= LARGE and not is_batch_innermost(x))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _conv2d_shifts(x, weight, bias, shifts_of(*axes(x, weight, stride, sides, dilation)))


def conv2d_shifts_forward(x: Tensor, weight: Tensor, bias: Tensor | None, shifts: Shifts):
    (O, C), H, W = weight.shape[:2], shifts.rows.places, shifts.columns.places
    step, kernels, frame = _step(x, weight, shifts), weight.permute(2, 3, 0, 1).flatten(0, 1), shifts.images
    y = x.new_empty(len(x), O, H, W)
    memory, sums = rooms(x, frame.shape(step, C), (step, O, H * shifts.pitch))
    memory.zero_()
    pairs = _pairs(kernels, [frame.seen(memory, *tap, H) for tap in shifts.taps.values()])
    for images, out in _blocks(step, x, y):
        frame.fill(memory, images)
        total = _sum_of_products(pairs, sums[: len(out)]).view(-1, O, H, shifts.pitch)[..., :W]
        if bias is None:
            out.copy_(total)
        else:
            torch.add(total, bias[:, None, None], out=out)
    return y, (x, weight, shifts)


def conv2d_shifts_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, shifts: Shifts):
    (O, C), H, step = weight.shape[:2], shifts.rows.places, _step(x, weight, shifts)
    d_x = x.new_empty(x.shape) if needed[0] else None
    d_kernels = x.new_zeros(len(shifts.taps), O, C) if needed[1] else None
    g, pixels, sums, products = rooms(
        x,
        shifts.gradients.shape(step, O),
        shifts.images.shape(step, C),
        (step, C, shifts.size[0] * shifts.pitch),
        (step, O, C),
    )
    g.zero_()
    if d_kernels is not None:
        pixels.zero_()
    ways_back = _ways_back(g, weight, shifts)
    outputs = shifts.gradients.seen(g, (0, 0), (0, 0), H)
    seen = [shifts.images.seen(pixels, *tap, H).mT for tap in shifts.taps.values()]
    for start in range(0, len(x), step):
        n = min(step, len(x) - start)
        some = slice(start, start + n)
        shifts.gradients.fill(g, grad[some])
        if d_x is not None:
            _write_input_gradient(d_x[some], ways_back, shifts, sums[:n])
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
    """Images that go through at once, all of them on a GPU; the blocks are of one size, as nearly as that goes."""
    rows, columns = shifts.rows, shifts.columns
    numbers = len(x) * (x.shape[1] * rows.size * columns.size + len(weight) * rows.places * columns.places)
    blocks = max(round(numbers / max(BLOCK, weight.numel())), 1) if x.device.type == "cpu" else 1
    return max(-(-len(x) // blocks), 1)


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


def _ways_back(g: Tensor, weight: Tensor, shifts: Shifts) -> dict[Place, list[tuple[Tensor, Tensor]]]:
    """For each of the cut images what its gradient is the sum of: matrices, and ∂L/∂Y shifted back, of ``g``."""
    ways: dict[Place, list[tuple[Tensor, Tensor]]] = {}
    turned = weight.permute(2, 3, 1, 0).flatten(0, 1)
    taps = shifts.taps.values()
    seen = [shifts.gradients.seen(g, (0, 0), (-down, -right), shifts.size[0]) for _, (down, right) in taps]
    for (cut, _), pair in zip(taps, _pairs(turned, seen), strict=True):
        ways.setdefault(cut, []).append(pair)
    return ways


def _write_input_gradient(out: Tensor, ways_back: dict, shifts: Shifts, sums: Tensor) -> None:
    """Write ∂L/∂X (b, C, H, W) of images by way of ``sums``."""
    rows, columns = shifts.rows.stride, shifts.columns.stride
    for row in range(rows):
        for column in range(columns):
            some = out[:, :, row::rows, column::columns]
            if (row, column) not in ways_back:  # no place of the kernel sees these pixels
                some.zero_()
                continue
            total = _sum_of_products(ways_back[row, column], sums).view(-1, out.shape[1], shifts.size[0], shifts.pitch)
            some.copy_(total[:, :, : some.shape[2], : some.shape[3]])


def _blocks(step: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors cut alike along the batch."""
    return zip(*(tensor.split(step) for tensor in tensors), strict=True)
