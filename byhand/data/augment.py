"""Whole batches of images made ready on their device: made to fit, moved a little, turned to floating point.

Pure functions, tensors in and tensors out: images are (N, C, H, W), uint8 with 0..255 or floating point. Only
arithmetic, indexing and matmul, since these kernels run inside a training step by hand. Every random number comes from
the generator that is given and is drawn on the generator's device, so that the same generator state gives the same
pictures again, also on resume, and with a CPU generator the same moves on every device.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
from torch import Generator, Tensor

from byhand.errors import SettingsError, ShapeError

_SLICE = 8192  # images resized at once; bounds the floating-point copies to some 100 MB whatever the set's size


def pad(images: Tensor, amount: int) -> Tensor:
    """The images with `amount` pixels of zeros on every side, (N, C, H, W) -> (N, C, H + 2·amount, W + 2·amount).

    Same dtype and device; amount 2 brings MNIST's 28×28 to LeNet's 32×32, as in LeCun et al. (1998), section II.B.

    Raises:
        SettingsError: amount is negative or not a whole number.
        ShapeError: images is not (N, C, H, W).
    """
    num_images, channels, height, width = batch_shape(images)
    amount = _whole_pixels("amount", amount)
    padded = images.new_zeros((num_images, channels, height + 2 * amount, width + 2 * amount))
    padded[:, :, amount : amount + height, amount : amount + width] = images
    return padded


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The uint8 images at another size, (N, C, H, W) -> (N, C, size, size), or (N, C, *size) for (height, width).

    Output pixel i looks at source position (i + ½)·s with s = old/new through a triangle that reaches max(s, 1) pixels
    to either side; its weights sum to 1. Enlarging, that is bilinear interpolation; shrinking, the triangle widens with
    s and no source pixel is skipped (antialiasing). Both directions are separable: down·images·across, one matmul each.

    Equal to Pillow's `Image.resize(..., Resampling.BILINEAR)`, and so to torchvision's `Resize` of a PIL image, within
    one grey level; like Pillow it goes across first and rounds to whole grey levels in between.

    Raises:
        SettingsError: a size under one pixel.
        ShapeError: images is not (N, C, H, W) of uint8.
    """
    num_images, channels, height, width = batch_shape(images)
    if images.dtype != torch.uint8:
        raise ShapeError(f"resize takes uint8 images, got {images.dtype}; resize first, then to_float")
    new_height, new_width = (size, size) if isinstance(size, int) else size
    if min(new_height, new_width, height, width) < 1:
        raise SettingsError(f"size={size} of {height}×{width} images must be at least 1 pixel each way")
    across = _resize_weights(width, new_width, images.device).T  # (W, W')
    down = _resize_weights(height, new_height, images.device)  # (H', H)
    resized = images.new_empty((num_images, channels, new_height, new_width))
    for start in range(0, num_images, _SLICE):
        part = images[start : start + _SLICE].float() @ across
        resized[start : start + _SLICE] = grey_levels(down @ part.add_(0.5).floor_())  # whole grey levels between, too
    return resized


def to_float(images: Tensor, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0) -> Tensor:
    """(x/255 − mean)/std as float32 for x in 0..255; mean and std on the scale 0–1, one for all channels or one each.

    Raises:
        SettingsError: std is not above zero, or mean or std is not finite.
        ShapeError: images is not (N, C, H, W), or mean or std has another length than C.
    """
    channels = batch_shape(images)[1]
    factor, offset = _factor_and_offset(_fixed(mean), _fixed(std), channels)
    # One multiplication and at most one addition a pixel, in place, not two divisions: this runs in every step.
    x = images.to(torch.float32, copy=True)
    if len(set(factor)) == len(set(offset)) == 1:
        x *= factor[0]
        return x.add_(offset[0]) if offset[0] else x
    per_channel = torch.tensor([factor, offset], device=images.device).reshape(2, channels, 1, 1)
    return x.mul_(per_channel[0]).add_(per_channel[1])


def _fixed(value: float | Sequence[float]) -> float | tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, Iterable) else float(value)


