"""Outlines of objects as COCO writes them, polygons and run lengths, as masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_FINE = 5  # steps a pixel in which COCO walks along a polygon's edge


class BadOutline(Exception):
    """An outline that gives no mask; the text says why in a few words."""


def outline_mask(outline: Any, height: int, width: int) -> np.ndarray:
    """The mask of a COCO segmentation, bool (height, width), to the pixel the one that pycocotools gives.

    A list holds polygons [x1, y1, x2, y2, ...] in pixels, of which the union is taken; a dict holds run lengths:
    `size` [height, width], and `counts` as a list, or compressed in text.

    Raises:
        BadOutline: it is neither, or does not fit to the image.
    """
    checked = check_outline(outline, height, width)
    if isinstance(outline, dict):
        return runs_mask(checked, height, width)
    mask = np.zeros((height, width), bool)
    for points in checked:
        mask |= polygon_mask(points, height, width)
    return mask


def check_outline(outline: Any, height: int, width: int) -> list[Any]:
    """The points of each polygon, float64 (P, 2), or the run lengths; nothing is drawn.

    Raises:
        BadOutline: as for `outline_mask`.
    """
    if isinstance(outline, dict):
        size = outline.get("size")
        if not isinstance(size, list | tuple) or [*size] != [height, width]:
            raise BadOutline(f"its run lengths are of {size} pixels, the image has [{height}, {width}]")
        counts = outline.get("counts")
        return check_runs(decompress(counts) if isinstance(counts, str | bytes) else counts, height, width)
    if not isinstance(outline, list | tuple) or not outline:
        raise BadOutline("it is neither a list of polygons nor run lengths")
    return [check_polygon(polygon, height, width) for polygon in outline]


def runs_mask(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """Run lengths as a mask, bool (height, width): n₀ pixels false, n₁ true, n₂ false, ..., column by column."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def check_runs(counts: Any, height: int, width: int) -> list[int]:
    """The run lengths, if they are whole numbers of at least 0 whose sum is height · width; else BadOutline."""
    whole = isinstance(counts, list | tuple) and all(type(count) is int and count >= 0 for count in counts)
    if not whole or sum(counts) != height * width:
        what = f"sum to {sum(counts):,}" if whole else "are not all whole numbers from 0 on"
        raise BadOutline(f"its run lengths {what}, expected {height * width:,} pixels in all")
    return [*counts]


def decompress(text: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed form.

    Each number is written in groups of five bits, the lowest first, as the character 48 + group, plus 32 where another
    follows; the fifth bit of the last is the sign. From the fourth number on it is the difference to the last but one.

    Raises:
        BadOutline: a character that cannot occur, or the last number is cut.
    """
    codes = [byte - 48 for byte in (text.encode("utf-8") if isinstance(text, str) else text)]
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        if not 0 <= code < 64 or shift > 60:
            raise BadOutline("its compressed run lengths hold a character that cannot occur there")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise BadOutline("its compressed run lengths are cut off")
    return counts


def mask_runs(mask: np.ndarray) -> list[int]:
    """A mask, bool (height, width), as the run lengths of `runs_mask`."""
    flat = np.concatenate(([False], mask.T.reshape(-1)))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate(([0], changes, [mask.size]))).tolist()


def polygon_mask(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inside of a polygon with these corners (x, y), (P, 2), as COCO's `rleFrPoly` draws it, bool (height, width).

    The outline is walked in fifths of a pixel; where it passes the middle line of a pixel's column, the pixels of the
    column below that point change sides. So a mask is the parity of the crossings above each pixel.
    """
    fine = np.trunc(_FINE * points + 0.5).astype(np.int64)
    start, end = fine, np.roll(fine, -1, 0)
    # Of each edge the points at every fine step of its longer direction, ends included, in walking order.
    reach = np.abs(end - start)  # (E, 2)
    flat = reach[:, 0] >= reach[:, 1]
    steps = reach.max(1)
    edge = np.repeat(np.arange(len(steps)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    backwards = np.where(flat, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(backwards[:, None], end, start)
    high = np.where(backwards[:, None], start, end)
    along = np.where(flat, 0, 1)
    first, other = np.arange(len(steps)), 1 - along
    rise = (high - low)[first, other]
    # An edge of no length is one point; C divides there, too, but never uses the quotient for another.
    slope = np.divide(rise, steps, out=np.zeros(len(steps)), where=steps > 0)
    step = np.where(backwards[edge], steps[edge] - step, step)
    long = step + low[first, along][edge]
    short = np.trunc(low[first, other][edge] + slope[edge] * step + 0.5).astype(np.int64)
    x, y = np.where(flat[edge], long, short), np.where(flat[edge], short, long)
    # Where the walk changes its column, and that at the middle line of a pixel's column:
    changes = np.flatnonzero(x[1:] != x[:-1]) + 1
    before, after = x[changes - 1], x[changes]
    column = (np.where(after < before, after, after - 1) + 0.5) / _FINE - 0.5
    row = np.ceil(np.clip((np.minimum(y[changes], y[changes - 1]) + 0.5) / _FINE - 0.5, 0, height))
    middle = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    places = (column[middle] * height + row[middle]).astype(np.int64)
    crossings = np.bincount(places, minlength=height * width + 1)[: height * width]
    return (np.cumsum(crossings) % 2 == 1).reshape(width, height).T


def check_polygon(polygon: Any, height: int, width: int) -> np.ndarray:
    """The corners of a polygon [x1, y1, x2, y2, ...], float64 (P, 2).

    Raises:
        BadOutline: fewer than three, a number that is not finite, or one that lies further from the image than the
            image is large.
    """
    flat = isinstance(polygon, Sequence) and not isinstance(polygon, str | bytes)
    if not flat or len(polygon) < 6 or len(polygon) % 2:
        raise BadOutline(
            f"a polygon has {len(polygon) if flat else 'no'} numbers, expected x, y of three or more points"
        )
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in polygon):
        raise BadOutline("a polygon holds something that is no number")
    size = np.array([width, height])
    try:
        points = np.array(polygon, np.float64).reshape(-1, 2)
    except OverflowError:  # JSON's whole numbers have no end
        points = np.array([[np.inf, np.inf]])
    if not (np.isfinite(points).all() and (points >= -size).all() and (points <= 2 * size).all()):
        raise BadOutline(f"a polygon leaves the image of {width} × {height} by more than its size")
    return points
