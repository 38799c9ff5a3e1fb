"""Convolution by rows of the kernel: one more way to compute ``conv2d``, for batches, without a copy of every window.

With the batch innermost in memory (``byhand.ops.layout``) the pixels that one row of a kernel sees at one place are a
block of memory, and a matrix: kW · C rows of B neighbours. So

    Y[i, j] = Σ_u W_u · X[i·s + u·d, j·s : j·s + kW],     (O, B) = Σ (O, kW C) (kW C, B),

a batch of products for each row u of the kernel, added up where they land. Pixels are copied kW times, not kH · kW
times, and each copy takes whole blocks. The gradients are the same products turned over: ∂L/∂W_u = Σ_ij G[i, j] Xᵀ and
W_uᵀ G, added where X was cut.

Two numbers make thin products thicker, both chosen from the shapes:

- ``tile``: outputs side by side that one product gives. Their windows overlap, so kW + tile − 1 pixels serve all of
  them; the kernel stands in the matrix once for each, zeros around it (a banded matrix): a few more multiplications, in
  a product that is ``tile`` times as tall and cuts fewer windows.
- ``depth``: kernel rows in one product, one or all of them. With few channels one row is too short to be worth a
  product (LeNet's first layer: 5 numbers).

Equal to the way of ``byhand.ops.columns`` up to rounding.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from byhand.ops.layout import ENOUGH, batch_innermost, sum_by_channel
from byhand.ops.tape import operation

TALL = 32  # rows of a product from which on it is no longer thin
LONG = 16  # numbers in one kernel row of all channels from which on it makes a product of its own


@dataclass(frozen=True)
class Plan:
    """How a convolution of a weight of this shape is cut up; ``places``: H', W' of the output."""

    shape: torch.Size
    stride: tuple[int, int]
    dilation: tuple[int, int]
    places: tuple[int, int]
    tile: int
    depth: int

    @property
    def starts(self) -> range:
        """The kernel rows at which a product begins."""
        return range(0, self.shape[2], self.depth)

    @property
    def across(self) -> int:
        """Pixels side by side in one window."""
        return self.shape[3] + self.tile - 1

    @property
    def shared(self) -> bool:
        """Whether windows hold one row of pixels, which several rows of the output see."""
        return self.depth < self.shape[2]

    def rows(self, start: int) -> slice:
        """Which rows of windows the products of that kernel row take, one for each row of the output."""
        if not self.shared:
            return slice(None)
        top, step = start * self.dilation[0], self.stride[0]
        return slice(top, top + step * (self.places[0] - 1) + 1, step)

    def pixels(self, first: int, last: int) -> slice:
        """The rows of the image that the outputs of rows first..last−1 see."""
        return slice(first * self.stride[0], (last - 1) * self.stride[0] + self.dilation[0] * (self.shape[2] - 1) + 1)

    def part(self, rows: int) -> "Plan":
        """The same for so many rows of the output."""
        return replace(self, places=(rows, self.places[1]))


def plan(x: Tensor, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]) -> Plan:
    """Tile and depth for a convolution of these shapes."""
    O, C, kH, kW = weight.shape
    H, W = ((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], (kH, kW), stride, dilation, strict=True))
    tile = 1
    if stride[1] == dilation[1] == 1:
        while 2 * tile * O <= TALL and tile < min(kW - 1, 4) and W % (2 * tile) == 0:
            tile *= 2
    depth = kH if C * (kW + tile - 1) < LONG else 1
    return Plan(weight.shape, stride, dilation, (H, W), tile, depth)


def worthwhile(x: Tensor, groups: int) -> bool:
    """Whether rows can compute it, and do so sooner: channels in one group, and a batch that fills a product."""
    return groups == 1 and len(x) >= ENOUGH


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, dilation) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i·s + u·d, j·s + v·d], x padded already."""
    return _conv2d_rows(x, weight, bias, plan(x, weight, stride, dilation))


def conv2d_rows_forward(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan):
    seen, banded = windows(pixels_of(x), plan), band(weight, plan)
    y = seen.new_empty(*plan.places, len(weight), len(x))
    products(seen, banded, plan, y)
    if bias is not None:
        y += bias[:, None]
    return y.permute(3, 2, 0, 1), (seen, banded, x.shape, plan)


def conv2d_rows_backward(needed, grad: Tensor, seen: Tensor, banded: Tensor, shape: torch.Size, plan: Plan):
    g = pixels_of(grad)
    B, C, H, W = shape
    d_input = d_weight = d_bias = None
    if needed[0]:
        d_input = g.new_zeros(H, W, C, B)
        fold(d_input, windows_gradient(g, banded, plan), plan)
        d_input = d_input.permute(3, 2, 0, 1)
    if needed[1]:
        d_weight = gather(band_gradient(g, seen, plan), plan)
    if needed[2]:
        d_bias = sum_by_channel(grad)
    return d_input, d_weight, d_bias, None


