"""A picture file made to look as the images that a network was trained on."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from byhand.data import entry
from byhand.data.pictures import FORMATS, Unreadable, decode, decode_whole, glance, over_white, without_warnings
from byhand.errors import DataError

_DIM = 13  # grey levels, 5 % of 255: what differs less from the ground is no drawing (Xiao et al. crop there)
_GRAIN = 26  # of ink stretched to 255: what is fainter is paper and JPEG noise, set to black
_DRAWN = 64  # of ink stretched to 255: the crop looks at nothing fainter, such as a shadow or the blur of an edge


def read_image(
    path: str | os.PathLike[str], size: tuple[int, int] = (28, 28), channels: int = 1, centre: bool = True
) -> Tensor:
    """The picture in the file as uint8 (1, channels, H, W) with (H, W) = size, as the data set's own images are.

    The first frame, turned as EXIF says, laid over white where it is transparent. With channels=3 it is then scaled and
    cut to the size. With channels=1 it becomes grey (ITU-R 601 luma) with a black ground under bright ink:

    - The ground is the median of the border pixels; where it is nearer to the brightest than to the darkest value of
      the picture, the picture is inverted.
    - A picture that already has this size is left as it is otherwise, so that an exported image of the data set comes
      back exactly. Its ground is the median of the four corners: clothes of Fashion-MNIST reach the border.
    - Else the ground is subtracted. With `centre`, as MNIST was made (LeCun et al. 1998, section III.A): the ink is
      stretched to 255, cropped to what is drawn, scaled with its proportions kept into 20/28 of the size, stretched
      again, and laid so that its centre of mass is at pixel (H/2, W/2). Sizes under 16 have no margin, and what is
      drawn lies in the middle by its extent: the UCI 8×8 digits fill their field.
    - Without `centre`, as Fashion-MNIST was made (Xiao et al. 2017, section 2; without its sharpening): cropped, the
      longer side scaled to the whole size, laid in the middle.

    Raises:
        DataError: no such file; not a picture, or a damaged one; one of so many pixels that Pillow takes it for an
            attack; or of one colour, so that nothing is drawn.
    """
    height, width = size
    if channels not in (1, 3) or min(size) < 1:
        raise DataError(f"size={size}, channels={channels}: pictures are made to fit at least 1×1 with 1 or 3 channels")
    picture = _opened(Path(path))
    if picture.mode == "F":
        raise DataError(f"{path} has floating-point pixels, of which white is unknown; save it as an 8-bit PNG")
    if channels == 3:
        fitted = ImageOps.fit(_colour(picture).convert("RGB"), (width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(fitted).transpose(2, 0, 1).copy()).unsqueeze(0)

    grey = np.array(_colour(picture).convert("L"))
    exact = grey.shape == (height, width)
    ground = float(np.median(_corners(grey) if exact else _border(grey)))
    darkest, brightest = int(grey.min()), int(grey.max())
    if ground > (darkest + brightest) / 2:
        grey, ground = 255 - grey, 255 - ground
    if exact:
        if darkest == brightest:
            raise _nothing_drawn(path)
        return torch.from_numpy(grey.copy())[None, None]

    ink = np.clip(grey.astype(np.float32) - ground, 0, None)
    if ink.max() < _DIM:
        raise _nothing_drawn(path)
    if centre:
        ink *= 255 / ink.max()
        ink[ink < _GRAIN] = 0
    as_mnist = centre and min(size) >= 16
    margin = round(min(size) * 4 / 28) if as_mnist else 0
    drawn = _scaled(_cropped(ink, _DRAWN if centre else _DIM), height - 2 * margin, width - 2 * margin)
    if not drawn.any():  # specks so far apart that they vanish when they are made small
        raise _nothing_drawn(path)
    if centre:  # the line of a thin pen is faint now
        drawn = (drawn * (255 / drawn.max())).round().astype(np.uint8)
    top, left = _corner(drawn, height, width, by_mass=as_mnist)
    field = np.zeros((height, width), np.uint8)
    field[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return torch.from_numpy(field)[None, None]


def read_whole(path: str | os.PathLike[str]) -> Tensor:
    """The picture in the file in its own size, uint8 (3, H, W): colours also of a grey one, turned as EXIF says.

    Raises DataError for no such file, or not a sound picture.
    """
    try:
        with without_warnings():
            glance(Path(path))
            return torch.from_numpy(decode_whole(Path(path).read_bytes()))
    except Unreadable as reason:
        raise DataError(f"{path} cannot be used as a picture: {reason}; give a sound JPEG or PNG") from None


def read_as_in(dataset: str, path: str | os.PathLike[str], size: tuple[int, int], channels: int) -> Tensor:
    """The picture in the file as uint8 (1, channels, H, W), as the images of the data set of that name were made.

    Raises:
        DataError: no such file, or not a sound picture.
    """
    if entry(dataset).kind == "folder":
        return read_photograph(path, size[0], channels)
    # Digits were centred when their data sets were made; the photographs of clothes fill their frame.
    return read_image(path, size, channels, centre=dataset != "fashion-mnist")


def read_photograph(path: str | os.PathLike[str], size: int, channels: int) -> Tensor:
    """The picture in the file as uint8 (1, channels, size, size), as an image folder's own: `data.pictures.decode`.

    Raises:
        DataError: no such file, or not a sound picture.
    """
    try:
        with without_warnings():
            glance(Path(path))
            pixels = decode(Path(path).read_bytes(), size, channels)
    except Unreadable as reason:
        raise DataError(f"{path} cannot be used as a picture: {reason}; give a sound JPEG or PNG") from None
    return torch.from_numpy(pixels.copy()).unsqueeze(0)


def _opened(path: Path) -> Image.Image:
    """The first frame of the picture, decoded and turned upright."""
    if not path.exists():
        raise DataError(f"no picture at {path}; check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the pictures themselves, such as {path / '*.png'}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; give a PNG or JPEG picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow only warns from here on, and raises at twice as many pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                return ImageOps.exif_transpose(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise DataError(f"{path} says it has more than {limit} pixels; give a smaller picture") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{path} is not a picture; give one of {', '.join(FORMATS)}") from None
    except OSError as error:
        reason = " ".join(str(error.strerror or error).split())
        raise DataError(f"{path} cannot be read as a picture: {reason}; save it anew") from None
    except Exception:  # decoders meet a file made to mislead them with whatever they stumble over
        raise DataError(f"{path} is a damaged picture; save it anew as PNG or JPEG") from None


def _colour(picture: Image.Image) -> Image.Image:
    """The picture over white, in 8 bits: grey where it is grey, else RGB."""
    picture = over_white(picture)
    return picture if picture.mode == "L" else picture.convert("RGB")


def _border(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])


def _corners(grey: np.ndarray) -> np.ndarray:
    return grey[[0, 0, -1, -1], [0, -1, 0, -1]]


def _cropped(ink: np.ndarray, least: float) -> np.ndarray:
    rows, columns = np.nonzero(ink >= least)
    return ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _scaled(ink: np.ndarray, height: int, width: int) -> np.ndarray:
    """The ink as large as fits into height × width with its proportions kept, at least one pixel each way, uint8."""
    scale = min(height / ink.shape[0], width / ink.shape[1])
    new_width, new_height = (max(1, round(side * scale)) for side in (ink.shape[1], ink.shape[0]))
    picture = Image.fromarray(ink.round().astype(np.uint8))
    return np.array(picture.resize((new_width, new_height), Image.Resampling.BILINEAR))


def _corner(drawn: np.ndarray, height: int, width: int, by_mass: bool) -> tuple[int, int]:
    """Row and column of the field for the first pixel of what is drawn, so that nothing of it is cut off."""
    if not by_mass:
        return (height - drawn.shape[0]) // 2, (width - drawn.shape[1]) // 2
    mass = drawn.astype(np.float64) / drawn.sum()
    # In all of MNIST the centre of mass, in pixels counted from 0, lies within half a pixel of (14, 14).
    top = round(height / 2 - float(mass.sum(1) @ np.arange(drawn.shape[0])))
    left = round(width / 2 - float(mass.sum(0) @ np.arange(drawn.shape[1])))
    return min(max(top, 0), height - drawn.shape[0]), min(max(left, 0), width - drawn.shape[1])


def _nothing_drawn(path: str | os.PathLike[str]) -> DataError:
    return DataError(f"{os.fspath(path)} is all of one colour: nothing is drawn; give a picture with something on it")
