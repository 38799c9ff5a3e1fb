"""RoI align: the mean of samples between the pixels, on a grid laid over each box, without any rounding of the box.

A sample at (y, x) is bilinear: a share of four pixels, (1 − |y − i|) (1 − |x − j|) for the rows i and columns j next to
it. Each bin of the grid takes the mean of several samples, so that every output is a weighted sum of pixels, and the
weights separate into those of rows and of columns:

    y[k, c, p, q] = Σ_i Σ_j Wy[k, p, i] Wx[k, q, j] x[image of k, c, i, j].

Few weights are not zero: for a bin of 2 × 2 samples at most 4 × 4. So all outputs together are one product with a
sparse matrix S, which has a row for each bin and a column for each pixel, and the way back is another:

    Y = S X,   ∂L/∂X = Sᵀ ∂L/∂Y,      X: (pixels, C), Y: (K · bins, C).

Two dense products a box, with Wy and with Wx, need more multiplications and a copy of the pixels under each box.

Source: He et al., Mask R-CNN (2017), section 3.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.convolution import Pair
from byhand.ops.regions import Boxes, bins, computed_in, regions_on
from byhand.ops.tape import operation

OUTPUTS = 1 << 19  # numbers of the output in one product: 2 MB, which stay in the processor's cache to be turned over
WEIGHTS = 1 << 21  # weights that are written out at once, those that are zero among them
SAMPLES = 1 << 16  # the most along one axis of a bin; a box that needs more has no sense
SCATTERED = 4  # pixels of the maps for each one under a box, from which on those are gathered one by one


def roi_align(
    input: Tensor,
    boxes: Boxes,
    output_size: Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """The mean of bilinear samples in each bin of each box, (B, C, H, W) and K boxes -> (K, C, *output_size).

    ``boxes``: (K, 5) with rows (image, x1, y1, x2, y2), or a list with (L, 4) for each image; in pixels of the picture,
    for each of which the map has ``spatial_scale``. ``sampling_ratio``: samples along each axis of a bin; where it is
    not positive ⌈size of the box / bins⌉, one for about each pixel. ``aligned`` moves boxes by half a pixel of the map,
    as the value of pixel i stands for its middle, i + ½; without it boxes count as at least one pixel wide and high.

    Samples more than one pixel outside of the map are zero; those nearer take the pixel at the border. Boxes get no
    gradient. Raises ShapeError for boxes and maps that do not fit together, SettingsError for a wrong grid.
    Source: He et al., Mask R-CNN (2017), section 3; arguments and results are those of ``torchvision.ops.roi_align``.
    """
    grid = bins(output_size)
    if int(sampling_ratio) != sampling_ratio:
        raise SettingsError(f"sampling_ratio={sampling_ratio!r} must be a whole number; -1 chooses one for each box")
    return _roi_align(input, regions_on(input, boxes), grid, spatial_scale, int(sampling_ratio), aligned)


def roi_align_forward(x: Tensor, rois: Tensor, grid: tuple[int, int], scale: float, ratio: int, aligned: bool):
    C, num_bins = x.shape[1], grid[0] * grid[1]
    parts = list(weights(x.shape, rois, grid, scale, ratio, aligned))
    used = renumbered(x, parts)
    wide = pixels(x, used).to(rois.dtype)
    y = x.new_empty(len(rois), C, num_bins)
    first = 0
    for place, weight, count in parts:
        some = torch.mm(_sparse(place, weight, (count * num_bins, len(wide))), wide)
        y[first : first + count] = some.view(count, num_bins, C).mT
        first += count
    return y.view(len(rois), C, *grid), (x.shape, used, parts)


def roi_align_backward(needed, grad: Tensor, shape: torch.Size, used: Tensor | None, parts: list):
    B, C, H, W = shape
    if not parts:
        return grad.new_zeros(shape), None, None, None, None, None
    g = grad.flatten(2).mT.reshape(-1, C).to(computed_in(grad))
    turned, first = [], 0
    for place, _, count in parts:
        turned.append(torch.stack([place[1], place[0] + first]))
        first += count * grad.shape[2] * grad.shape[3]
    weight = torch.cat([weight for _, weight, _ in parts])
    size = (B * H * W if used is None else len(used), len(g))
    d_pixels = torch.mm(_sparse(torch.cat(turned, 1), weight, size), g).to(grad.dtype)
    if used is None:
        return d_pixels.view(B, H, W, C).permute(0, 3, 1, 2), None, None, None, None, None
    d_input = grad.new_zeros(B, C, H * W)
    d_input[used // (H * W), :, used % (H * W)] = d_pixels
    return d_input.view(shape), None, None, None, None, None


_roi_align = operation(roi_align_forward, roi_align_backward)


def weights(shape, rois: Tensor, grid, scale: float, ratio: int, aligned: bool) -> Iterator[tuple[Tensor, Tensor, int]]:
    """The sparse matrix S in parts, one for a few boxes: (bin, pixel) of each weight, (2, n), the weights, the boxes.

    Bins are counted within the part, pixels through the batch: (image · H + row) · W + column.
    """
    _, C, H, W = shape
    P, Q = grid
    x, y, width, height = spans(rois, scale, aligned)
    down, across = num_samples(height, P, ratio), num_samples(width, Q, ratio)
    if not len(rois):
        return
    most = [int(samples.max()) for samples in (down, across)]
    # an axis of a bin has at most so many weights
    widest = min(2 * most[0], H + 2) * min(2 * most[1], W + 2) * P * Q
    step = max(1, min(OUTPUTS // (C * P * Q + 1), WEIGHTS // (widest + 1), WEIGHTS // (max(most) * max(P, Q) + 1)))
    image = rois[:, 0].to(torch.int64)[:, None, None] * (H * W)
    for first in range(0, len(rois), step):
        some = slice(first, first + step)
        rows, Wy = along(y[some], height[some], P, down[some], H)
        columns, Wx = along(x[some], width[some], Q, across[some], W)
        weight = (Wy[:, :, None, :, None] * Wx[:, None, :, None, :]).view(-1)
        pixel = (rows * W + image[some])[:, :, None, :, None] + columns[:, None, :, None, :]
        used = weight.nonzero().squeeze(1)
        bin_of = used // max(rows.shape[2] * columns.shape[2], 1)
        yield torch.stack([bin_of, pixel.view(-1)[used]]), weight[used], len(rows)


def spans(rois: Tensor, scale: float, aligned: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, top, width and height of each box in pixels of the map, (K,) each; the value of pixel i stands at i."""
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    x, y = corners[:, 0], corners[:, 1]
    width, height = corners[:, 2] - x, corners[:, 3] - y
    if not aligned:
        width, height = width.clamp(min=1), height.clamp(min=1)
    return x, y, width, height


