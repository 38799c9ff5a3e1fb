"""From the images of a data set to the batch that a network takes."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from byhand.errors import SettingsError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preparation:
    """How uint8 images become floats: brought to ``size`` pixels by ``resize`` or ``pad``, then (x / 255 − mean) / std.

    ``size=None`` leaves the size as it is. Padding adds black pixels on all four sides, resizing is bilinear. ``mean``
    and ``std`` are one number, or one for each channel.
    """

    size: int | None = None
    fit: str | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # from a record they come as lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.fit not in (None, "resize", "pad") or (self.size is None) != (self.fit is None):
            raise SettingsError(
                f"size={self.size} with fit={self.fit!r}; a size needs fit='resize' or 'pad', and no size none"
            )
        if self.size is not None and (not isinstance(self.size, int) or self.size < 1):
            raise SettingsError(f"size={self.size!r} must be a whole number of pixels, at least 1")
        if not all(is_finite(mean) for mean in each(self.mean)):
            raise SettingsError(f"mean={self.mean!r} must be a finite number, or one for each channel")
        if not all(is_finite(std) and std > 0 for std in each(self.std)):
            raise SettingsError(f"std={self.std!r} must be a finite number above 0; 1 keeps the scale 0–1")

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> "Preparation":
        """The preparation that ``record()`` wrote; without one, x / 255 at the size that comes."""
        return cls(**record) if record else cls()

    def record(self) -> dict[str, Any]:
        """The preparation as plain values."""
        return asdict(self)

    def fitted(self, images: "Tensor") -> "Tensor":
        """The images at the network's size, still uint8: (N, C, H, W) -> (N, C, size, size).

        Raises ShapeError where padding would have to cut, or cannot be the same on all sides.
        """
        from byhand.data import augment

        height, width = images.shape[-2:]
        if self.size is None or (height, width) == (self.size, self.size):
            return images
        if self.fit == "resize":
            return augment.resize(images, self.size)
        margin = self.size - height
        if height != width or margin < 0 or margin % 2:
            raise ShapeError(
                f"images of {height} × {width} cannot be padded evenly to {self.size} × {self.size}; use 'resize'"
            )
        return augment.pad(images, margin // 2)

    def __call__(self, images: "Tensor") -> "Tensor":
        """The float32 batch; what is not uint8 (the features of a regression) comes back as it is."""
        import torch

        from byhand.data import augment

        if images.dtype != torch.uint8:
            return images
        return augment.to_float(self.fitted(images), self.mean, self.std)


def is_finite(value: Any) -> bool:
    """Whether this is a number, and one that a float can hold."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # false for NaN; math.isfinite fails on a whole number too large


def each(value: Any) -> Sequence[Any]:
    """The numbers of a setting that is one number, or one for each channel."""
    return value if isinstance(value, list | tuple) and value else (value,)
