"""Depthwise convolution by planes: the way for images that lie one after the other, (B, C, H, W).

Each channel of each image is a plane, H rows of W numbers that follow one another. What place (u, v) of the kernel sees
from all outputs is the plane moved by some columns and some rows. Moved by columns it is a copy, with zeros for what
lies beside the row; moved by rows it is a view of that copy, which so serves all u:

    y += w[u, v] · (x moved by v and u),   ∂L/∂x += w[u, v] · (g moved back by v and u),
    ∂L/∂w[u, v] = Σ (g moved back by v) · (x moved by u),

the last, of large planes that are not cut, for a row of the kernel in one matrix product, of x moved by u and g moved
back by each v.

A stride s cuts a plane into s of every s-th column, each in s parts of every s-th row, and a place of the kernel sees
one part of one of them.

As many planes go through at once as stay in the processor's cache, of whatever channels and images they are.

Equal to the way of ``byhand.ops.depthwise`` up to rounding; where a weight's gradient is not finite, that way is taken.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from byhand.ops import depthwise
from byhand.ops.depthwise import Axis
from byhand.ops.depthwise_plan import Plan, plan_of
from byhand.ops.layout import sum_by_channel
from byhand.ops.room import rooms, step_of
from byhand.ops.tape import operation

BLOCK = 1 << 18  # pixels that go through at once, for each thread: 1 MB of float32, and some copies of them
KEPT = 1 << 20  # pixels of planes that are cut up to which they are cut once: more is memory anew, page by page
LARGE = 144  # pixels of a plane from which on a matrix product of a few rows is sooner than to multiply and add up each


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _depthwise_planes(x, weight, bias, plan_of(rows, columns))


def depthwise_planes_forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan):
    y = x.new_empty(*x.shape[:2], plan.rows.places, plan.columns.places)
    factors, pixels, outputs = _factors(weight, len(x)), _planes(x), _planes(y)
    biases = None if bias is None else bias.expand(len(x), -1).reshape(-1, 1, 1)
    # What a few planes are cut into is kept for the way back.
    keep = not plan.uncut and pixels.numel() <= KEPT and _step(pixels, plan) >= len(pixels)
    kept = x.new_empty(plan.room(len(pixels))) if keep else None
    for some, room, spare, _ in _blocks(pixels, plan):
        out = outputs[some]
        cut = _cut(pixels[some], plan, room if kept is None else kept)
        _add_up(out, _terms(out, cut, _factors_of(factors, some), plan, spare))
        if biases is not None:
            out.add_(biases[some])
    return y, (x, weight, factors, kept, plan)


def depthwise_planes_backward(
    needed, grad: Tensor, x: Tensor, weight: Tensor, factors: Tensor, kept: Tensor | None, plan: Plan
):
    if not any(needed[:2]):
        return None, None, sum_by_channel(grad), None
    pixels, gradients = _planes(x), _planes(grad)
    at_once = needed[1] and plan.uncut and bool(plan.moves) and pixels.shape[1:].numel() >= LARGE
    d_x = x.new_empty(x.shape) if needed[0] else None
    # of each plane alone: those of a channel are added up at the end
    sums = x.new_zeros(weight.shape[2], len(pixels), weight.shape[3]) if needed[1] else None
    for some, room, _, copies in _blocks(pixels, plan):
        g, spare, back = gradients[some], copies[0], copies[1:]
        as_it_is = g.shape[2] == plan.cut[1] and not at_once  # only for the one product it stands beside what is moved
        moved = [
            g if shift == 0 and as_it_is else _move(g, -shift, out)
            for shift, out in zip(plan.shifts, back, strict=True)
        ]
        seen = [[_rows(planes, run.output, run.length) for run in plan.runs] for planes in moved]
        if d_x is not None:
            _write_input_gradient(_planes(d_x)[some], seen, _factors_of(factors, some), plan, room)
        if sums is not None:
            if at_once:
                _write_sums_at_once(sums[:, some], back, pixels[some], plan)
            else:
                cut = _cut(pixels[some], plan, room) if kept is None else kept[:, some].unbind()
                _write_sums(sums[:, some], seen, cut, plan, spare)
    d_weight = None
    if sums is not None:
        d_weight = sums.view(len(sums), len(x), -1, sums.shape[2]).sum(1).transpose(0, 1)[:, None].contiguous()
        if not math.isfinite(d_weight.sum()):
            return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, plan.rows, plan.columns)[:4]
    return d_x, d_weight, sum_by_channel(grad) if needed[2] else None, None


_depthwise_planes = operation(depthwise_planes_forward, depthwise_planes_backward)


def _planes(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B · C, H, W), one after the other in memory."""
    return x.resolve_neg().contiguous().flatten(0, 1)


