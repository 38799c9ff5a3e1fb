"""RoI pooling: the largest value in each bin of a grid laid over each box, all corners rounded to whole pixels.

Bins of many boxes overlap, so the largest values are not searched bin by bin. Let T_uv[i, j] be the largest of the 2ᵘ
rows and 2ᵛ columns that begin at pixel (i, j); each table follows from a smaller one by one comparison,

    T_u,v+1[i, j] = max(T_uv[i, j], T_uv[i, j + 2ᵛ]),    T_u+1,v[i, j] = max(T_uv[i, j], T_uv[i + 2ᵘ, j]),

and a bin of any size is covered by four windows of one table, which may overlap: from its four corners inwards.

Source: Girshick, Fast R-CNN (2015), section 2.1; Bender & Farach-Colton, The LCA Problem Revisited (2000), section 3,
for the tables.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from byhand.ops.convolution import Pair
from byhand.ops.regions import Boxes, bins, regions_on
from byhand.ops.tape import operation

AT_ONCE = 1 << 18  # numbers of the output that are looked up at once: 1 MB, which stays in the processor's cache
FAR = 2.0**30  # pixels; corners beyond count as there, where int64 still holds every sum


def roi_pool(input: Tensor, boxes: Boxes, output_size: Pair, spatial_scale: float = 1.0) -> Tensor:
    """The largest value in each bin of each box, (B, C, H, W) and K boxes -> (K, C, *output_size).

    ``boxes``: (K, 5) with rows (image, x1, y1, x2, y2), or a list with (L, 4) for each image; in pixels of the picture,
    for each of which the map has ``spatial_scale``. Corners are rounded to pixels of the map, halves away from zero,
    and both belong to the box, which so has h = max(y2 − y1 + 1, 1) rows; bin p of n runs from row y1 + ⌊p h / n⌋ to
    before row y1 + ⌈(p + 1) h / n⌉, within the map. An empty bin gives 0. The gradient goes to the first largest value
    of each bin, row by row; boxes get none.

    Raises ShapeError for boxes and maps that do not fit together, SettingsError for a wrong grid.
    Source: Girshick, Fast R-CNN (2015), section 2.1; arguments and results are those of ``torchvision.ops.roi_pool``,
    except that NaN and −∞ in a map come out as they are.
    """
    grid = bins(output_size)
    return _roi_pool(input, regions_on(input, boxes), grid, spatial_scale)


def roi_pool_forward(x: Tensor, rois: Tensor, grid: tuple[int, int], scale: float):
    K, (P, Q), C = len(rois), grid, x.shape[1]
    windows = windows_of(rois, grid, scale, x.shape)
    y = x.new_zeros(K * P * Q, C)
    for table, chosen, corners in tables(x.permute(0, 2, 3, 1), None, windows):
        y[chosen] = functools.reduce(torch.maximum, (table[0].index_select(0, corner) for corner in corners))
    return y.view(K, P, Q, C).permute(0, 3, 1, 2).contiguous(), (x, windows)


def roi_pool_backward(needed, grad: Tensor, x: Tensor, windows: Tensor):
    B, C, H, W = x.shape
    g = grad.permute(0, 2, 3, 1).reshape(-1, C)
    number = torch.arange(B * H * W, dtype=torch.int32, device=x.device).view(B, H, W, 1).expand(B, H, W, C)
    d_pixels = grad.new_zeros(B * H * W, C)
    for table, chosen, corners in tables(x.permute(0, 2, 3, 1), number, windows):
        _, where = functools.reduce(
            larger, (tuple(part.index_select(0, corner) for part in table) for corner in corners)
        )
        d_pixels.scatter_add_(0, where.to(torch.int64), g[chosen])
    return d_pixels.view(B, H, W, C).permute(0, 3, 1, 2), None, None, None


_roi_pool = operation(roi_pool_forward, roi_pool_backward)


def windows_of(rois: Tensor, grid: tuple[int, int], scale: float, shape: torch.Size) -> Tensor:
    """What each bin covers, (K · P · Q, 5): image, first row and the row after the last, and so the columns; int64."""
    P, Q = grid
    H, W = shape[2:]
    left, top, right, bottom = rounded(rois[:, 1:] * scale).clamp(-FAR, FAR).to(torch.int64).unbind(1)
    rows = edges(top, bottom, P, H, rois.dtype)[:, :, None, :].expand(-1, P, Q, 2)
    columns = edges(left, right, Q, W, rois.dtype)[:, None, :, :].expand(-1, P, Q, 2)
    image = rois[:, 0].to(torch.int64)[:, None, None, None].expand(-1, P, Q, 1)
    return torch.cat([image, rows, columns], 3).view(-1, 5)


def rounded(x: Tensor) -> Tensor:
    """The nearest whole number, halves away from zero; torch's own ``round`` takes the even one."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


def edges(first: Tensor, last: Tensor, bins: int, length: int, dtype: torch.dtype) -> Tensor:
    """Start and stop of each bin along one axis, (K, bins, 2), within 0..length."""
    step = ((last - first + 1).clamp(min=1).to(dtype) / bins)[:, None]
    p = torch.arange(bins, device=first.device, dtype=dtype)
    offsets = torch.stack([(p * step).floor(), ((p + 1) * step).ceil()], 2).to(torch.int64)
    return (first[:, None, None] + offsets).clamp(0, length)


def tables(x: Tensor, number: Tensor | None, windows: Tensor) -> Iterator[tuple[tuple[Tensor, ...], Tensor, list]]:
    """For each size of window that is needed the table, the bins it serves, and where their four corners stand in it.

    ``x``: (B, H, W, C). A table holds the largest values, (B, H', W', C), and with ``number`` also which pixel each is.
    """
    image, top, bottom, left, right = windows.unbind(1)
    height, width = bottom - top, right - left
    filled = (height > 0) & (width > 0)
    if not filled.any():
        return
    across: tuple[Tensor, ...] = (x,) if number is None else (x, number)
    for v in range(int(width.max()).bit_length()):
        down = across
        for u in range(int(height.max()).bit_length()):
            fits = (height >= 2**u) & (height < 2 ** (u + 1)) & (width >= 2**v) & (width < 2 ** (v + 1))
            served = (filled & fits).nonzero().squeeze(1)
            H, W = down[0].shape[1:3]
            table = tuple(part.reshape(-1, x.shape[3]) for part in down)
            for chosen in served.split(max(AT_ONCE // max(x.shape[3], 1), 1)):
                rows = [top[chosen], bottom[chosen] - 2**u]
                columns = [left[chosen], right[chosen] - 2**v]
                yield table, chosen, [(image[chosen] * H + i) * W + j for i in rows for j in columns]
            down = doubled(down, 1, 2**u)
        across = doubled(across, 2, 2**v)


def doubled(table: tuple[Tensor, ...], axis: int, step: int) -> tuple[Tensor, ...]:
    """The table of windows twice as large along an axis."""
    count = max(table[0].shape[axis] - step, 0)
    here = tuple(part.narrow(axis, 0, count) for part in table)
    there = tuple(part.narrow(axis, part.shape[axis] - count, count) for part in table)
    largest = torch.maximum(here[0], there[0])
    if len(table) == 1:
        return (largest,)
    # windows side by side, then one above the other: among equals the first one's pixel always comes first
    return largest, torch.where(there[0] > here[0], there[1], here[1])


def larger(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Element by element the larger value and which pixel it is: the one with the smaller number among equals."""
    (x, i), (y, j) = a, b
    return torch.maximum(x, y), torch.where((y > x) | ((y == x) & (j < i)), j, i)