_conv2d_rows = operation(conv2d_rows_forward, conv2d_rows_backward)


def pixels_of(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as they lie in memory: (H, W, C, B), contiguous."""
    return batch_innermost(x).permute(2, 3, 1, 0)


def windows(x: Tensor, plan: Plan) -> Tensor:
    """What the products see: (H, W, C, B) -> (rows, W' / tile, numbers of a window, B), contiguous.

    ``rows`` are those of the image where the kernel's rows share them, else those of the output.
    """
    H, _, C, B = x.shape
    h, w, c, b = x.stride()
    (dH, dW), (sH, sW) = plan.dilation, plan.stride
    rows, step = (H, h) if plan.shared else (plan.places[0], sH * h)
    shape = (rows, plan.places[1] // plan.tile, plan.depth, plan.across, C, B)
    seen = x.as_strided(shape, (step, plan.tile * sW * w, dH * h, dW * w, c, b), x.storage_offset())
    return seen.reshape(*shape[:2], -1, B).contiguous()


def fold(x: Tensor, seen: Tensor, plan: Plan) -> None:
    """Add to the pixels (H, W, C, B) what the windows hold, each where it was cut."""
    C, B = x.shape[2:]
    rows, columns = seen.shape[:2]
    down, right = 1 if plan.shared else plan.stride[0], plan.tile * plan.stride[1]
    seen = seen.view(rows, columns, plan.depth, plan.across, C, B)
    for u in range(plan.depth):
        for v in range(plan.across):
            top, left = u * plan.dilation[0], v * plan.dilation[1]
            x[top : top + down * rows : down, left : left + right * columns : right] += seen[:, :, u, v]


def products(seen: Tensor, banded: Tensor, plan: Plan, out: Tensor) -> None:
    """Write the convolution without its bias into ``out``, (H', W', O, B)."""
    (H, W), B = plan.places, seen.shape[-1]
    y = out.view(H * (W // plan.tile), banded.shape[1], B)
    for kernel, start in zip(banded, plan.starts, strict=True):
        kernel, columns = kernel.expand(len(y), -1, -1), seen[plan.rows(start)].reshape(len(y), -1, B)
        if start == 0:
            torch.bmm(kernel, columns, out=y)
        else:
            torch.baddbmm(y, kernel, columns, out=y)


def windows_gradient(grad: Tensor, banded: Tensor, plan: Plan) -> Tensor:
    """∂L/∂windows from ∂L/∂Y (H', W', O, B)."""
    (H, W), B = plan.places, grad.shape[-1]
    g = grad.view(H * (W // plan.tile), -1, B)
    last = plan.rows(plan.starts[-1])
    d_seen = g.new_zeros(H if last.stop is None else last.stop, W // plan.tile, banded.shape[2], B)
    for kernel, start in zip(banded, plan.starts, strict=True):
        turned, here = kernel.mT.expand(len(g), -1, -1), d_seen[plan.rows(start)]
        if here.is_contiguous():
            here = here.view(len(g), -1, B)
            torch.baddbmm(here, turned, g, out=here)
        else:
            here += torch.bmm(turned, g).view(here.shape)
    return d_seen


def band_gradient(grad: Tensor, seen: Tensor, plan: Plan) -> Tensor:
    """∂L/∂(banded kernel) from ∂L/∂Y (H', W', O, B)."""
    (H, W), B = plan.places, grad.shape[-1]
    g = grad.view(H * (W // plan.tile), -1, B)
    columns = (seen[plan.rows(start)].reshape(len(g), -1, B) for start in plan.starts)
    return torch.stack([torch.bmm(g, some.mT).sum(0) for some in columns])


def band(weight: Tensor, plan: Plan) -> Tensor:
    """The kernel once for each place in a tile: (O, C, kH, kW) -> (products, tile · O, numbers of a window)."""
    O, C, kH, kW = plan.shape
    banded = weight.new_zeros(kH // plan.depth, plan.tile, O, plan.depth, plan.across, C)
    kernel = weight.permute(2, 3, 0, 1).reshape(kH // plan.depth, plan.depth, kW, O, C).permute(0, 3, 1, 2, 4)
    for t in range(plan.tile):
        banded[:, t, :, :, t : t + kW] = kernel
    return banded.view(kH // plan.depth, plan.tile * O, -1)


def gather(banded: Tensor, plan: Plan) -> Tensor:
    """What ``band`` gives back: the gradients of the places of each kernel, added up."""
    O, C, kH, kW = plan.shape
    d = banded.view(kH // plan.depth, plan.tile, O, plan.depth, plan.across, C)
    total = d[:, 0, :, :, :kW].clone()
    for t in range(1, plan.tile):
        total += d[:, t, :, :, t : t + kW]
    return total.permute(1, 4, 0, 2, 3).reshape(plan.shape)
