"""Depthwise convolution that keeps the width: the way for images that lie one after the other, (B, C, H, W).

Each channel of each image is a plane, H rows of W numbers that follow one another. What place (u, v) of the kernel sees
from all outputs is the plane moved by some columns and some rows. Moved by columns it is a copy, with zeros for what
would come round from the row before or after; moved by rows it is a view of that copy, which so serves all u:

    y += w[u, v] · (x moved by v and u),   ∂L/∂x += w[u, v] · (g moved back by v and u),
    ∂L/∂w[u, v] = Σ (g moved back by v) · (x moved by u).

As many planes go through at once as stay in the processor's cache, of whatever channels and images they are.

Equal to the way of ``byhand.ops.depthwise`` up to rounding.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from byhand.ops.depthwise import Axis, Sides, axes, one_after_another
from byhand.ops.room import rooms
from byhand.ops.tape import operation

BLOCK = 1 << 16  # pixels that go through at once, for each thread: 256 KB of float32, and twice as much of what is made


class Tap(NamedTuple):
    """A place of the kernel, counted row by row, and the run of each plane that it sees from a run of each output."""

    place: int
    output: int  # the first number
    pixel: int
    length: int


def worthwhile(x: Tensor, weight: Tensor, stride: tuple[int, int], sides: Sides, dilation: tuple[int, int]) -> bool:
    """Whether it can be computed so: a stride of 1, and as many columns of output as of pixels."""
    widening = sides[0] + sides[1] - dilation[1] * (weight.shape[3] - 1)
    return one_after_another(x, weight) and tuple(stride) == (1, 1) and widening == 0


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i + u·d, j + v·d], x with zeros at its sides."""
    return _depthwise_planes(x, weight, bias, *axes(x, weight, stride, sides, dilation))


def depthwise_planes_forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis):
    y = x.new_empty(*x.shape[:2], rows.places, columns.places)
    factors, pixels, outputs = _factors(weight, len(x)), _planes(x), _planes(y)
    begun = None if bias is None else bias.repeat(len(x))[:, None]
    for some, room, _ in _blocks(pixels):
        out, each = outputs[some], factors[:, some].unbind()
        if begun is None:
            out.zero_()
        else:
            out.copy_(begun[some])
        for shift, taps in _taps(rows, columns):
            moved = _moved(pixels[some], shift, columns.size, room)
            for tap in taps:
                seen = moved.narrow(1, tap.pixel, tap.length)
                out.narrow(1, tap.output, tap.length).addcmul_(seen, each[tap.place])
    return y, (x, weight, rows, columns)


def depthwise_planes_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, rows: Axis, columns: Axis):
    factors, pixels, gradients, zero = _factors(weight, len(x)), _planes(x), _planes(grad), x.new_zeros(())
    d_x = x.new_empty(x.shape) if needed[0] else None
    # of each plane alone: those of a channel are added up at the end
    d_factors = factors.new_zeros(factors.shape[:2]) if needed[1] else None
    for some, room, product in _blocks(gradients):
        seen, each = pixels[some], factors[:, some].unbind()
        d_seen = None if d_x is None else _planes(d_x)[some].zero_()
        d_each = None if d_factors is None else d_factors[:, some].unbind()
        for shift, taps in _taps(rows, columns):
            moved = _moved(gradients[some], -shift, columns.size, room)
            for tap in taps:
                part = moved.narrow(1, tap.output, tap.length)
                if d_seen is not None:
                    d_seen.narrow(1, tap.pixel, tap.length).addcmul_(part, each[tap.place])
                if d_each is not None:
                    # 0 + part · pixels: the product alone would take half as long again
                    made = product.narrow(1, 0, tap.length)
                    torch.addcmul(zero, part, seen.narrow(1, tap.pixel, tap.length), out=made)
                    torch.sum(made, 1, out=d_each[tap.place])
    d_weight = None if d_factors is None else d_factors.view(len(factors), len(x), -1).sum(1).t().reshape(weight.shape)
    return d_x, d_weight, grad.sum((0, 2, 3)) if needed[2] else None, None, None


_depthwise_planes = operation(depthwise_planes_forward, depthwise_planes_backward)


def _planes(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B · C, H · W)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3])


def _factors(weight: Tensor, images: int) -> Tensor:
    """The weight (C, 1, kH, kW) by places, again for each image: (kH · kW, B · C, 1)."""
    return weight.flatten(1).t().repeat(1, images)[:, :, None]


def _blocks(planes: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """A few of the planes after the other, each time with room for as many twice, which is the same memory again."""
    step = max(BLOCK * torch.get_num_threads() // max(planes.shape[1], 1), 1)
    one, other = rooms(planes, planes[:step].shape, planes[:step].shape)
    for start in range(0, len(planes), step):
        some = slice(start, min(start + step, len(planes)))
        yield some, one[: some.stop - start], other[: some.stop - start]


def _moved(planes: Tensor, shift: int, width: int, room: Tensor) -> Tensor:
    """What each pixel has ``shift`` columns to its right, zero beyond the row, in ``room``; ``planes`` for none."""
    if shift == 0:
        return planes
    along = planes.shape[1] - abs(shift)
    by_row = room.view(len(room), -1, width)
    if shift > 0:
        room.narrow(1, 0, along).copy_(planes.narrow(1, shift, along))
        by_row[:, :, width - shift :].zero_()
    else:
        room.narrow(1, -shift, along).copy_(planes.narrow(1, 0, along))
        by_row[:, :, :-shift].zero_()
    return room


@lru_cache(maxsize=64)
def _taps(rows: Axis, columns: Axis) -> tuple[tuple[int, tuple[Tap, ...]], ...]:
    """For each column of the kernel by how many columns it moves the planes, and its places that see any pixels."""
    found = []
    for v in range(columns.kernel):
        taps = []
        for u in range(rows.kernel):
            moved = rows.moved(u, 0, rows.places)
            if moved is None or columns.moved(v, 0, columns.places) is None:  # all outputs see padding there
                continue
            outputs, seen = moved
            length = (outputs.stop - outputs.start) * columns.size
            place = u * columns.kernel + v
            taps.append(Tap(place, outputs.start * columns.size, seen.start * columns.size, length))
        if taps:
            found.append((v * columns.dilation - columns.before, tuple(taps)))
    return tuple(found)
