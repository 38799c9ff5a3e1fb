"""Masks of objects: from the small square that a network gives for each box to the whole picture."""

import torch
from torch import Tensor

from byhand.errors import ShapeError
from byhand.ops.precision import fractional
from byhand.ops.resizing import Axis, mixed


def paste_masks_in_image(masks: Tensor, boxes: Tensor, img_shape: tuple[int, int], padding: int = 1) -> Tensor:
    """Each mask at the place and in the size of its box, zero elsewhere, (N, 1, M, M) -> (N, 1, *img_shape).

    ``boxes``: (N, 4), (x1, y1, x2, y2) in pixels; ``img_shape``: (height, width). A mask gets a border of ``padding``
    zeros, so that it can fade out, and its box grows by (M + 2 padding) / M about its middle; corners are cut to whole
    pixels and both belong to the box. In it the mask is resized by bilinear interpolation; what lies outside of the
    picture is left out. Values stay 0..1: it is for the caller to choose a threshold. There is no way back.

    Raises ShapeError for masks that are not (N, 1, M, M), or another number of boxes, and boxes that are not finite.
    Source: He et al., Mask R-CNN (2017), section 3.1; results are those of torchvision's ``paste_masks_in_image``.
    """
    height, width = img_shape
    if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[2] != masks.shape[3] or not masks.shape[3]:
        raise ShapeError(f"masks have shape {tuple(masks.shape)}; squares of one class each are (N, 1, M, M)")
    if boxes.shape != (len(masks), 4):
        raise ShapeError(f"boxes have shape {tuple(boxes.shape)}; {len(masks)} masks take ({len(masks)}, 4)")
    if not torch.isfinite(boxes).all():
        raise ShapeError(f"boxes of {len(masks)} masks hold numbers that are not finite; leave such boxes out")
    M = masks.shape[3]
    pictures = masks.new_zeros(len(masks), 1, height, width)
    framed = masks.new_zeros(len(masks), 1, M + 2 * padding, M + 2 * padding)
    framed[:, :, padding : padding + M, padding : padding + M] = masks.detach()
    corners = grown(boxes.detach(), (M + 2 * padding) / M).to(torch.int64).tolist()
    for picture, mask, (left, top, right, bottom) in zip(pictures, framed, corners, strict=True):
        rows, columns = (Axis(M + 2 * padding, max(n, 1), None) for n in (bottom - top + 1, right - left + 1))
        up, down = max(top, 0), min(top + rows.count, height)
        first, last = max(left, 0), min(left + columns.count, width)
        if up < down and first < last:
            # only what will be seen: a box may be a thousand times as large as the picture
            some = mixed(mask[None].to(fractional(mask)), 3, *columns.between(mask, first - left, last - left))
            picture[:, up:down, first:last] = mixed(some, 2, *rows.between(mask, up - top, down - top))[0]
    return pictures


def grown(boxes: Tensor, factor: float) -> Tensor:
    """Boxes so many times as wide and high about the same middle, (N, 4)."""
    middle = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    return torch.cat([middle - half, middle + half], 1)