def _factors(weight: Tensor, images: int) -> Tensor:
    """The weight (C, 1, kH, kW) by places, again for each image: (kH · kW, B · C, 1, 1)."""
    by_place = weight.flatten(1).t()
    return by_place[:, None].expand(-1, images, -1).reshape(len(by_place), -1, 1, 1)


def _factors_of(factors: Tensor, some: slice) -> Sequence[Tensor]:
    """The factors of some planes, place by place."""
    return factors[:, some].unbind()


def _step(planes: Tensor, plan: Plan) -> int:
    """How many of the planes go through at once."""
    most = max(math.prod(plan.cut), plan.rows.places * plan.columns.places)
    return step_of(len(planes), most, BLOCK * torch.get_num_threads())


def _blocks(planes: Tensor, plan: Plan) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """A few of the planes (N, H, W) after the other, with room for cut ones, for one that is moved, and for gradients.

    Each part of the room lies at one place whichever way it goes: else each thread would find its share of the memory
    in the caches of the others.
    """
    step, shapes = _step(planes, plan), [(1, plan.cut[0], plan.columns.places)]
    shapes.append((1 + len(plan.shifts), plan.rows.places, plan.cut[1]))
    cut, *memory = rooms(
        planes,
        plan.room(step),
        *((copies, plan.slack + step * H * W + plan.slack) for copies, H, W in shapes),
    )
    for start in range(0, len(planes), step):
        n = min(step, len(planes) - start)
        spare, gradients = (
            some.narrow(1, plan.slack, n * H * W).unflatten(1, (n, H, W))
            for some, (_, H, W) in zip(memory, shapes, strict=True)
        )
        yield slice(start, start + n), cut[:, :n], spare[0], gradients


def _cut(planes: Tensor, plan: Plan, room: Tensor) -> Sequence[Tensor]:
    """What planes (N, H, W) are cut into, each (N, rows, columns), written into ``room``; the planes if uncut."""
    if plan.uncut:
        return (planes,)
    cut, stride = room.unbind(), plan.rows.stride
    for number in plan.moves:
        pairs = number == 0 and _in_pairs(planes, plan) and planes.dtype is torch.float32
        # A third of the time: two numbers are one of twice the size, the first of them its low half.
        seen = planes.view(torch.int64) if pairs else planes[:, :, number :: plan.columns.stride]
        out = cut[number].view(torch.int32) if pairs else cut[number]
        if seen.shape[2] < out.shape[2]:  # without a column that other cut planes have
            out[:, :, seen.shape[2] :].zero_()
            out = out[:, :, : seen.shape[2]]
        if seen.shape[1] % stride == 0:  # all parts at once
            out.unflatten(1, (stride, -1)).copy_(seen.unflatten(1, (-1, stride)).transpose(1, 2))
        else:
            for part, rows in _parts(out, seen, plan):
                part.copy_(rows)
    return cut


