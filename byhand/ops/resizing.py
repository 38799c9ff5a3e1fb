"""Resizing of images and maps: each new pixel looks where its middle would lie in the old image, axis by axis."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.convolution import Pair, pair
from byhand.ops.precision import fractional
from byhand.ops.tape import operation

MODES = ("nearest", "bilinear")


def interpolate(
    input: Tensor,
    size: Pair | None = None,
    scale_factor=None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """The same images in another size, (B, C, H, W) -> (B, C, H', W').

    Either ``size``, (H', W'), or ``scale_factor``: H' = ⌊H · factor⌋. New pixel i lies at s = (i + ½) r − ½ in the old
    image, with r = H / H'; with a scale factor r = 1 / factor, unless ``recompute_scale_factor``. ``nearest`` takes old
    pixel ⌊i r⌋; ``bilinear`` (1 − t) x[⌊s⌋] + t x[⌊s⌋ + 1] with t = s − ⌊s⌋, along columns, then rows; beyond the first
    and the last pixel it takes those. The gradient of a new pixel goes to the old ones in the same shares.

    Raises SettingsError for another mode, ``align_corners=True`` and ``antialias=True``, which have no formula here,
    and for anything but one of size and factor; ShapeError for other shapes.
    """
    if mode not in MODES or align_corners or antialias or (mode == "nearest" and align_corners is not None):
        raise SettingsError(
            f"interpolate with mode={mode!r}, align_corners={align_corners}, antialias={antialias} has no twin by "
            "hand; known: mode='nearest', and mode='bilinear' with align_corners=False"
        )
    if input.ndim != 4 or not input.is_floating_point() or 0 in input.shape[1:]:
        raise ShapeError(
            f"input has shape {tuple(input.shape)} and dtype {input.dtype}; resizing takes floating-point (B, C, H, W)"
        )
    rows, columns = axes_of(input, size, scale_factor, bool(recompute_scale_factor))
    if mode == "nearest":
        return _nearest(input, rows, columns)
    return _bilinear(input, rows, columns)


def resize(input: Tensor, size: Pair) -> Tensor:
    """Images or maps in another size by bilinear interpolation, (B, C, H, W) -> (B, C, *size); see ``interpolate``."""
    return interpolate(input, size, mode="bilinear")


def upsample_nearest(input: Tensor, size: Pair) -> Tensor:
    """Maps in another size by repeating pixels, (B, C, H, W) -> (B, C, *size); see ``interpolate``.

    Source: the top-down path of Lin et al., Feature Pyramid Networks (2017), section 3.
    """
    return interpolate(input, size, mode="nearest")


@dataclass(frozen=True)
class Axis:
    """One axis of a resizing: ``length`` old pixels, ``count`` new ones, each ``step`` old ones wide."""

    length: int
    count: int
    step: float | None  # None: length / count

    def step_in(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The step as torch rounds it: a quotient of numbers of the dtype, which decides where pixels begin."""
        if self.step is not None:
            return torch.tensor(self.step, dtype=dtype, device=device)
        return torch.tensor(self.length, dtype=dtype, device=device) / self.count

    def nearest(self, like: Tensor) -> Tensor:
        """The old pixel of each new one."""
        # As torch has it, whatever the factor: as many pixels stay where they are, twice as many repeat each.
        if self.count in (self.length, 2 * self.length):
            return torch.arange(self.count, device=like.device) // (self.count // self.length)
        new = torch.arange(self.count, dtype=fractional(like), device=like.device)
        # float32 for float64 too, as torch does it
        at = (new * self.step_in(fractional(like), like.device)).to(torch.float32)
        return at.to(torch.int64).clamp(max=self.length - 1)

    def between(self, like: Tensor, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """For the new pixels first..last−1 (all of them) the two old ones next to each, and the share of the second."""
        new = torch.arange(first, self.count if last is None else last, dtype=fractional(like), device=like.device)
        # as in torch a factor that changes nothing moves nothing, as 1.1 of 4 pixels
        step = 1 if self.count == self.length else self.step_in(fractional(like), like.device)
        at = ((new + 0.5) * step - 0.5).clamp(min=0)
        low = at.to(torch.int64).clamp(max=self.length - 1)
        return low, (low + 1).clamp(max=self.length - 1), (at - low).clamp(max=1)


def nearest_forward(x: Tensor, rows: Axis, columns: Axis):
    i, j = rows.nearest(x), columns.nearest(x)
    return x[:, :, i[:, None], j], (x.shape, i, j)


def nearest_backward(needed, grad: Tensor, shape: torch.Size, i: Tensor, j: Tensor):
    down = grad.new_zeros(*grad.shape[:3], shape[3]).index_add_(3, j, grad)
    return grad.new_zeros(shape).index_add_(2, i, down), None, None


_nearest = operation(nearest_forward, nearest_backward)


def bilinear_forward(x: Tensor, rows: Axis, columns: Axis):
    down, across = rows.between(x), columns.between(x)
    y = mixed(mixed(x.to(fractional(x)), 3, *across), 2, *down)
    return y.to(x.dtype), (x.shape, *down, *across)


def bilinear_backward(needed, grad: Tensor, shape: torch.Size, *taps: Tensor):
    g = parted(grad.to(fractional(grad)), 2, shape[2], *taps[:3])
    return parted(g, 3, shape[3], *taps[3:]).to(grad.dtype), None, None


_bilinear = operation(bilinear_forward, bilinear_backward)


def mixed(x: Tensor, axis: int, low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """(1 − share) x[low] + share x[high] along an axis; 2 rows, 3 columns."""
    share = share[:, None] if axis == 2 else share
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def parted(grad: Tensor, axis: int, length: int, low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """The way back of ``mixed``: to each of ``length`` old pixels what the new ones took of it."""
    share = share[:, None] if axis == 2 else share
    shape = list(grad.shape)
    shape[axis] = length
    d = grad.new_zeros(shape).index_add_(axis, low, grad * (1 - share))
    return d.index_add_(axis, high, grad * share)


def axes_of(input: Tensor, size: Pair | None, scale_factor, recompute: bool) -> tuple[Axis, Axis]:
    """Rows and columns of the resizing that these arguments ask for."""
    if (size is None) == (scale_factor is None) or (recompute and size is not None):
        raise SettingsError(
            f"size={size!r} and scale_factor={scale_factor!r}: give one of them; recompute_scale_factor needs a factor"
        )
    H, W = input.shape[2:]
    if size is not None:
        height, width = pair("size", size)
        return Axis(H, height, None), Axis(W, width, None)
    factors = (scale_factor, scale_factor) if isinstance(scale_factor, Real) else tuple(scale_factor)
    if len(factors) != 2 or not all(f > 0 and math.isfinite(f) for f in factors):
        raise SettingsError(f"scale_factor={scale_factor!r} must be a positive number, or two of them: height, width")
    counts = [math.floor(float(n) * f) for n, f in zip((H, W), factors, strict=True)]
    if min(counts) < 1:
        raise ShapeError(f"scale_factor={scale_factor!r} leaves nothing of {H} x {W} pixels; use a larger one")
    steps = [None if recompute else 1.0 / f for f in factors]
    return Axis(H, counts[0], steps[0]), Axis(W, counts[1], steps[1])
