"""Colours of whole batches of images changed, each image by its own amount: brightness, contrast, saturation, hue.

Images are uint8 (N, 1 or 3, H, W), red, green and blue; results are rounded to whole levels and cut off at 0 and 255.
As in `augment`, all draws come from the given generator, on its device.
"""

import torch
from torch import Generator, Tensor

from byhand.data.augment import batch_shape, grey_levels
from byhand.errors import SettingsError, ShapeError

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601: what Pillow's mode L is


def colour_jitter(
    images: Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    *,
    generator: Generator,
) -> Tensor:
    """Each image with its colours changed by its own random amounts, (N, C, H, W) uint8 -> the same.

    The factors of brightness, contrast and saturation are uniform in 1 ± the amount, but not under 0; the hue turns by
    a part of the circle uniform in ±hue (at most ½). They are applied in this order, where torchvision's ColorJitter
    draws an order; the formulas are those of Pillow's `ImageEnhance`, see `adjust_brightness` and so on. Grey images
    have neither saturation nor hue and keep what they have.

    Howard (2013), Some Improvements on Deep Convolutional Neural Network Based Image Classification, section 2
    (brightness, contrast and colour by 0.5 to 1.5).

    Raises:
        SettingsError: an amount that is negative or not finite; a hue above ½.
        ShapeError: images is not uint8 (N, 1 or 3, H, W).
    """
    x = _levels(images)
    amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    for name, amount in amounts.items():
        if not 0 <= amount <= (0.5 if name == "hue" else 1e6):
            most = "0.5, half the circle of colours" if name == "hue" else "a finite number"
            raise SettingsError(f"{name}={amount} must be at least 0 and at most {most}; 0 changes nothing")
    draws = torch.rand(4, len(images), generator=generator, device=generator.device).to(images.device)
    changes = (_brightness, _contrast, _saturation)
    for change, amount, draw in zip(changes, (brightness, contrast, saturation), draws[:3], strict=True):
        if amount:
            low = max(0.0, 1 - amount)
            x = change(x, _each(low + (1 + amount - low) * draw))
    if hue:
        x = _hue(x, _each(hue * (2 * draws[3] - 1)))
    return grey_levels(x)


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """f·x: black for 0, the image itself for 1. Images uint8 (N, C, H, W), factors (N,)."""
    return grey_levels(_brightness(_levels(images), _each(factors)))


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """m + f·(x − m), with m the mean grey of the whole image: one grey for 0, the image itself for 1.

    Images uint8 (N, 1 or 3, H, W), factors (N,). Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R 601), in whole levels.
    """
    return grey_levels(_contrast(_levels(images), _each(factors)))


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """g + f·(x − g), with g the grey of each pixel: a grey image for 0, the image itself for 1.

    Images uint8 (N, 1 or 3, H, W), factors (N,). Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R 601), in whole levels.
    """
    return grey_levels(_saturation(_levels(images), _each(factors)))


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Every colour turned around the circle red, green, blue by `turns` of it: a third makes red green.

    Images uint8 (N, 1 or 3, H, W), turns (N,). From red, green and blue to hue, saturation and value (the hexagon of
    Smith 1978), h + turns modulo 1, and back.
    """
    return grey_levels(_hue(_levels(images), _each(turns)))


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 255)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = (_grey(x).mean((2, 3), keepdim=True) + 0.5).floor()  # (N, 1, 1, 1); a whole level, as in Pillow
    return (mean + factor * (x - mean)).clamp(0, 255)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    grey = _grey(x)
    return (grey + factor * (x - grey)).clamp(0, 255)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    value = x.amax(1, keepdim=True)
    range_ = value - x.amin(1, keepdim=True)
    divisor = torch.where(range_ > 0, range_, 1)  # a grey has no hue; any will do, for its range is 0
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = sixths + 6 * turn  # of the circle
    # A channel is `value` less a share of the range, which is 0 for a third of the circle, then rises to 1, stays and
    # falls again; red, green and blue see the same, two sixths of the circle apart.
    k = torch.cat([torch.remainder(n + sixths, 6) for n in (5, 3, 1)], 1)  # (N, 3, H, W)
    return value - range_ * torch.minimum(k, 4 - k).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """(N, 1, H, W): the luma in whole levels."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 0.5).floor()


def _each(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def _levels(images: Tensor) -> Tensor:
    """The images as float32 in 0..255."""
    channels = batch_shape(images)[1]
    if images.dtype != torch.uint8 or channels not in (1, 3):
        raise ShapeError(
            f"images {tuple(images.shape)} of {images.dtype} must be uint8 (N, 1 or 3, H, W); to_float comes later"
        )
    return images.float()
