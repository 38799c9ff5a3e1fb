"""Depthwise convolution as one matrix product a channel: for small images that lie one after the other.

A convolution is linear, so that in each channel the outputs of all images are

    Y_c = X_c T_c,     (B, H' W') = (B, H W) (H W, H' W'),

where T_c has w_c[u, v] wherever output (i, j) sees a pixel at place (u, v), and zeros elsewhere. Most of what is
multiplied are those zeros; but for a few pixels moving them about costs more than the product, which also gives the
gradients: ∂L/∂X_c = G T_cᵀ, and of ∂L/∂T_c = X_cᵀ G each w_c[u, v] takes the sum of its entries.

Equal to the way of ``byhand.ops.depthwise`` up to rounding. Zero times infinity is no number: where a result or a
gradient is not finite, that way is taken.
"""

from functools import lru_cache

import torch
from torch import Tensor

from byhand.ops import depthwise
from byhand.ops.depthwise import Axis
from byhand.ops.layout import by_channel, sum_by_channel
from byhand.ops.tape import operation

# Measured with AVX-512. To multiply a T takes time for each image, and to write all of them whatever the batch.
LARGEST, ENTRIES = 10_000, 620_000  # entries of one T, and of all, up to which it is worth while
TINY, MANY = 49, 64  # pixels up to which, and images from which on, it is so with any number of channels


def worthwhile(x: Tensor, rows: Axis, columns: Axis) -> bool:
    """Whether it computes soonest, of images ``one_after_another``: small ones of few channels, or many tiny ones."""
    B, C, pixels = *x.shape[:2], rows.size * columns.size
    entries = pixels * rows.places * columns.places
    return entries <= LARGEST and (C * entries <= ENTRIES or (pixels <= TINY and B >= MANY))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _depthwise_matrix(x, weight, bias, rows, columns)


def depthwise_matrix_forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis):
    x = x.contiguous()  # one copy for both ways, where images do not lie one after the other
    matrices = _matrices(weight, rows, columns)
    y = torch.bmm(by_channel(x), matrices).transpose(0, 1)  # (B, C, H' W')
    y = y.contiguous() if bias is None else y + bias[:, None]
    y = y.view(*y.shape[:2], rows.places, columns.places)
    if not bool(y.sum().isfinite()):
        y, _ = depthwise.depthwise_conv2d_forward(x, weight, bias, rows, columns)
    return y, (x, weight, matrices, rows, columns)


def depthwise_matrix_backward(needed, grad: Tensor, x: Tensor, weight, matrices, rows: Axis, columns: Axis):
    if needed[0] and not bool(grad.sum().isfinite()):
        return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, rows, columns)
    g, d_x, d_weight = by_channel(grad), None, None
    if needed[0]:
        d_x = torch.bmm(g, matrices.mT).transpose(0, 1).reshape(x.shape)
    if needed[1]:
        entries, places = _entries(rows, columns)
        d_matrices = torch.bmm(by_channel(x).mT, g).flatten(1)
        d_weight = matrices.new_zeros(len(matrices), rows.kernel * columns.kernel)
        d_weight.index_add_(1, places, d_matrices.index_select(1, entries))
        d_weight = d_weight.view(-1, 1, rows.kernel, columns.kernel)
    return d_x, d_weight, sum_by_channel(grad) if needed[2] else None, None, None


_depthwise_matrix = operation(depthwise_matrix_forward, depthwise_matrix_backward)


def _matrices(weight: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """T of every channel, (C, H W, H' W')."""
    entries, places = _entries(rows, columns)
    matrices = weight.new_zeros(len(weight), rows.size * columns.size, rows.places * columns.places)
    matrices.flatten(1).index_add_(1, entries, weight.flatten(1).index_select(1, places))
    return matrices


@lru_cache(maxsize=64)
def _entries(rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
    """Where in T, counted through its H W · H' W' entries, weights stand, and which of the kH · kW each of them is."""
    entries, places = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
    for u in range(rows.kernel):
        for v in range(columns.kernel):
            down, right = rows.moved(u, 0, rows.places), columns.moved(v, 0, columns.places)
            if down is None or right is None:  # all outputs see padding there
                continue
            i, p = torch.arange(rows.places)[down[0]], torch.arange(rows.size)[down[1]]
            j, q = torch.arange(columns.places)[right[0]], torch.arange(columns.size)[right[1]]
            pixels = p[:, None] * columns.size + q
            outputs = i[:, None] * columns.places + j
            entries.append((pixels * (rows.places * columns.places) + outputs).flatten())
            places.append(torch.full((outputs.numel(),), u * columns.kernel + v))
    return torch.cat(entries), torch.cat(places)
