"""A stage of a network in one operation: layers that follow one another, for as long as their numbers are at hand.

Layer by layer, each writes a tensor that the next reads back, in both directions: for LeNet's first stage 4.8 MB some
twenty times a step, which costs more than the products themselves. Here a few rows of a convolution's output go through
ReLU and pooling while they are in the processor's cache. What the way back needs, the output of the ReLU, is kept;
windows are cut again. Formulas and, up to rounding, results are those of ``byhand.ops.linear``, ``convolution``,
``activations`` and ``pooling``.
"""

import torch
from torch import Tensor

from byhand.ops import rows
from byhand.ops.activations import gate_
from byhand.ops.layout import sum_by_channel
from byhand.ops.linear import linear_backward, linear_forward
from byhand.ops.pooling import sum_of
from byhand.ops.tape import operation

BLOCK = 1 << 19  # numbers of the convolution's output that go through at once: 2 MB of float32


def linear_relu(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(linear(input, weight, bias)), (B, in) -> (B, out)."""
    return _linear_relu(input, weight, bias)


def linear_relu_forward(x: Tensor, weight: Tensor, bias: Tensor):
    y = linear_forward(x, weight, bias)[0].clamp_(min=0)
    return y, (x, weight, y)


def linear_relu_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, y: Tensor):
    return linear_backward(needed, gate_(y, grad), x, weight)


_linear_relu = operation(linear_relu_forward, linear_relu_backward)


def conv_relu_avg_pool(input: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
    """avg_pool2d(relu(conv2d(input, weight, bias)), pool), (B, C, H, W) -> (B, O, H'/pool, W'/pool).

    For batches that ``rows`` take, and a ``pool`` that divides the convolution's H' and W'.
    """
    return _conv_relu_avg_pool(input, weight, bias, rows.plan(input, weight, (1, 1), (1, 1)), pool)


def conv_relu_avg_pool_forward(x: Tensor, weight: Tensor, bias: Tensor, plan: rows.Plan, pool: int):
    pixels, banded = rows.pixels_of(x), rows.band(weight, plan)
    (H, W), (O, B) = plan.places, (len(weight), len(x))
    y, pooled = x.new_empty(H, W, O, B), x.new_empty(H // pool, W // pool, O, B)
    for first, last in _blocks(plan, pool, B):
        part, block = plan.part(last - first), y[first:last]
        rows.products(rows.windows(pixels[plan.pixels(first, last)], part), banded, part, out=block)
        block.add_(bias[:, None]).clamp_(min=0)
        places = block.view((last - first) // pool, pool, W // pool, pool, O, B)
        down = sum_of([places[:, u] for u in range(pool)])
        across = sum_of([down[:, :, v] for v in range(pool)])
        torch.div(across, pool * pool, out=pooled[first // pool : last // pool])
    return pooled.permute(3, 2, 0, 1), (pixels, banded, y, plan, pool)


def conv_relu_avg_pool_backward(needed, grad: Tensor, pixels: Tensor, banded: Tensor, y: Tensor, plan, pool: int):
    share = rows.pixels_of(grad) / (pool * pool)
    W, O, B = y.shape[1:]
    d_pixels = torch.zeros_like(pixels) if needed[0] else None
    d_banded, d_bias = torch.zeros_like(banded), y.new_zeros(O)
    for first, last in _blocks(plan, pool, B):
        part, seen = plan.part(last - first), plan.pixels(first, last)
        places = y[first:last].view((last - first) // pool, pool, W // pool, pool, O, B)
        g = gate_(places, share[first // pool : last // pool, None, :, None]).view(last - first, W, O, B)
        if needed[1]:
            d_banded += rows.band_gradient(g, rows.windows(pixels[seen], part), part)
        if needed[2]:
            d_bias += sum_by_channel(g.permute(3, 2, 0, 1))
        if d_pixels is not None:
            rows.fold(d_pixels[seen], rows.windows_gradient(g, banded, part), part)
    d_input = None if d_pixels is None else d_pixels.permute(3, 2, 0, 1)
    return d_input, rows.gather(d_banded, plan) if needed[1] else None, d_bias if needed[2] else None, None, None


_conv_relu_avg_pool = operation(conv_relu_avg_pool_forward, conv_relu_avg_pool_backward)


def _blocks(plan: rows.Plan, pool: int, batch_size: int) -> list[tuple[int, int]]:
    """First row and the row after the last of each block: as many as fit, in whole rows of the pooled output."""
    height, width = plan.places
    step = max(BLOCK // (width * plan.shape[0] * batch_size) // pool, 1) * pool
    return [(first, min(first + step, height)) for first in range(0, height, step)]