def num_samples(size: Tensor, bins: int, ratio: int) -> Tensor:
    """How many samples each of the bins takes along an axis of boxes of this size, (K,), int64."""
    if ratio > 0:
        return torch.full_like(size, ratio, dtype=torch.int64)
    samples = (size / bins).ceil()
    if len(size) and not samples.max() <= SAMPLES:
        raise ShapeError(
            f"a box is {size.max().item():g} pixels of the map wide or high, {bins} bins; clip boxes to the image, or "
            "give sampling_ratio"
        )
    return samples.clamp(min=0).to(torch.int64)


def places(start: Tensor, size: Tensor, bins: int, samples: Tensor) -> Tensor:
    """Where along an axis the bins of each box take their samples, (K, bins, most samples), in pixels of the map.

    Of a box with fewer samples a bin than another has, those from ``samples`` on are none.
    """
    here = torch.arange(int(samples.max()), device=start.device)
    step, count = (size / bins)[:, None, None], samples.clamp(min=1)[:, None, None]
    edge = start[:, None, None] + torch.arange(bins, device=start.device)[:, None] * step
    return edge + (here + 0.5) * step / count


def along(start: Tensor, size: Tensor, bins: int, samples: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """One axis of the bins of each box: which pixels each sees, (K, bins, n), and their weights, (K, bins, n).

    Neighbouring samples share pixels, and then their weights are added up: n is as small as the widest bin allows.
    """
    at = places(start, size, bins, samples)
    here, count = torch.arange(at.shape[2], device=at.device), samples.clamp(min=1)[:, None, None]
    inside = (at >= -1) & (at <= length) & (here < samples[:, None, None])
    at = torch.where(inside, at, 0).clamp(0, length - 1)
    low = at.to(torch.int64)
    after, share = at - low, inside.to(at.dtype) / count
    # a sample one pixel after another finds its first pixel where that one's second is; farther on both are new
    move = low[:, :, 1:] - low[:, :, :-1]
    slot = torch.zeros_like(low)
    slot[:, :, 1:] = torch.where((move < 0) | (move > 2), 2, move).cumsum(2)
    room = (*low.shape[:2], int(slot.max()) + 2 if slot.numel() else 0)
    pixel = low.new_zeros(room).scatter_(2, slot, low).scatter_(2, slot + 1, (low + 1).clamp(max=length - 1))
    weight = at.new_zeros(room).scatter_add_(2, slot, (1 - after) * share).scatter_add_(2, slot + 1, after * share)
    return pixel, weight


def renumbered(x: Tensor, parts: list) -> Tensor | None:
    """The pixels of the batch that have a weight, where they are few, and all parts made to count those; else None."""
    B, _, H, W = x.shape
    seen = torch.zeros(B * H * W, dtype=torch.bool, device=x.device)
    for place, _, _ in parts:
        seen[place[1]] = True
    if SCATTERED * int(seen.sum()) > len(seen):
        return None
    number = seen.cumsum(0) - 1
    for place, _, _ in parts:
        place[1] = number[place[1]]
    return torch.arange(len(seen), device=x.device)[seen]


def pixels(x: Tensor, used: Tensor | None) -> Tensor:
    """Maps (B, C, H, W) as rows of channels, one for each pixel or for each that is used: (n, C)."""
    B, C, H, W = x.shape
    if used is not None:
        return x.reshape(B, C, H * W)[used // (H * W), :, used % (H * W)]
    if x.permute(0, 2, 3, 1).is_contiguous():
        return x.permute(0, 2, 3, 1).view(-1, C)
    rows = x.new_empty(B, H * W, C)
    for image, turned in zip(x, rows, strict=True):
        turned.copy_(image.reshape(C, H * W).t())  # a matrix alone is turned over in blocks, a batch is not
    return rows.view(-1, C)


def _sparse(place: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(
        place, weight, size, check_invariants=False
    )  # places are ours, in range by arithmetic
