"""Warped crops: what each box shows, stretched to one size, with some of what lies around it; how R-CNN reads boxes.

Source: Girshick, Donahue, Darrell & Malik, Rich feature hierarchies (2014), section 2.1 and appendix A, figure 7 D.
"""

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.regions import computed_in


def warp_boxes(image: Tensor, boxes: Tensor, size: int, context: int = 0, fill: float = 0.0) -> Tensor:
    """Crops of one image, (C, H, W) and (N, 4) of (x1, y1, x2, y2) in pixels -> (N, C, size, size).

    Both sides are stretched, each by its own factor, until the box fills the middle size − 2 · context pixels of the
    crop; ``context`` pixels on every side show what lies around. A pixel of the crop is one bilinear sample at the
    place of its middle, without smoothing where the image shrinks, as in the authors' code. Samples beyond the edge of
    the image are ``fill``: the mean pixel, which is 0 once it was subtracted.

    So a crop is RoI align (aligned, one sample a bin) of the image itself over the enlarged box, but for the edge,
    where RoI align goes on with the last pixel for one pixel more. Rows are mixed first and columns then: two samples
    each. Neither image nor boxes get a gradient.

    Raises ShapeError for other shapes or boxes that are not finite, SettingsError for a context that leaves no pixel.
    """
    if image.ndim != 3 or not image.is_floating_point() or 0 in image.shape:
        raise ShapeError(f"image is {image.dtype} of shape {tuple(image.shape)}; expected floating-point (C, H, W)")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"boxes has shape {tuple(boxes.shape)}; expected (N, 4), one box a row")
    if size < 1 or not 0 <= 2 * context < size:
        raise SettingsError(f"context={context} on both sides must leave at least one pixel of size={size}")
    finite = torch.isfinite(boxes).all(1)
    if not finite.all():
        k = int(finite.to(torch.int64).argmin())
        raise ShapeError(f"box {k} is {boxes[k].tolist()}, which is not finite; leave such boxes out")
    pixels, places = image.detach(), boxes.detach().to(image.device, computed_in(image))
    C, H, W = pixels.shape
    above, below, down, rows_inside = _samples(places[:, 1], places[:, 3], size, context, H)
    left, right, across, columns_inside = _samples(places[:, 0], places[:, 2], size, context, W)
    rows = pixels.transpose(0, 1).reshape(H, C * W)  # a row of all channels lies together
    down, across = down.to(pixels.dtype), across.to(pixels.dtype)
    mixed = torch.lerp(
        rows.index_select(0, above.flatten()), rows.index_select(0, below.flatten()), down.reshape(-1, 1)
    ).view(-1, size, C, W)
    columns = [one[:, None, None].expand(-1, size, C, -1) for one in (left, right)]
    crops = torch.lerp(mixed.gather(3, columns[0]), mixed.gather(3, columns[1]), across[:, None, None])
    inside = rows_inside[:, :, None] & columns_inside[:, None, :]  # (N, size, size)
    return torch.where(inside[:, None], crops.transpose(1, 2), fill)


def _samples(low: Tensor, high: Tensor, size: int, context: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis of each box: the two pixels that each sample mixes, (N, size), the share of the second, and
    whether the sample lies within the image. The value of pixel i stands for its middle, i + ½."""
    place = torch.arange(size, device=low.device, dtype=low.dtype) + (0.5 - context)
    at = low[:, None] + place * ((high - low) / (size - 2 * context))[:, None]
    middle = (at - 0.5).clamp(0, length - 1)
    first = middle.to(torch.int64)
    return first, (first + 1).clamp(max=length - 1), middle - first, (at >= 0) & (at <= length)
