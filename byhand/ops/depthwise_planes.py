"""Depthwise convolution that keeps the width: the way for images that lie one after the other, (B, C, H, W).

Each channel of each image is a plane, H rows of W numbers that follow one another. What place (u, v) of the kernel sees
from all outputs is the plane moved by some columns and some rows. Moved by columns it is a copy, with zeros for what
would come round from the row before or after; moved by rows it is a view of that copy, which so serves all u:

    y += w[u, v] · (x moved by v and u),   ∂L/∂x += w[u, v] · (g moved back by v and u),
    ∂L/∂w[u, v] = Σ (g moved back by v) · (x moved by u),

the last for a row of the kernel in one matrix product a plane: x moved by u, times g moved back by each v.

As many planes go through at once as stay in the processor's cache, of whatever channels and images they are.

Equal to the way of ``byhand.ops.depthwise`` up to rounding; where a weight's gradient is not finite, that way is taken.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from byhand.ops import depthwise
from byhand.ops.depthwise import Axis, Sides, axes
from byhand.ops.layout import sum_by_channel
from byhand.ops.room import rooms
from byhand.ops.tape import operation

BLOCK = 1 << 18  # pixels that go through at once, for each thread: 1 MB of float32, and some copies of them


class Run(NamedTuple):
    """A row of the kernel, and the run of each plane that it sees from a run of each output."""

    place: int  # of its first column, counted through the kernel
    output: int  # the first number
    pixel: int
    length: int


def worthwhile(weight: Tensor, stride: tuple[int, int], sides: Sides, dilation: tuple[int, int]) -> bool:
    """Whether it can be computed so: a stride of 1, and as many columns of output as of pixels."""
    widening = sides[0] + sides[1] - dilation[1] * (weight.shape[3] - 1)
    return tuple(stride) == (1, 1) and widening == 0


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i + u·d, j + v·d], x with zeros at its sides."""
    return _depthwise_planes(x, weight, bias, *axes(x, weight, stride, sides, dilation))


def depthwise_planes_forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis):
    y = x.new_empty(*x.shape[:2], rows.places, columns.places)
    factors, pixels, outputs = _factors(weight, len(x)), _planes(x), _planes(y)
    begin = x.new_zeros(len(pixels), 1) if bias is None else bias.expand(len(x), -1).reshape(-1, 1)
    moves, runs, _ = _moves_and_runs(rows, columns)
    for some, room in _blocks(pixels, 1):
        seen, spare = pixels[some], room[:, 0]
        moved = ((v, _move(seen, shift, columns.size, spare) if shift else seen) for v, shift in moves)
        _add_up(outputs[some], begin[some], moved, factors[:, some], runs)
    return y, (x, weight, rows, columns)


def depthwise_planes_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, rows: Axis, columns: Axis):
    if not any(needed[:2]):
        return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, rows, columns)
    factors, pixels, gradients = _factors(weight, len(x)), _planes(x), _planes(grad)
    moves, runs, back = _moves_and_runs(rows, columns)
    d_x = x.new_empty(x.shape) if needed[0] else None
    # of each plane alone: those of a channel are added up at the end
    d_factors = x.new_zeros(len(pixels), len(factors)) if needed[1] else None
    for some, room in _blocks(gradients, len(moves)):
        by_move = [(v, _move(gradients[some], -shift, columns.size, room[:, k])) for k, (v, shift) in enumerate(moves)]
        if d_x is not None:
            _add_up(_planes(d_x)[some], x.new_zeros(()), by_move, factors[:, some], back)
        if d_factors is not None:
            made = x.new_empty(len(room), 1, len(moves))  # in its own precision, whatever autocast
            for run in runs:
                seen = pixels[some, None, run.pixel : run.pixel + run.length]
                torch.bmm(seen, room.narrow(2, run.output, run.length).mT, out=made)
                d_factors[some].narrow(1, run.place + moves[0][0], len(moves)).copy_(made[:, 0])
    d_weight = None if d_factors is None else d_factors.view(len(x), *weight.shape).sum(0)
    if d_weight is not None and not math.isfinite(d_weight.sum()):
        return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, rows, columns)
    return d_x, d_weight, sum_by_channel(grad) if needed[2] else None, None, None


_depthwise_planes = operation(depthwise_planes_forward, depthwise_planes_backward)


def _planes(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B · C, H · W)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2] * x.shape[3])


def _factors(weight: Tensor, images: int) -> Tensor:
    """The weight (C, 1, kH, kW) by places, again for each image: (kH · kW, B · C, 1)."""
    by_place = weight.flatten(1).t()
    return by_place[:, None].expand(-1, images, -1).reshape(len(by_place), -1, 1)


def _blocks(planes: Tensor, copies: int) -> Iterator[tuple[slice, Tensor]]:
    """A few of the planes after the other, each time with room for copies of them, (planes, copies, numbers)."""
    step = max(BLOCK * torch.get_num_threads() // max(planes.shape[1], 1), 1)
    (room,) = rooms(planes, (min(step, len(planes)), copies, planes.shape[1]))
    for start in range(0, len(planes), step):
        some = slice(start, min(start + step, len(planes)))
        yield some, room[: some.stop - start]


def _move(planes: Tensor, shift: int, width: int, room: Tensor) -> Tensor:
    """What each pixel has ``shift`` columns to its right, zero beyond the row, written into ``room``."""
    along, by_row = planes.shape[1] - abs(shift), room.view(len(room), -1, width)
    if shift >= 0:
        room.narrow(1, 0, along).copy_(planes.narrow(1, shift, along))
        by_row.narrow(2, width - shift, shift).zero_()
    else:
        room.narrow(1, -shift, along).copy_(planes.narrow(1, 0, along))
        by_row.narrow(2, 0, -shift).zero_()
    return room


def _add_up(out: Tensor, begin: Tensor, moved: Iterable[tuple[int, Tensor]], factors: Tensor, runs: Sequence[Run]):
    """Write begin + Σ w[u, v] · (planes moved by v and u) into ``out``, of the planes moved by each v."""
    each, parts = factors.unbind(), [out.narrow(1, run.output, run.length) for run in runs]
    fresh = bool(runs) and runs[0].length == out.shape[1]  # then the first term writes all of it
    if not fresh:
        out.copy_(begin)
    for v, planes in moved:
        for run, part in zip(runs, parts, strict=True):
            seen, factor = planes.narrow(1, run.pixel, run.length), each[run.place + v]
            if fresh:
                torch.addcmul(begin, seen, factor, out=out)
            else:
                part.addcmul_(seen, factor)
            fresh = False


@lru_cache(maxsize=64)
def _moves_and_runs(rows: Axis, columns: Axis) -> tuple[tuple[tuple[int, int], ...], tuple[Run, ...], tuple[Run, ...]]:
    """The columns of the kernel that see any pixels and by how many columns each moves the planes, and the runs.

    The runs once as the outputs see the pixels, and once turned over; the longest first, none if no column sees any.
    """
    seeing = [v for v in range(columns.kernel) if columns.moved(v, 0, columns.places) is not None]
    runs = []
    for u in range(rows.kernel):
        moved = rows.moved(u, 0, rows.places)
        if moved is not None and seeing:
            outputs, seen = moved
            length = (outputs.stop - outputs.start) * columns.size
            runs.append(Run(u * columns.kernel, outputs.start * columns.size, seen.start * columns.size, length))
    runs.sort(key=lambda run: -run.length)
    return (
        tuple((v, v * columns.dilation - columns.before) for v in seeing),
        tuple(runs),
        tuple(run._replace(output=run.pixel, pixel=run.output) for run in runs),
    )