@lru_cache
def _factor_and_offset(mean, std, channels: int) -> tuple[list[float], list[float]]:
    means, stds = _each_channel("mean", mean, channels), _each_channel("std", std, channels)
    if min(stds) <= 0:
        raise SettingsError(f"std={std} must be above 0; leave it at 1 to keep the scale 0–1")
    return [1 / (255 * s) for s in stds], [-m / s for m, s in zip(means, stds, strict=True)]


def random_shift(images: Tensor, max_pixels: int, generator: Generator) -> Tensor:
    """Each image moved by whole pixels, down and right independently, each uniform in −max_pixels..max_pixels.

    What enters at the border is zero; shape, dtype and device stay.

    Raises:
        SettingsError: max_pixels is negative or not a whole number.
        ShapeError: images is not (N, C, H, W).
    """
    num_images, _, height, width = batch_shape(images)
    max_pixels = _whole_pixels("max_pixels", max_pixels)
    if max_pixels == 0:
        return images
    corner = torch.randint(2 * max_pixels + 1, (2, num_images), generator=generator, device=generator.device)
    top, left = corner.to(images.device)
    windows = pad(images, max_pixels).unfold(2, height, 1).unfold(3, width, 1)  # a view (N, C, 2m + 1, 2m + 1, H, W)
    return windows[torch.arange(num_images, device=images.device), :, top, left]


def random_flip(images: Tensor, generator: Generator, vertical: bool = False) -> Tensor:
    """Each image mirrored left to right, or top to bottom, with probability ½; shape, dtype and device stay.

    Raises:
        ShapeError: images is not (N, C, H, W).
    """
    num_images = batch_shape(images)[0]
    mirrored = torch.rand(num_images, generator=generator, device=generator.device) < 0.5
    return torch.where(mirrored.to(images.device).reshape(-1, 1, 1, 1), images.flip(2 if vertical else 3), images)


def random_affine(
    images: Tensor,
    degrees: float = 0.0,
    scale: float = 0.0,
    translate: float = 0.0,
    shear: float = 0.0,
    *,
    generator: Generator,
) -> Tensor:
    """Each image turned, resized, slanted and moved by its own amount about its centre; see `affine` for the sampling.

    Uniform and independent for each image: the angle in ±degrees, the size in 1 ± scale (scale in 0–1), the move in
    ±translate pixels down and right each, the slant along x in ±shear degrees. A point at the offset (x, y) from the
    centre goes to size·R(angle)·[[1, tan slant], [0, 1]]·(x, y) + move. Angles turn clockwise as seen: y points down.

    Raises:
        SettingsError: a negative or non-finite amount, scale of 1 or more, shear of 90 or more.
        ShapeError: images is not (N, C, H, W).
    """
    num_images = batch_shape(images)[0]
    for name, value, limit in (
        ("degrees", degrees, math.inf),
        ("scale", scale, 1),
        ("translate", translate, math.inf),
        ("shear", shear, 90),
    ):
        if not 0 <= value < limit:
            raise SettingsError(f"{name}={value} must be at least 0 and under {limit}; 0 leaves the images as they are")
    draws = torch.rand(5, num_images, generator=generator, device=generator.device) * 2 - 1  # each in −1..1
    turn = draws[0] * math.radians(degrees)
    size = 1 + draws[1] * scale
    slant = torch.tan(draws[2] * math.radians(shear))
    cos, sin = torch.cos(turn), torch.sin(turn)
    linear = torch.stack((cos, cos * slant - sin, sin, sin * slant + cos)) * size  # rows of the 2×2 matrix
    moves = torch.stack((linear[0], linear[1], draws[3] * translate, linear[2], linear[3], draws[4] * translate))
    return affine(images, moves.T.reshape(num_images, 2, 3).to(images.device))


