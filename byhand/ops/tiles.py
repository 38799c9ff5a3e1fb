"""Convolution in tiles: one more way to compute ``conv2d``, for small kernels and few channels.

A kernel of k × k copies each pixel into up to k² columns, and with few output channels the product over them is so
thin that copying costs more than multiplying. So a window is cut for a tile of 2 × 2 outputs at once: its (k + 1)²
numbers serve four outputs, in place of 4 k² (for k = 5: 36 and 100), and the kernel stands four times in the matrix,
once for each place in the tile, zeros around it. That is (k + 1)² / k² of the multiplications (1.44 for k = 5) in a
product four times as tall, and a fraction of the copies. Equal to the way of ``byhand.ops.convolution`` up to rounding.
"""

import torch
from torch import Tensor

from byhand.ops.layout import batch_innermost
from byhand.ops.tape import operation

TILE = 2


def worthwhile(x: Tensor, weight: Tensor, stride, dilation, groups: int) -> bool:
    """Whether tiles can compute it, and do so sooner: stride 1, even outputs, a product that is thin without them."""
    O, _, kH, kW = weight.shape
    H, W = x.shape[2] - kH + 1, x.shape[3] - kW + 1
    plain = stride == (1, 1) and dilation == (1, 1) and groups == 1
    return plain and H % TILE == 0 and W % TILE == 0 and min(kH, kW) > 2 and O <= 16 and len(x) >= 16


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i + u, j + v], by tiles; H' and W' must be even."""
    return _conv2d_tiles(x, weight, bias)


def conv2d_tiles_forward(x: Tensor, weight: Tensor, bias: Tensor | None):
    B, C, H, W = x.shape
    O, _, kH, kW = weight.shape
    H, W = (H - kH + 1) // TILE, (W - kW + 1) // TILE  # tiles, not outputs
    x = batch_innermost(x)
    b, c, h, w = x.stride()
    tile = (kH + TILE - 1, kW + TILE - 1)
    seen = x.as_strided((C, *tile, H, W, B), (c, h, w, TILE * h, TILE * w, b), x.storage_offset())
    columns = seen.reshape(C * tile[0] * tile[1], H * W * B)
    banded = spread(weight)
    y = (banded @ columns).view(O, TILE, TILE, H, W, B).permute(0, 3, 1, 4, 2, 5)  # O H 2 W 2 B
    out = x.new_empty(O, H, TILE, W, TILE, B)
    torch.add(y, 0 if bias is None else bias.view(O, 1, 1, 1, 1, 1), out=out)
    return out.view(O, TILE * H, TILE * W, B).permute(3, 0, 1, 2), (columns, banded, weight.shape, (B, C, *x.shape[2:]))


def conv2d_tiles_backward(needed, grad: Tensor, columns: Tensor, banded: Tensor, kernel, shape):
    B, C, H, W = shape
    O, _, kH, kW = kernel
    H, W = (H - kH + 1) // TILE, (W - kW + 1) // TILE
    g = batch_innermost(grad).permute(1, 2, 3, 0)
    d_bias = g.sum((1, 2, 3)) if needed[2] else None
    g = g.view(O, H, TILE, W, TILE, B).permute(0, 2, 4, 1, 3, 5).reshape(O * TILE * TILE, H * W * B)
    d_weight = gather(g @ columns.T, kernel) if needed[1] else None
    d_input = None
    if needed[0]:
        d_seen = (banded.T @ g).view(C, kH + TILE - 1, kW + TILE - 1, H, W, B)
        d_input = g.new_zeros(C, *shape[2:], B)
        for u in range(kH + TILE - 1):
            for v in range(kW + TILE - 1):
                d_input[:, u : u + TILE * H : TILE, v : v + TILE * W : TILE] += d_seen[:, u, v]
        d_input = d_input.permute(3, 0, 1, 2)
    return d_input, d_weight, d_bias


_conv2d_tiles = operation(conv2d_tiles_forward, conv2d_tiles_backward)


def spread(weight: Tensor) -> Tensor:
    """The kernel once for each place in a tile: (O, C, kH, kW) -> (4 O, C (kH + 1) (kW + 1)), a banded matrix."""
    O, C, kH, kW = weight.shape
    banded = weight.new_zeros(O, TILE, TILE, C, kH + TILE - 1, kW + TILE - 1)
    for i in range(TILE):
        for j in range(TILE):
            banded[:, i, j, :, i : i + kH, j : j + kW] = weight
    return banded.view(O * TILE * TILE, -1)


def gather(banded: Tensor, kernel: torch.Size) -> Tensor:
    """What ``spread`` gives back: the gradients of the four places of each kernel, added up."""
    O, C, kH, kW = kernel
    d = banded.view(O, TILE, TILE, C, kH + TILE - 1, kW + TILE - 1)
    total = d.new_zeros(kernel)
    for i in range(TILE):
        for j in range(TILE):
            total += d[:, i, j, :, i : i + kH, j : j + kW]
    return total
