"""One picture file as a data set holds it: upright, over white, in 8 bits, a square of a given size or whole."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Plain picture formats. Pillow reads others too, and for one (EPS) starts another program on what the file says.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_MAX_BYTES = 1 << 30  # of one file


class Unreadable(Exception):
    """A file that is no sound picture; the text says why in a few words."""


class Glance(NamedTuple):
    """What a picture's header says: the shorter side in pixels, whether it has no colour, whether it moves."""

    shorter_side: int
    is_grey: bool
    is_animated: bool


def content_of(path: Path) -> bytes:
    """The bytes of the file.

    Raises:
        Unreadable: the system does not give them.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error


def glance(path: Path) -> Glance:
    """What the header of the file says; nothing is decoded.

    Grey is what Pillow opens in a mode without colour (1, L, LA, 16 or 32 bits of grey); a palette counts as colour.

    Raises:
        Unreadable: the file is not there, no picture, has floating-point pixels or so many that it must be an attack.
    """
    with _opened(path) as picture:
        if picture.mode == "F":
            raise Unreadable("has floating-point pixels, of which white is unknown")
        is_grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I")
        # A JPEG with a preview beside it (MPO) is not a moving picture, though Pillow counts its frames.
        is_animated = picture.format != "MPO" and getattr(picture, "is_animated", False)
        return Glance(min(picture.size), is_grey, is_animated)


def measure(path: Path) -> tuple[int, int, bool]:
    """Width and height as the pixels are stored, and whether EXIF says to turn them by a quarter; nothing is decoded.

    Raises:
        Unreadable: as for `glance`.
    """
    with _opened(path) as picture:
        if picture.mode == "F":
            raise Unreadable("has floating-point pixels, of which white is unknown")
        turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return *picture.size, turned


def values_of(path: Path) -> np.ndarray:
    """The values of a picture of one channel as they are stored, of a palette its indices: (H, W).

    Raises:
        Unreadable: it has several channels; or as for `glance` and `decode`.
    """
    with _opened(path) as picture:
        if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
            raise Unreadable(f"has colours ({picture.mode}), expected a palette or grey")
        return np.asarray(picture)


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
    """The picture in a file's bytes as uint8 (channels, size, size), channels 1 (grey) or 3 (red, green, blue).

    The first frame, turned as EXIF says; CMYK and palettes as RGB; 16 bits of grey v as round(v / 257); transparent
    parts over white; grey is ITU-R 601 luma. Then the largest square in the middle is cut out and brought to the size
    by `ImageOps.fit` (bilinear, antialiased). A JPEG of at least four times the size is decoded at a half, a quarter or
    an eighth of its own, but never under twice the size, which spares most of the work on photographs.

    Raises:
        Unreadable: the file is truncated, damaged, or of a kind that has no conversion.
    """
    with _told(), Image.open(BytesIO(content), formats=FORMATS) as picture:
        picture.draft(None, (2 * size, 2 * size))
        flat = over_white(ImageOps.exif_transpose(picture)).convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Pillow says nothing about files that it can still read; what it cannot read is told as Unreadable.

    The filters of `warnings` belong to all threads, so this must be entered before any is started.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def over_white(picture: Image.Image) -> Image.Image:
    """The picture in 8 bits without transparency: 16 bits of grey v as round(v / 257), transparent parts over white."""
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255
        wide = np.asarray(picture).astype(np.float32).clip(0, 65535)
        return Image.fromarray((wide / 257).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture


def decode_whole(content: bytes, upright: bool = True) -> np.ndarray:
    """The picture in a file's bytes in its own size and colours, uint8 (3, H, W); see `decode` for every kind of file.

    It is turned as EXIF says, unless it is to stay as it is stored.

    Raises:
        Unreadable: as for `decode`.
    """
    with _told(), Image.open(BytesIO(content), formats=FORMATS) as picture:
        pixels = np.asarray(over_white(ImageOps.exif_transpose(picture) if upright else picture).convert("RGB"))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file, if that is a file, is not absurdly large, and its pixels are not too many."""
    with _told():
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise Unreadable("is not a file")
        if not 0 < status.st_size <= _MAX_BYTES:
            raise Unreadable(f"is {status.st_size:,} bytes" if status.st_size else "is empty")
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            # Pillow only warns from here on, and raises at twice as many pixels.
            if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
                raise Unreadable(f"has {width * height:,} pixels, more than {Image.MAX_IMAGE_PIXELS:,}")
            yield picture


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a decoder stumbles over, as Unreadable."""
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Unreadable("is not a picture") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except OSError as error:
        raise Unreadable(" ".join(str(error.strerror or error).split()) or "cannot be read") from error
    except Exception as error:  # decoders meet a file made to mislead them with whatever they stumble over
        raise Unreadable(f"is damaged ({' '.join(str(error).split())[:80] or type(error).__name__})") from error
