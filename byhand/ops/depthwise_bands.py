"""Depthwise convolution as matrix products, a band of rows at a time: for images that lie one after the other.

A convolution is linear, and a band of r rows of the output sees a window of h rows of the image, one run of memory.
With all windows of a channel below each other, of all bands and images,

    Y_c = X_c T_c,     (bands, r W') = (bands, h W) (h W, r W'),     h = (r − 1) s + (kH − 1) d + 1,

where T_c has w_c[u, v] wherever output (i, j) of a band sees a pixel of the window at place (u, v), and zeros
elsewhere. Most of what is multiplied are those zeros; but nothing does as many multiplications in a nanosecond as a
matrix product: with AVX-512 up to some 35 pixels' width, more with a stride or a larger kernel, to go through the
places of the kernel takes longer. The same for the gradients: ∂L/∂X_c = G_c T_cᵀ, added up where windows overlap, and
of ∂L/∂T_c = X_cᵀ G_c each w_c[u, v] takes the sum of its entries.

Equal to the way of ``byhand.ops.depthwise`` up to rounding. Zero times infinity is no number: where an output, a weight
or a gradient is not finite, that way is taken.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from byhand.ops import depthwise
from byhand.ops.depthwise import QUICK_PRODUCTS, Axis, Sides, axes
from byhand.ops.layout import by_channel, sum_by_channel
from byhand.ops.room import rooms
from byhand.ops.tape import operation

BLOCK = 1 << 20  # numbers of the images that go through at once: 4 MB of float32
# Products for each output and each place of the kernel up to which it is sooner, with a stride of 1 and with another.
WORTH, WORTH_STRIDED = (8, 40) if QUICK_PRODUCTS else (1.5, 25)
ENOUGH = 4  # bands of all images, for each column of T, from which on it is worth making T


class Piece(NamedTuple):
    """Of windows first..last−1 the numbers start..stop−1, and the place in the image of the very first."""

    first: int
    last: int
    start: int
    stop: int
    place: int


class Bands(NamedTuple):
    """Windows of ``height`` rows, each ``step`` below the one before; of ``each`` rows of output."""

    num_windows: int
    each: int
    step: int
    height: int
    whole: tuple[Piece, ...]  # what windows hold of the image
    beside: tuple[tuple[int, int, int], ...]  # a window, and the first and last number of what lies beside the image
    apart: tuple[tuple[Piece, ...], ...]  # the same as ``whole`` in parts, of each of which no windows overlap
    missed: int  # the first number of the image that the first of these parts does not hold


def worthwhile(x: Tensor, weight: Tensor, stride: tuple[int, int], sides: Sides, dilation: tuple[int, int]) -> bool:
    """Whether it computes soonest, of images ``one_after_another``: not wide ones, and enough to be worth a matrix."""
    if not len(x):
        return False
    rows, columns = axes(x, weight, stride, sides, dilation)
    each = _rows_of_a_band(rows)
    enough = len(x) * -(-rows.places // each) >= ENOUGH * each * columns.places
    products = _height(rows, each) * columns.size / each
    # through the places of the kernel one goes by planes with a stride of 1, and more slowly by shifts with another
    worth = WORTH if rows.stride == 1 else WORTH_STRIDED
    return enough and products <= worth * rows.kernel * columns.kernel


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride, sides: Sides, dilation) -> Tensor:
    """y[b, c, i, j] = bias[c] + Σ_{u, v} w[c, 0, u, v] x[b, c, i·s + u·d, j·s + v·d], x with zeros at its sides."""
    return _depthwise_bands(x, weight, bias, *axes(x, weight, stride, sides, dilation))


def depthwise_bands_forward(x: Tensor, weight: Tensor, bias: Tensor | None, rows: Axis, columns: Axis):
    bands = _bands(rows, columns)
    windows, matrices, outputs = _rooms(x, bands, columns)
    y = x.new_empty(*x.shape[:2], rows.places, columns.places)
    images, results = by_channel(x), by_channel(y)
    for some in _blocks(x):
        here = slice(some.stop - some.start)
        seen, T, out, there = windows[here], matrices[here], outputs[here], results[some]
        _write_matrices(T, weight[some], bands, rows, columns)
        _cut(seen, images[some], bands, columns.size)
        torch.bmm(seen, T, out=out)
        out = out.view(len(out), len(x), -1)[:, :, : there.shape[2]]
        there.copy_(out) if bias is None else torch.add(out, bias[some, None, None], out=there)
    if not bool(y.sum().isfinite()):
        y, _ = depthwise.depthwise_conv2d_forward(x, weight, bias, rows, columns)
    return y, (x, weight, rows, columns)


def depthwise_bands_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, rows: Axis, columns: Axis):
    if needed[0] and not bool((grad.sum() + weight.sum()).isfinite()):
        return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, rows, columns)
    bands = _bands(rows, columns)
    windows, matrices, gradients = _rooms(x, bands, columns)
    d_x = x.new_empty(x.shape) if needed[0] else None
    d_weight = weight.new_zeros(weight.shape) if needed[1] else None
    images, by_output = by_channel(x), by_channel(grad)
    for some in _blocks(x):
        here = slice(some.stop - some.start)
        seen, T, G = windows[here], matrices[here], gradients[here]
        filled = G.view(len(G), len(x), -1)
        filled[:, :, : by_output.shape[2]].copy_(by_output[some])
        filled[:, :, by_output.shape[2] :].zero_()  # outputs that only fill up the last band
        if d_weight is not None:
            _cut(seen, images[some], bands, columns.size)
            torch.bmm(seen.mT, G, out=T)
            _add_up_matrices(T, d_weight[some], bands, rows, columns)
        if d_x is not None:
            _write_matrices(T, weight[some], bands, rows, columns)
            torch.bmm(G, T.mT, out=seen)
            _put_back(seen, by_channel(d_x)[some], bands, columns.size)
    if d_weight is not None and not bool(d_weight.sum().isfinite()):
        return depthwise.depthwise_conv2d_backward(needed, grad, x, weight, rows, columns)
    return d_x, d_weight, sum_by_channel(grad) if needed[2] else None, None, None


_depthwise_bands = operation(depthwise_bands_forward, depthwise_bands_backward)


def _blocks(x: Tensor) -> list[slice]:
    """A few of the channels after the other."""
    step = max(BLOCK // max(x[:, 0].numel(), 1), 1)
    return [slice(first, min(first + step, x.shape[1])) for first in range(0, x.shape[1], step)]


def _rooms(x: Tensor, bands: Bands, columns: Axis) -> list[Tensor]:
    """For a block of channels the windows (C, bands, hW), the matrices (C, hW, rW') and the outputs (C, bands, rW')."""
    C, M = _blocks(x)[0].stop, len(x) * bands.num_windows
    K, N = bands.height * columns.size, bands.each * columns.places
    return rooms(x, (C, M, K), (C, K, N), (C, M, N))


def _rows_of_a_band(rows: Axis) -> int:
    """Rows of output that a window gives: of fewer, windows would overlap more; of more, more products be with zero."""
    return min(2 if rows.stride == 1 else 1, rows.places)


def _height(rows: Axis, each: int) -> int:
    """Rows of the image that ``each`` rows of the output see."""
    return (each - 1) * rows.stride + (rows.kernel - 1) * rows.dilation + 1


@lru_cache(maxsize=256)
def _bands(rows: Axis, columns: Axis) -> Bands:
    """All windows on an image."""
    width = columns.size
    each = _rows_of_a_band(rows)
    number, step, height = -(-rows.places // each), each * rows.stride, _height(rows, each)
    beside = []
    for window in range(number):
        above = window * step - rows.before  # the row of the image where it begins
        start, stop = min(max(-above, 0), height), max(min(rows.size - above, height), 0)
        beside += [(window, a * width, b * width) for a, b in ((0, start), (stop, height)) if a < b]
    parts = [(top, min(top + step, height)) for top in range(0, height, step)]
    held = min(max(number * step - rows.before, 0), rows.size) if height >= step else 0
    return Bands(
        number,
        each,
        step,
        height,
        _pieces(rows, width, number, step, 0, height),
        tuple(beside),
        tuple(_pieces(rows, width, number, step, top, bottom) for top, bottom in parts),
        held * width,
    )


def _pieces(rows: Axis, width: int, number: int, step: int, top: int, bottom: int) -> tuple[Piece, ...]:
    """Of rows top..bottom−1 of every window those in the image; neighbours that have the same are one piece."""
    found: list[Piece] = []
    for window in range(number):
        above = window * step - rows.before
        start, stop = max(above + top, 0), min(above + bottom, rows.size)
        if start >= stop:
            continue
        piece = Piece(window, window + 1, (start - above) * width, (stop - above) * width, start * width)
        last = found[-1] if found else None
        if last and (last.last, last.start, last.stop) == (window, piece.start, piece.stop):
            found[-1] = last._replace(last=window + 1)
        else:
            found.append(piece)
    return tuple(found)


def _both(windows: Tensor, images: Tensor, piece: Piece, bands: Bands, width: int) -> tuple[Tensor, Tensor]:
    """Where the piece stands in windows (C, B, bands, hW) and in images (C, B, HW): views (C, B, windows, numbers)."""
    step, length = bands.step * width, piece.stop - piece.start
    there = images.narrow(2, piece.place, (piece.last - piece.first - 1) * step + length).unfold(2, length, step)
    return windows[:, :, piece.first : piece.last, piece.start : piece.stop], there


def _cut(windows: Tensor, images: Tensor, bands: Bands, width: int) -> None:
    """Write the windows (C, B · bands, hW) of the images (C, B, HW)."""
    by_image = windows.view(*images.shape[:2], bands.num_windows, windows.shape[2])
    for window, start, stop in bands.beside:
        by_image[:, :, window, start:stop].zero_()
    for piece in bands.whole:
        here, there = _both(by_image, images, piece, bands, width)
        here.copy_(there)


def _put_back(windows: Tensor, images: Tensor, bands: Bands, width: int) -> None:
    """Write into the images (C, B, HW) the sum of the windows (C, B · bands, hW), each where it was cut."""
    images[:, :, bands.missed :].zero_()
    by_image = windows.view(*images.shape[:2], bands.num_windows, windows.shape[2])
    for part, pieces in enumerate(bands.apart):
        for piece in pieces:
            here, there = _both(by_image, images, piece, bands, width)
            there.add_(here) if part else there.copy_(here)


def _entries(T: Tensor, v: int, bands: Bands, rows: Axis, columns: Axis) -> Tensor | None:
    """Where in T (C, hW, rW') the weights of a column of the kernel stand, a view (C, kH, r, outputs); None: nowhere.

    One output to the right stands a column further and sees ``stride`` pixels further, along a diagonal.
    """
    across = columns.moved(v, 0, columns.places)
    if across is None:  # all outputs see padding there
        return None
    outputs, seen = across
    row, N = columns.size * T.shape[2], T.shape[2]
    return T.as_strided(
        (len(T), rows.kernel, bands.each, outputs.stop - outputs.start),
        (T.stride(0), rows.dilation * row, rows.stride * row + columns.places, columns.stride * N + 1),
        T.storage_offset() + seen.start * N + outputs.start,
    )


def _write_matrices(T: Tensor, weight: Tensor, bands: Bands, rows: Axis, columns: Axis) -> None:
    """Write T of every channel, (C, hW, rW'), of the weight (C, 1, kH, kW)."""
    T.zero_()
    for v in range(columns.kernel):
        entries = _entries(T, v, bands, rows, columns)
        if entries is not None:
            entries.copy_(weight[:, 0, :, v, None, None])


def _add_up_matrices(T: Tensor, weight: Tensor, bands: Bands, rows: Axis, columns: Axis) -> None:
    """Write into the weight (C, 1, kH, kW) the sum of the entries of T (C, hW, rW') where each number of it stands."""
    for v in range(columns.kernel):
        entries = _entries(T, v, bands, rows, columns)
        if entries is not None:
            torch.sum(entries, (2, 3), out=weight[:, 0, :, v])
