"""Regions of interest: boxes on the maps of a batch, as pooling and alignment take them."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from byhand.errors import ShapeError
from byhand.ops.convolution import Pair, pair

Boxes = Tensor | Sequence[Tensor]


def regions_on(input: Tensor, boxes: Boxes) -> Tensor:
    """The boxes as rows (image, x1, y1, x2, y2), (K, 5), in the precision in which their maps are computed.

    ``boxes``: such rows already, or one (L, 4) tensor of (x1, y1, x2, y2) for each image of the batch.

    Raises ShapeError for maps that are not (B, C, H, W), boxes of another shape, images that the batch does not hold,
    and numbers that are not finite.
    """
    if input.ndim != 4 or not input.is_floating_point() or not prod(input.shape[2:]):
        raise ShapeError(
            f"input has shape {tuple(input.shape)} and dtype {input.dtype}; regions lie on floating-point maps "
            "(B, C, H, W) of at least one pixel"
        )
    rois = boxes if isinstance(boxes, Tensor) else rows_of(boxes, input)
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ShapeError(
            f"boxes have shape {tuple(rois.shape)}; give (K, 5) with rows (image, x1, y1, x2, y2), or a list with "
            "(L, 4) for each image"
        )
    rois = rois.detach().to(input.device, computed_in(input))
    if not len(rois):
        return rois
    finite = torch.isfinite(rois).all(1)
    if not finite.all():
        k = int(finite.to(torch.int64).argmin())
        raise ShapeError(f"box {k} is {rois[k, 1:].tolist()}, which is not finite; leave such boxes out")
    image = rois[:, 0]
    inside = (image >= 0) & (image < len(input))
    if not inside.all():
        k = int(inside.to(torch.int64).argmin())
        raise ShapeError(f"box {k} lies on image {image[k].item():g}, but the batch holds {len(input)} images")
    return rois


def rows_of(boxes: Sequence[Tensor], like: Tensor) -> Tensor:
    """One (L, 4) for each image -> (K, 5), with the number of the image before each box."""
    for i, some in enumerate(boxes):
        if some.ndim != 2 or some.shape[1] != 4:
            raise ShapeError(f"boxes of image {i} have shape {tuple(some.shape)}; rows are (x1, y1, x2, y2), (L, 4)")
    if len(boxes) != len(like):
        raise ShapeError(f"boxes are a list for {len(boxes)} images, but the batch holds {len(like)} images")
    numbered = [torch.cat([some.new_full((len(some), 1), i), some], 1) for i, some in enumerate(boxes)]
    return torch.cat(numbered) if numbered else like.new_zeros(0, 5)


def computed_in(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32: half precision knows no quarter of a pixel on a map of 1,000."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def bins(output_size: Pair) -> tuple[int, int]:
    """Rows and columns of the grid that each region is cut into."""
    return pair("output_size", output_size)
