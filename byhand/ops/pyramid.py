"""RoI align over a pyramid of maps: each box looks at the level whose pixels fit its size."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from byhand.errors import ShapeError
from byhand.ops.convolution import Pair
from byhand.ops.regions import Boxes, bins, regions_on
from byhand.ops.roi_align import roi_align, roi_align_backward, roi_align_forward
from byhand.ops.tape import operation

EPS = 1e-6  # torchvision's: a box of 224 x 224 is on level 4 whatever the rounding of its logarithm


def multiscale_roi_align(
    maps: Mapping[str, Tensor] | Sequence[Tensor],
    boxes: Boxes,
    output_size: Pair,
    sampling_ratio: int,
    image_shapes: Sequence[tuple[int, int]],
    canonical_scale: int = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Each box aligned on the map of its level, maps (B, C, H, W) and K boxes -> (K, C, *output_size).

    ``boxes`` as for ``roi_align``, in pixels of the picture; ``image_shapes``: (height, width) of each picture of the
    batch before they were padded to one size. A box of w × h pixels belongs to level

        k = ⌊k₀ + log₂(√(w h) / 224)⌋,    k₀ = ``canonical_level``, 224 = ``canonical_scale``,

    or the nearest that is there; level k has 2⁻ᵏ pixels for each of the picture. ``maps`` begin with the finest, and
    those of a dict stand in its order; a single one takes all boxes. A map of the same level as one before (as in
    torchvision's MobileNetV3 with a pyramid) takes none.

    Raises ShapeError as ``roi_align``, and where the maps do not make up a pyramid of equal channels.
    Source: Lin et al., Feature Pyramid Networks (2017), section 4.2 and equation 1; results are those of
    ``torchvision.ops.MultiScaleRoIAlign``.
    """
    levels = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    if not levels or not image_shapes or len({x.shape[:2] for x in levels}) > 1:
        raise ShapeError(
            f"maps of shapes {[tuple(x.shape) for x in levels]} for {len(image_shapes)} images; a pyramid is one or "
            "more (B, C, H, W) with the same B and C, and there is a shape for each image"
        )
    rois = regions_on(levels[0], boxes)
    exponents = exponents_of(levels, image_shapes)
    if len(levels) == 1:
        return roi_align(levels[0], rois, output_size, 2.0 ** -exponents[0], sampling_ratio)
    for x in levels[1:]:
        regions_on(x, rois)
    wanted = level_of(rois[:, 1:], exponents[0], exponents[-1], canonical_scale, canonical_level)
    # as torchvision counts: the i-th map after the first is that of the i-th level after it
    chosen = [(wanted == exponents[0] + i).nonzero().squeeze(1) for i in range(len(levels))]
    scales = [2.0**-k for k in exponents]
    return _pyramid_roi_align(rois, bins(output_size), scales, sampling_ratio, chosen, *levels)


def pyramid_roi_align_forward(rois: Tensor, grid: tuple[int, int], scales, ratio: int, chosen, *levels: Tensor):
    y = levels[0].new_zeros(len(rois), levels[0].shape[1], *grid)
    saved = []
    for x, scale, some in zip(levels, scales, chosen, strict=True):
        part, kept = roi_align_forward(x, rois[some], grid, scale, ratio, False)
        y[some] = part
        saved.append(kept)
    return y, (chosen, saved)


def pyramid_roi_align_backward(needed, grad: Tensor, chosen: list[Tensor], saved: list[tuple]):
    d_levels = [
        roi_align_backward(wants, grad[some], *kept)[0] if wants[0] else None
        for wants, some, kept in zip(([n] for n in needed[5:]), chosen, saved, strict=True)
    ]
    return None, None, None, None, None, *d_levels


_pyramid_roi_align = operation(pyramid_roi_align_forward, pyramid_roi_align_backward)


def exponents_of(levels: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[int]:
    """k of each map, where 2⁻ᵏ is the power of two nearest to its height over that of the highest picture."""
    height = max(shape[0] for shape in image_shapes)
    exponents = [round(-math.log2(x.shape[2] / height)) for x in levels]
    if any(after - before not in (0, 1) for before, after in itertools.pairwise(exponents)):
        raise ShapeError(
            f"maps of {[x.shape[2] for x in levels]} rows for pictures of {height} are levels {exponents}; leave none "
            "out and give the finest first"
        )
    return exponents


def level_of(boxes: Tensor, lowest: int, highest: int, canonical_scale: int, canonical_level: int) -> Tensor:
    """k of each box (x1, y1, x2, y2), (K, 4) -> (K,), int64, within lowest..highest."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = (width * height).clamp(min=0).sqrt()
    k = (canonical_level + (side / canonical_scale).log2() + EPS).floor()
    return k.clamp(lowest, highest).to(torch.int64)
