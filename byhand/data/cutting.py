"""Rectangles cut out of whole batches of images: enlarged to the size of the image, or overwritten.

As in `augment`: images are (N, C, H, W), uint8 with 0..255 or floating point, every image draws its own rectangle, and
all draws come from the given generator, on its device, always equally many for the same number of images.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from byhand.data.augment import batch_shape, grey_levels
from byhand.errors import SettingsError, ShapeError

_ATTEMPTS = 10  # rectangles drawn for each image, of which the first that fits is taken

Fill = float | Sequence[float]


def random_resized_crop(
    images: Tensor,
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    *,
    generator: Generator,
) -> Tensor:
    """A random rectangle of each image at one size, (N, C, H, W) -> (N, C, size, size), (N, C, *size) or as it was.

    The rectangle covers a share of the area uniform in `scale` (0–1) at a width over height whose logarithm is uniform
    in that of `ratio`, in whole pixels, anywhere in the image. Drawn up to ten times until it fits; else the largest
    rectangle in the middle whose ratio is within bounds. It is resized as in `augment.resize`: bilinear, antialiased.

    Szegedy et al. (2015), Going Deeper with Convolutions, section 6 (8 % to 100 % of the area, 3/4 to 4/3). How often
    to draw, and what to do else, is torchvision's.

    Raises:
        SettingsError: scale not within 0 < low <= high <= 1, ratio not within 0 < low <= high, or a size under one.
        ShapeError: images is not (N, C, H, W), or has no pixels.
    """
    num_images, _, height, width = batch_shape(images)
    new_height, new_width = (height, width) if size is None else (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ShapeError(f"images of {height}×{width} have no pixels to cut from")
    if min(new_height, new_width) < 1:
        raise SettingsError(f"size={size} must be at least 1 pixel each way")
    _check_range("scale", scale, 1.0)
    _check_range("ratio", ratio, math.inf)
    drawn, fits = _draw_rectangles(num_images, height, width, scale, ratio, generator)
    middle = torch.tensor(_middle(height, width, ratio), device=drawn.device).unsqueeze(1)  # (4, 1)
    top, left, rows, columns = torch.where(fits, drawn, middle).to(images.device)
    down = _weights(top, rows, height, new_height)  # (N, H', H)
    across = _weights(left, columns, width, new_width).transpose(1, 2)  # (N, W, W')
    if images.is_floating_point():
        return down.to(images.dtype).unsqueeze(1) @ (images @ across.to(images.dtype).unsqueeze(1))
    # across first and whole grey levels in between, as Pillow and augment.resize have it
    return grey_levels(down.unsqueeze(1) @ grey_levels(images.float() @ across.unsqueeze(1)).float())


def random_erasing(
    images: Tensor,
    probability: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    fill: Fill | None = None,
    *,
    generator: Generator,
) -> Tensor:
    """Each image, with the given probability, with a random rectangle overwritten; shape, dtype and device stay.

    The rectangle covers a share of the area uniform in `scale` and has a width over height whose logarithm is uniform
    in that of `ratio`; it lies wholly inside. Where ten draws give none that fits, nothing is erased. `fill` is one
    value or one for each channel, on the scale of the images; without it each value becomes noise of its own, uniform
    in 0..255 for uint8 and in 0–1 for floating point.

    Zhong et al. (2020), Random Erasing Data Augmentation, Algorithm 1 and section 4.1 (p = 0.5, noise).
    Deviation, torchvision's too: there the ratio itself is uniform, which makes more upright than lying rectangles.

    Raises:
        SettingsError: probability not in 0–1, scale or ratio out of order, or a fill that the images cannot hold.
        ShapeError: images is not (N, C, H, W), or fill has another length than C.
    """
    num_images, _, height, width = batch_shape(images)
    if not 0 <= probability <= 1:
        raise SettingsError(f"probability={probability} must be in 0–1")
    _check_range("scale", scale, 1.0)
    _check_range("ratio", ratio, math.inf)
    chosen = torch.rand(num_images, generator=generator, device=generator.device) < probability
    (top, left, rows, columns), fits = _draw_rectangles(num_images, height, width, scale, ratio, generator)
    rows = rows * (chosen & fits)  # of no rows: nothing
    if fill is None:
        noise = torch.rand(images.shape, generator=generator, device=generator.device)
        values = noise.mul_(256).to(images.dtype) if images.dtype == torch.uint8 else noise.to(images.dtype)
    else:
        values = _fill_values(fill, images)
    return torch.where(_inside(top, left, rows, columns, images), values.to(images.device), images)


def cutout(images: Tensor, length: int, fill: Fill = 0.0, *, generator: Generator) -> Tensor:
    """Each image with a square of `length` pixels overwritten by `fill`; shape, dtype and device stay.

    The middle of the square is uniform over the pixels of the image, so that a part of it may lie outside. `fill` is
    one value or one for each channel, on the scale of the images.

    DeVries & Taylor (2017), Improved Regularization of Convolutional Neural Networks with Cutout, section 3.2. There
    the images are normalised, and zero is their mean: for uint8 images give the mean colour as 0..255.

    Raises:
        SettingsError: length is no whole number of at least 0, or the images cannot hold the fill.
        ShapeError: images is not (N, C, H, W), or fill has another length than C.
    """
    num_images, _, height, width = batch_shape(images)
    if not isinstance(length, int) or length < 0:
        raise SettingsError(f"length={length!r} must be a whole number of pixels, 0 or more")
    values = _fill_values(fill, images)
    draws = torch.rand(2, num_images, generator=generator, device=generator.device)
    top = (draws[0] * height).long() - length // 2
    left = (draws[1] * width).long() - length // 2
    whole = torch.full_like(top, length)
    return torch.where(_inside(top, left, whole, whole, images), values, images)


def inside(top: Tensor, left: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Whether a pixel lies in its image's rectangle: four of int64 (N,) -> bool (N, 1, height, width)."""
    y, x = torch.arange(height, device=top.device), torch.arange(width, device=top.device)
    top, left, rows, columns = (value.unsqueeze(1) for value in (top, left, rows, columns))
    in_rows = (y >= top) & (y < top + rows)  # (N, H)
    in_columns = (x >= left) & (x < left + columns)  # (N, W)
    return (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1)