def affine(images: Tensor, moves: Tensor) -> Tensor:
    """Each image under its own affine map, (N, C, H, W) and (N, 2, 3) -> (N, C, H, W), dtype and device kept.

    `moves` takes an offset (x, y) from the picture's centre, in pixels, to moves·(x, y, 1). Each output pixel looks up,
    through the inverse map, where it comes from, and takes the bilinear mean of the four around; outside is zero.
    uint8 images come back rounded to whole grey levels.

    Raises:
        ShapeError: images is not (N, C, H, W) or moves is not (N, 2, 3).
    """
    num_images, channels, height, width = batch_shape(images)
    if moves.shape != (num_images, 2, 3):
        raise ShapeError(f"moves {tuple(moves.shape)} must be ({num_images}, 2, 3), one map an image")
    dtype = images.dtype if images.is_floating_point() else torch.float32
    (a, b, e), (c, d, f) = moves.to(dtype).permute(1, 2, 0).unsqueeze(-1)  # each (N, 1)
    x = (torch.arange(width, device=images.device, dtype=dtype) - (width - 1) / 2).repeat(height)  # (H·W)
    y = (torch.arange(height, device=images.device, dtype=dtype) - (height - 1) / 2).repeat_interleave(width)
    determinant = a * d - b * c
    # Solved for the source position, counted from the corner of a picture with one more pixel of zeros on every side.
    # Beyond that rim everything is zero, so a position further out may as well lie on the rim.
    from_x = d / determinant * x - b / determinant * y + ((b * f - d * e) / determinant + (width + 1) / 2)
    from_y = a / determinant * y - c / determinant * x + ((c * e - a * f) / determinant + (height + 1) / 2)
    from_x, from_y = from_x.clamp(0, width + 1), from_y.clamp(0, height + 1)
    left, top = from_x.floor().clamp(max=width), from_y.floor().clamp(max=height)
    right_share, low_share = (from_x - left).unsqueeze(1), (from_y - top).unsqueeze(1)  # (N, 1, H·W), in 0..1
    corner = (top * (width + 2) + left).long().unsqueeze(1).expand(-1, channels, -1)  # (N, C, H·W)
    rimmed = pad(images, 1).to(dtype).flatten(2)  # (N, C, (H + 2)·(W + 2))
    upper_left, upper_right = rimmed.gather(2, corner), rimmed[:, :, 1:].gather(2, corner)
    below = rimmed[:, :, width + 2 :]
    lower_left, lower_right = below.gather(2, corner), below[:, :, 1:].gather(2, corner)
    upper = upper_left + right_share * (upper_right - upper_left)
    lower = lower_left + right_share * (lower_right - lower_left)
    moved = (upper + low_share * (lower - upper)).reshape(images.shape)
    return moved if images.is_floating_point() else grey_levels(moved)


@lru_cache
def _resize_weights(old: int, new: int, device: torch.device) -> Tensor:
    """(new, old): the share of each old pixel in each new one; rows sum to 1."""
    step = old / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * step
    away = (torch.arange(old, dtype=torch.float64) + 0.5 - centres.unsqueeze(1)).abs()  # (new, old)
    weights = (1 - away / max(step, 1.0)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float().to(device)


def grey_levels(values: Tensor) -> Tensor:
    """The nearest whole grey levels 0..255 as uint8; a half goes up, as in Pillow."""
    return (values + 0.5).clamp_(0, 255).to(torch.uint8)


def batch_shape(images: Tensor) -> tuple[int, int, int, int]:
    """(N, C, H, W) of a batch of images; a ShapeError for anything else."""
    if images.ndim != 4:
        raise ShapeError(f"images of shape {tuple(images.shape)} must be (N, C, H, W); add the axes that are missing")
    num_images, channels, height, width = images.shape
    return num_images, channels, height, width


def _whole_pixels(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 0:
        raise SettingsError(f"{name}={value!r} must be a whole number of pixels, 0 or more")
    return value


def _each_channel(name: str, value: float | Sequence[float], channels: int) -> list[float]:
    values = [float(value)] * channels if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) != channels:
        raise ShapeError(
            f"{name} has {len(values)} values for images of {channels} channels; give one, or one a channel"
        )
    if not all(map(math.isfinite, values)):
        raise SettingsError(f"{name}={value} must be finite")
    return values
