"""Masks from polygons, in the way of COCO's own tools: most of its objects are outlines."""

from collections.abc import Sequence

import torch
from torch import Tensor

from byhand.errors import DataError, ShapeError
from byhand.ops.run_length import MOST_PIXELS, RunLengths, from_changes, merge_masks, spread


def encode_polygons(
    polygons: Sequence[Sequence[float]], height: int, width: int, compressed: bool = True
) -> RunLengths:
    """The mask of an object whose outline is one or more polygons, each x1, y1, x2, y2, ... in pixels: their union.

    Outlines are drawn on a grid five times as fine and thinned to the pixels' centres, in the way of pycocotools'
    ``frPyObjects`` and ``merge``. Within one polygon, what its outline encloses twice is left out (even-odd rule).

    Raises DataError for a polygon of fewer than three points, an odd number of numbers, or a point that is not finite
    or farther than 100,000 px from the image; ShapeError for an image without pixels and for no polygons.
    """
    if height < 1 or width < 1 or height * width > MOST_PIXELS or not len(polygons):
        raise ShapeError(
            f"{len(polygons)} polygons in an image of height={height}, width={width}; give at least one polygon, and "
            f"an image of 1 to {MOST_PIXELS} pixels"
        )
    masks = [from_changes(_crossings(polygon, height, width), height, width, False) for polygon in polygons]
    return merge_masks(masks, compressed=compressed)


def _crossings(polygon: Sequence[float], height: int, width: int) -> Tensor:
    """The pixel numbers, in order, at which a mask changes that is drawn from this polygon."""
    farthest = 100_000 + max(height, width)  # the outline has as many points as it is long
    listed = isinstance(polygon, list | tuple) and all(isinstance(x, int | float) for x in polygon)
    if not listed or len(polygon) < 6 or len(polygon) % 2 or not all(abs(x) <= farthest for x in polygon):
        raise DataError(
            f"the polygon {str(polygon)[:60]} must be x1, y1, x2, y2, ... of three or more "
            f"points, each number within ±{farthest}; leave the object out or draw it again"
        )
    points = torch.tensor(polygon, dtype=torch.float64).view(-1, 2)
    x, y = (points * 5 + 0.5).long().T  # C's cast: towards zero
    next_x, next_y = x.roll(-1), y.roll(-1)
    wide = (next_x - x).abs() >= (next_y - y).abs()
    # A line is drawn upwards along its longer axis, so that it has the same points in both directions.
    turned = torch.where(wide, x > next_x, y > next_y)
    left, right = torch.where(turned, next_x, x), torch.where(turned, x, next_x)
    low, high = torch.where(turned, next_y, y), torch.where(turned, y, next_y)
    steps = torch.where(wide, right - left, high - low)
    slope = torch.where(wide, high - low, right - left) / steps.clamp(min=1).double()
    line, along = spread(torch.zeros_like(steps), steps + 1)
    along = torch.where(turned[line], steps[line] - along, along)
    across = torch.where(wide, low, left)[line] + slope[line] * along + 0.5
    u = torch.where(wide[line], left[line] + along, across.long())
    v = torch.where(wide[line], across.long(), low[line] + along)
    # Of the outline only the steps from column to column matter, and of those the ones at a pixel's centre, 5 n + 2.
    here, next_u = u[:-1], u[1:]
    column = torch.where(next_u < here, next_u, next_u - 1)
    kept = (here != next_u) & (column % 5 == 2) & (column >= 0) & (column < 5 * width)
    row = ((torch.minimum(v[:-1], v[1:]) + 2) // 5).clamp(0, height)  # the first centre at or below the outline
    pixel, times = (column // 5 * height + row)[kept].unique(return_counts=True)
    return pixel[times % 2 == 1]  # crossed twice is not crossed
