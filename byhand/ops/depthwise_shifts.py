"""Depthwise convolution by shifts: for images that lie one after the other in memory, (B, C, H, W), a few at a time.

The images with their zeros are those of ``byhand.ops.shifts``. What a place of the kernel sees from all outputs of a
channel is one run of memory, so that each place costs one multiply-add along long runs:

    y += w[u, v] · (x shifted),   ∂L/∂x += w[u, v] · (g shifted back),   ∂L/∂w[u, v] = Σ g · (x shifted).

Equal to the way of ``byhand.ops.depthwise`` up to rounding.
"""

import torch
from torch import Tensor

from byhand.ops.depthwise import Axis
from byhand.ops.layout import ENOUGH, is_batch_innermost
from byhand.ops.shifts import LARGE, Room, Shifts, Sides, blocks
from byhand.ops.tape import operation

BLOCK = 3 << 18  # numbers of images and outputs that go through at once: 3 MB of float32


def worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Whether shifts compute it soonest: one kernel a channel, on a CPU, images of some size one after the other."""
    if len(weight) != x.shape[1] or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    return not is_batch_innermost(x) and (len(x) < ENOUGH or x.shape[2:].numel() >= LARGE)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    left, right, top, bottom = sides
    rows = Axis(x.shape[2], weight.shape[2], stride[0], dilation[0], top, bottom)
    columns = Axis(x.shape[3], weight.shape[3], stride[1], dilation[1], left, right)
    return _depthwise_shifts(x, weight, bias, Shifts(rows, columns))


def depthwise_shifts_forward(x: Tensor, weight: Tensor, bias: Tensor | None, shifts: Shifts):
    C, (H, W) = len(weight), (shifts.rows.places, shifts.columns.places)
    y = x.new_empty(len(x), C, H, W)
    step = shifts.step(x, C, BLOCK)
    room, sums = shifts.images(x[:step]), y.new_empty(*y[:step].shape[:2], H * shifts.pitch)
    for images, out in blocks(step, x, y):
        room.fill(images)
        pairs = [(weight[:, :, u, v], room.seen(*tap, H)) for (u, v), tap in shifts.taps.items()]
        total = _sum_of_multiples(pairs, sums[: len(out)]).view(len(out), C, H, -1)[..., :W]
        if bias is None:
            out.copy_(total)
        else:
            torch.add(total, bias[:, None, None], out=out)
    return y, (x, weight, shifts)


def depthwise_shifts_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, shifts: Shifts):
    C, H = len(weight), shifts.rows.places
    d_x, d_weight = x.new_zeros(x.shape), weight.new_zeros(weight.shape)
    step = shifts.step(x, C, BLOCK)
    gradients, room = shifts.gradients(grad[:step]), shifts.images(x[:step])
    sums = x.new_empty(*x[:step].shape[:2], shifts.size[0] * shifts.pitch)
    products = x.new_empty(*x[:step].shape[:2], H * shifts.pitch)
    for images, g, d_images in blocks(step, x, grad, d_x):
        gradients.fill(g)
        if needed[0]:
            _input_gradient(gradients, weight, shifts, sums, d_images)
        if needed[1]:
            room.fill(images)
            outputs = gradients.seen((0, 0), (0, 0), H)
            for (u, v), tap in shifts.taps.items():
                product = torch.mul(outputs, room.seen(*tap, H), out=products[: len(g)])
                d_weight[:, 0, u, v] += product.sum(2).sum(0)
    return (
        d_x if needed[0] else None,
        d_weight if needed[1] else None,
        grad.sum((0, 2, 3)) if needed[2] else None,
        None,
    )


_depthwise_shifts = operation(depthwise_shifts_forward, depthwise_shifts_backward)


def _input_gradient(gradients: Room, weight: Tensor, shifts: Shifts, sums: Tensor, out: Tensor) -> None:
    """Write ∂L/∂X (b, C, H, W) of the images whose ∂L/∂Y the room holds into ``out``."""
    rows, columns = shifts.rows.stride, shifts.columns.stride
    for row in range(rows):
        for column in range(columns):
            some = out[:, :, row::rows, column::columns]
            pairs = [
                (weight[:, :, u, v], gradients.seen((0, 0), (-down, -right), shifts.size[0]))
                for (u, v), (cut, (down, right)) in shifts.taps.items()
                if cut == (row, column)
            ]
            if pairs:  # else no place of the kernel sees these pixels
                total = _sum_of_multiples(pairs, sums[: len(out)]).view(*out.shape[:2], -1, shifts.pitch)
                some.copy_(total[:, :, : some.shape[2], : some.shape[3]])


def _sum_of_multiples(pairs: list[tuple[Tensor, Tensor]], out: Tensor) -> Tensor:
    """Σ factor · pixels, each (C, 1) · (b, C, N), in ``out`` (b, C, N)."""
    for number, (factor, pixels) in enumerate(pairs):
        if number == 0:
            torch.mul(pixels, factor, out=out)
        else:
            out.addcmul_(pixels, factor)
    return out