def _parts(cut: Tensor, planes: Tensor, plan: Plan) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts of cut planes (N, rows, columns), each with the rows of the planes (N, H, W) that belong there."""
    for part, out in enumerate(cut.split(plan.height, 1)):
        rows = planes[:, part :: plan.rows.stride]
        yield out[:, : rows.shape[1]], rows


def _in_pairs(planes: Tensor, plan: Plan) -> bool:
    """Whether columns of (N, H, W) come in pairs, one for each of two cut planes, that are read as one number."""
    even = planes.shape[2] % 2 == 0 and planes.storage_offset() % 2 == 0
    return plan.columns.stride == 2 and even and sys.byteorder == "little"


def _move(planes: Tensor, shift: int, room: Tensor) -> Tensor:
    """What each pixel of (N, H, W) has ``shift`` columns to its right, zero beyond the row, written into ``room``.

    (N, H, W'), with any number of columns of its own, and with that much memory before and after it to write to.
    """
    (N, H, width), places = planes.shape, room.shape[2]
    if width != places:
        first, last = max(-shift, 0), min(width - shift, places)
        room[:, :, first:last] = planes[:, :, first + shift : last + shift]
        room[:, :, :first].zero_()
        room[:, :, last:].zero_()
        return room
    if shift == 0:
        return room.copy_(planes)
    # One long run, in which columns that would come round into other rows have no bit left. To clear them afterwards is
    # little work, done by one thread, which for that takes every line of the others' caches into its own.
    bits = torch.int32 if planes.dtype is torch.float32 else torch.int64
    out = room.as_strided((N, H * width), (H * width, 1), room.storage_offset() - shift)
    torch.bitwise_and(planes.flatten(1).view(bits), _stays(H, width, shift, bits), out=out.view(bits))
    ends = room.view(-1)
    (ends[-shift:] if shift > 0 else ends[:-shift]).zero_()
    return room


@lru_cache(maxsize=64)
def _stays(height: int, width: int, shift: int, dtype: torch.dtype) -> Tensor:
    """All bits where a column moved by ``shift`` stays in its row, no bit where it does not, (height · width,)."""
    with torch.inference_mode(False):
        columns = torch.arange(width, device="cpu") - shift
        return ((columns < 0) | (columns >= width)).to(dtype).sub(1).expand(height, -1).flatten()


def _rows(planes: Tensor, first: int, length: int) -> Tensor:
    """So many rows of (N, H, W)."""
    return planes if length == planes.shape[1] else planes.narrow(1, first, length)


def _terms(
    out: Tensor, cut: Sequence[Tensor], factors: Sequence[Tensor], plan: Plan, spare: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each place of the kernel the rows of output that see pixels, those pixels, and the factor."""
    outputs = [_rows(out, run.output, run.length) for run in plan.runs]
    for number, moves in plan.moves.items():
        planes = cut[number]
        for v, shift in moves:
            moved = planes if shift == 0 and planes.shape == spare.shape else _move(planes, shift, spare)
            for run, part in zip(plan.runs, outputs, strict=True):
                yield part, _rows(moved, run.pixel, run.length), factors[run.u * plan.columns.kernel + v]


def _write_input_gradient(
    d_x: Tensor, seen: list[list[Tensor]], factors: Sequence[Tensor], plan: Plan, room: Tensor
) -> None:
    """Write ∂L/∂x of planes (N, H, W), of the gradients moved back by each shift, of which each run is given."""
    cut = (d_x,) if plan.uncut else room.unbind()
    for number, planes in enumerate(cut):
        moves = plan.moves.get(number, ())
        for part, out in enumerate(planes.split(plan.height, 1)):
            runs = [(k, run) for k, run in enumerate(plan.runs) if run.pixel // plan.height == part]
            pixels = [_rows(out, run.pixel - part * plan.height, run.length) for _, run in runs]
            terms = (
                (some, seen[plan.shifts.index(move.shift)][k], factors[run.u * plan.columns.kernel + move.v])
                for move in moves
                for (k, run), some in zip(runs, pixels, strict=True)
            )
            _add_up(out, terms)
    if plan.uncut:
        return
    if _in_pairs(d_x, plan):
        pairs = torch.view_as_complex(d_x.unflatten(2, (-1, 2)))
        for (left, rows), (right, _) in zip(*(_parts(planes, pairs, plan) for planes in cut), strict=True):
            torch.complex(left, right, out=rows)  # half of the time
        return
    for number, planes in enumerate(cut):
        for out, rows in _parts(planes, d_x[:, :, number :: plan.columns.stride], plan):
            rows.copy_(out[..., : rows.shape[-1]])


def _write_sums(sums: Tensor, seen: list[list[Tensor]], cut: Sequence[Tensor], plan: Plan, spare: Tensor) -> None:
    """Write Σ g · (x moved) of each of the planes, (N, rows, columns), for each place of the kernel, (kH, N, kW)."""
    products = [_rows(spare, 0, run.length) for run in plan.runs]
    by_place = [column for row in sums.unbind() for column in row.unbind(1)]
    for number, moves in plan.moves.items():
        pixels = [_rows(cut[number], run.pixel, run.length) for run in plan.runs]
        for v, shift in moves:
            for k, run in enumerate(plan.runs):
                torch.mul(seen[plan.shifts.index(shift)][k], pixels[k], out=products[k])
                torch.sum(products[k], (1, 2), out=by_place[run.u * plan.columns.kernel + v])


def _write_sums_at_once(sums: Tensor, back: Tensor, planes: Tensor, plan: Plan) -> None:
    """Write what ``_write_sums`` does for planes that are not cut: a row of the kernel in one product a plane."""
    first, last = plan.moves[0][0].v, plan.moves[0][-1].v + 1
    for run in plan.runs:
        row = planes.narrow(1, run.pixel, run.length).flatten(1)[:, None]
        columns = back.narrow(2, run.output, run.length).flatten(2)
        torch.bmm(row, columns.permute(1, 2, 0), out=sums[run.u, :, None, first:last])


def _add_up(out: Tensor, terms: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Write Σ factor · pixels into ``out``, each term into rows of it."""
    fresh = True
    for rows, pixels, factor in terms:
        if fresh and rows.shape == out.shape:  # the first term writes all of it
            torch.mul(pixels, factor, out=rows)
        else:
            if fresh:
                out.zero_()
            rows.addcmul_(pixels, factor)
        fresh = False
    if fresh:
        out.zero_()
