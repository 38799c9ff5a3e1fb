"""Anchors: the boxes that a detector starts from, laid over the image; Dive into Deep Learning, section 14.4.

Two conventions, each as its source has it:

- Faster R-CNN's, in pixels, as torchvision lays them: ratio = height / width, centres at multiples of the stride,
  corners rounded. ``anchor_boxes``.
- The book's (SSD's), in 0..1 of the image: ratio = width / height, centres in the middle of each pixel, sizes combined
  sparingly. ``multibox_prior``.

Order is the same: row by row of the map, within a row pixel by pixel, and then the anchors of that pixel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """The anchors of one cell around (0, 0), (ratios × sizes, 4) in pixels: each ratio with all sizes in turn.

        h = size √ratio,  w = size / √ratio,  (−w, −h, w, h) / 2 rounded to whole pixels (halves to the even one),

    so that each has about the area size².

    Source: Ren et al. (2015), Faster R-CNN, section 3.1.1; the rounding is torchvision's.
    """
    _check_positive("sizes", sizes)
    _check_positive("ratios", ratios)
    scale = torch.tensor(sizes, dtype=dtype)
    tall = torch.tensor(ratios, dtype=dtype).sqrt()
    wide = 1 / tall
    w, h = (wide[:, None] * scale).flatten(), (tall[:, None] * scale).flatten()
    return (torch.stack([-w, -h, w, h], 1) / 2).round()


def anchor_boxes(
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[Sequence[float]],
    image_size: Sequence[int],
    map_sizes: Sequence[Sequence[int]],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The anchors of all levels of feature maps, one level after the other, (N, 4) in pixels of the image.

    ``sizes`` and ``ratios`` hold one sequence a level, ``map_sizes`` one (height, width) a level; ``image_size`` is the
    (height, width) of the batch, padding included. The anchors of map pixel (i, j) are ``cell_anchors`` moved to
    (j, i) times the stride, ⌊image size / map size⌋ for each axis. They may reach beyond the image.

    Raises ShapeError unless the levels are equally many, SettingsError for a map larger than the image.
    """
    if not len(sizes) == len(ratios) == len(map_sizes):
        raise ShapeError(
            f"{len(sizes)} levels of sizes, {len(ratios)} of ratios and {len(map_sizes)} feature maps; "
            "give one sequence of sizes and one of ratios for each map"
        )
    levels = []
    for own_sizes, own_ratios, (height, width) in zip(sizes, ratios, map_sizes, strict=True):
        if not (1 <= height <= image_size[0] and 1 <= width <= image_size[1]):
            raise SettingsError(f"a feature map of {(height, width)} does not fit an image of {tuple(image_size)}")
        around = cell_anchors(own_sizes, own_ratios, dtype).to(device)
        y = torch.arange(height, dtype=dtype, device=device) * (image_size[0] // height)
        x = torch.arange(width, dtype=dtype, device=device) * (image_size[1] // width)
        places = _grid(x, y)  # (height · width, 4)
        levels.append((places[:, None] + around).reshape(-1, 4))
    return torch.cat(levels) if levels else torch.zeros(0, 4, dtype=dtype, device=device)


def multibox_prior(
    height: int,
    width: int,
    sizes: Sequence[float],
    ratios: Sequence[float],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The book's anchors of every pixel of a map, (height · width · (n + m − 1), 4), in 0..1 of the image.

    With sizes s (0..1 of the image's height) and ratios r = width / height in pixels of the map, a pixel has

        (s₁, r₁), (s₂, r₁), …, (sₙ, r₁), (s₁, r₂), …, (s₁, rₘ):    h = s / √r,  w = s √r · height / width,

    around its middle ((j + ½) / width, (i + ½) / height). The factor height / width makes the ratio hold in pixels
    where the map is no square. Source: Dive into Deep Learning, section 14.4.1, ``multibox_prior``.
    """
    _check_positive("sizes", sizes)
    _check_positive("ratios", ratios)
    if min(height, width) < 1:
        raise SettingsError(f"a map of height={height} and width={width} has no pixel")
    scale = torch.tensor([*sizes, *[sizes[0]] * (len(ratios) - 1)], dtype=dtype, device=device)
    root = torch.tensor([*[ratios[0]] * len(sizes), *ratios[1:]], dtype=dtype, device=device).sqrt()
    w, h = scale * root * height / width, scale / root
    x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
    y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
    around = torch.stack([-w, -h, w, h], 1) / 2
    return (_grid(x, y)[:, None] + around).reshape(-1, 4)


def receptive_field(layers: Sequence[Sequence[int]]) -> tuple[int, int, float]:
    """What one pixel of a map sees along an axis, after (kernel, stride, padding) layers: size, stride, first centre.

    ``size`` pixels of the image, ``stride`` of them from one map pixel to the next, and the middle of what the first
    sees, as a coordinate of the image (its first pixel covers 0..1, with its middle at ½):

        size = 1 + Σ (k − 1) S,    stride = Π s,    centre = ½ + Σ ((k − 1) / 2 − p) S,

    S the product of the strides before.

    With odd kernels and p = (k − 1) / 2 the centre is ½, so ``anchor_boxes`` lie half a pixel off.
    """
    size, step, centre = 1, 1, 0.5
    for layer in layers:
        if len(layer) != 3 or layer[0] < 1 or layer[1] < 1 or layer[2] < 0:
            raise SettingsError(f"layer {tuple(layer)} must be (kernel, stride, padding), the first two at least 1")
        kernel, stride, padding = layer
        size += (kernel - 1) * step
        centre += ((kernel - 1) / 2 - padding) * step
        step *= stride
    return size, step, centre


def receptive_centres(layers: Sequence[Sequence[int]], height: int, width: int) -> Tensor:
    """The middle (x, y) of what each pixel of a map sees of the image, (height · width, 2), row by row.

    ``layers`` are (kernel, stride, padding) from the image to the map of that height and width, the same for both axes.
    """
    _, step, first = receptive_field(layers)
    return _grid(torch.arange(width) * step + first, torch.arange(height) * step + first)[:, :2]


def _grid(x: Tensor, y: Tensor) -> Tensor:
    """(x, y, x, y) of every place, row by row, (W,) and (H,) -> (H W, 4)."""
    across, down = x.expand(len(y), len(x)), y[:, None].expand(len(y), len(x))
    return torch.stack([across, down, across, down], -1).reshape(-1, 4)


def _check_positive(name: str, values: Sequence[float]) -> None:
    if not len(values) or min(values) <= 0:
        raise SettingsError(f"{name}={tuple(values)} must be one or more positive numbers")