def _inside(top: Tensor, left: Tensor, rows: Tensor, columns: Tensor, images: Tensor) -> Tensor:
    return inside(top, left, rows, columns, *images.shape[2:]).to(images.device)


def _draw_rectangles(
    num_images: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Top, left, height, width of the first of ten rectangles that fits, int64 (4, N); and whether one fits, (N,)."""
    draws = torch.rand(4, _ATTEMPTS, num_images, generator=generator, device=generator.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[1])  # width over height
    rows = (torch.sqrt(area / aspect) + 0.5).long()  # the nearest whole number
    columns = (torch.sqrt(area * aspect) + 0.5).long()
    fit = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)  # (10, N)
    top = (draws[2] * (height + 1 - rows)).long()  # uniform in 0..height − rows
    left = (draws[3] * (width + 1 - columns)).long()
    first = fit.long().argmax(0)  # the first of the greatest
    rectangles = torch.stack((top, left, rows, columns))
    return rectangles.gather(1, first.expand(4, 1, num_images)).squeeze(1), fit.any(0)


def _middle(height: int, width: int, ratio: tuple[float, float]) -> list[int]:
    """Top, left, height and width of the largest rectangle in the middle whose ratio lies within bounds."""
    rows = min(height, max(1, round(width / ratio[0])))
    columns = min(width, max(1, round(height * ratio[1])))
    return [(height - rows) // 2, (width - columns) // 2, rows, columns]


def _weights(start: Tensor, length: Tensor, old: int, new: int) -> Tensor:
    """(N, new, old): the share of each old pixel in each new one, if old pixels start..start+length−1 become all new.

    The triangles of `augment.resize`, cut off at the ends of the rectangle; rows sum to 1.
    """
    start, length = start.float().reshape(-1, 1, 1), length.float().reshape(-1, 1, 1)
    pixels = torch.arange(old, device=start.device) + 0.5
    step = length / new
    centres = start + (torch.arange(new, device=start.device).unsqueeze(1) + 0.5) * step  # (N, new, 1)
    weights = (1 - (pixels - centres).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixels > start) & (pixels < start + length))
    return weights / weights.sum(2, keepdim=True)


def _fill_values(fill: Fill, images: Tensor) -> Tensor:
    """(1, 1 or C, 1, 1) in the dtype of the images."""
    values = [float(fill)] if isinstance(fill, int | float) else [float(value) for value in fill]
    if len(values) not in (1, images.shape[1]):
        raise ShapeError(
            f"fill has {len(values)} values for images of {images.shape[1]} channels; give one, or one a channel"
        )
    if not all(math.isfinite(value) for value in values):
        raise SettingsError(f"fill={fill} must be finite")
    if images.dtype == torch.uint8 and not all(0 <= value <= 255 for value in values):
        raise SettingsError(f"fill={fill} must be in 0..255 for uint8 images")
    filled = torch.tensor(values, device=images.device).reshape(1, -1, 1, 1)
    return grey_levels(filled) if images.dtype == torch.uint8 else filled.to(images.dtype)


def _check_range(name: str, limits: tuple[float, float], most: float) -> None:
    low, high = limits
    if not (0 < low <= high <= most and math.isfinite(high)):
        end = f" <= {most:g}" if math.isfinite(most) else ""
        raise SettingsError(f"{name}={limits} must be (low, high) with 0 < low <= high{end}")
