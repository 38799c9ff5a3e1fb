"""One image with its objects changed at random for training: mirrored, scaled, cut, recoloured; boxes and masks follow.

As in `augment`: uint8 images, here (C, H, W) as each has its own size; all draws come from the given generator. The
tensors that come in stay as they are.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from byhand.data import augment
from byhand.data.colour import colour_jitter
from byhand.data.detection import Objects, mask_boxes
from byhand.errors import SettingsError, ShapeError


def flip(image: Tensor, objects: Objects, vertical: bool = False) -> tuple[Tensor, Objects]:
    """Mirrored left to right: x becomes W − x, so the left edge of a box comes from its right one; or top to bottom."""
    height, width = _size(image, objects)
    x1, y1, x2, y2 = objects.boxes.unbind(1)
    edges = (x1, height - y2, x2, height - y1) if vertical else (width - x2, y1, width - x1, y2)
    axis = 1 if vertical else 2
    masks = None if objects.masks is None else objects.masks.flip(axis)
    return image.flip(axis), replace(objects, boxes=torch.stack(edges, 1), masks=masks)


def resize(image: Tensor, objects: Objects, size: tuple[int, int]) -> tuple[Tensor, Objects]:
    """At another size (height, width): the image as in `augment.resize`, boxes and areas by the same factors.

    A pixel of a new mask takes the old one that its middle lies in.

    Raises:
        SettingsError: a size under one pixel.
    """
    height, width = _size(image, objects)
    new_height, new_width = size
    resized = augment.resize(image.unsqueeze(0), size)[0]
    down, across = new_height / height, new_width / width
    factors = objects.boxes.new_tensor([across, down, across, down])
    masks = objects.masks
    if masks is not None:
        masks = masks[:, _sources(height, new_height)][:, :, _sources(width, new_width)]
    return resized, replace(objects, boxes=objects.boxes * factors, areas=objects.areas * down * across, masks=masks)


def crop(
    image: Tensor, objects: Objects, top: int, left: int, height: int, width: int, min_visible: float = 0.0
) -> tuple[Tensor, Objects]:
    """The rectangle of these whole pixels, and the objects whose middle is in it and of which enough is left.

    Boxes are cut at its border; where there are masks, a box that was cut also ends where what is left of its mask
    ends. An object goes if the middle of its box is outside, if less than `min_visible` of its area (of its mask, else
    of its box) is inside, or nothing of its mask. Areas shrink by the same share. A crowd stays as long as any of it is
    inside: what it covers must not become ground.

    Raises:
        SettingsError: the rectangle is not wholly within the image, or is empty; min_visible is not in 0..1.
    """
    old_height, old_width = _size(image, objects)
    inside = 0 <= top < top + height <= old_height and 0 <= left < left + width <= old_width
    if not inside:
        raise SettingsError(
            f"rectangle of {height} × {width} pixels at ({top}, {left}) must lie within the image of "
            f"{old_height} × {old_width}"
        )
    if not 0 <= min_visible <= 1:
        raise SettingsError(f"min_visible={min_visible} must be in 0..1; 0 keeps whatever has its middle inside")
    old = objects.boxes
    corner = old.new_tensor([left, top, left, top])
    limits = old.new_tensor([width, height, width, height])
    boxes = (old - corner).clamp(min=0).minimum(limits)
    sizes, old_sizes = boxes[:, 2:] - boxes[:, :2], old[:, 2:] - old[:, :2]
    share = sizes.prod(1) / old_sizes.prod(1)
    masks = objects.masks
    if masks is not None:
        pixels = masks.sum((1, 2))
        masks = masks[:, top : top + height, left : left + width]
        left_pixels = masks.sum((1, 2))
        # A mask without a pixel (of an outline thinner than one) says nothing; then its box does.
        share = torch.where(pixels > 0, left_pixels / pixels.clamp(min=1), share)
        tight = mask_boxes(masks)
        tight = torch.cat((boxes[:, :2].maximum(tight[:, :2]), boxes[:, 2:].minimum(tight[:, 2:])), 1)
        was_cut = (boxes != old - corner).any(1) & (left_pixels > 0)
        boxes = torch.where(was_cut.unsqueeze(1), tight, boxes)
        sizes = boxes[:, 2:] - boxes[:, :2]
    middle = (old[:, :2] + old[:, 2:]) / 2 - corner[:2]
    centred = ((middle >= 0) & (middle < limits[:2])).all(1)
    enough = (centred | objects.crowd) & ((share >= min_visible) | objects.crowd)
    kept = enough & (share > 0) & (sizes > 0).all(1)
    moved = replace(objects, boxes=boxes, masks=masks, areas=objects.areas * share)
    return image[:, top : top + height, left : left + width], moved.select(kept)


def random_flip(
    image: Tensor, objects: Objects, probability: float = 0.5, vertical: bool = False, *, generator: Generator
) -> tuple[Tensor, Objects]:
    """`flip` with the given probability. Not for digits or letters, whose mirror image is no such."""
    if not 0 <= probability <= 1:
        raise SettingsError(f"probability={probability} must be in 0..1")
    mirrored = _uniform(generator) < probability
    return flip(image, objects, vertical) if mirrored else (image, objects)


def scale_jitter(
    image: Tensor, objects: Objects, scale: tuple[float, float] = (0.8, 1.25), *, generator: Generator
) -> tuple[Tensor, Objects]:
    """At a random size: both sides by one factor whose logarithm is uniform in that of `scale`, in whole pixels.

    Raises:
        SettingsError: scale not within 0 < low <= high.
    """
    low, high = scale
    if not (0 < low <= high < math.inf):
        raise SettingsError(f"scale={scale} must be (low, high) with 0 < low <= high")
    factor = math.exp(math.log(low) + (math.log(high) - math.log(low)) * _uniform(generator))
    height, width = _size(image, objects)
    size = max(1, round(factor * height)), max(1, round(factor * width))
    return resize(image, objects, size)


def random_crop(
    image: Tensor,
    objects: Objects,
    share: tuple[float, float] = (0.6, 1.0),
    min_visible: float = 0.3,
    *,
    generator: Generator,
) -> tuple[Tensor, Objects]:
    """A random rectangle, anywhere; height and width each a share of the image's, uniform in `share`. See `crop`.

    Raises:
        SettingsError: share not within 0 < low <= high <= 1, or min_visible not in 0..1.
    """
    low, high = share
    if not 0 < low <= high <= 1:
        raise SettingsError(f"share={share} must be (low, high) with 0 < low <= high <= 1")
    height, width = _size(image, objects)
    draws = torch.rand(4, generator=generator, device=generator.device).tolist()
    rows, columns = (max(1, round((low + (high - low) * d) * n)) for d, n in zip(draws, (height, width), strict=False))
    top, left = int(draws[2] * (height - rows + 1)), int(draws[3] * (width - columns + 1))
    return crop(image, objects, top, left, rows, columns, min_visible)


def random_colour(
    image: Tensor,
    objects: Objects,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    *,
    generator: Generator,
) -> tuple[Tensor, Objects]:
    """With other colours, see `colour.colour_jitter`; the objects stay where they are."""
    changed = colour_jitter(image.unsqueeze(0), brightness, contrast, saturation, hue, generator=generator)
    return changed[0], objects


@dataclass(frozen=True)
class DetectionChanges:
    """The changes of a training, one after the other: flips, scale, crop, colour. By default there are none.

    `flip` and `vertical_flip` are probabilities, `scale` the range of `scale_jitter`, `crop` that of `random_crop` with
    `min_visible`, and the rest are the amounts of `colour_jitter`. Called with an image, its objects and a generator.
    """

    flip: float = 0.0
    scale: tuple[float, float] | None = None
    crop: tuple[float, float] | None = None
    min_visible: float = 0.3
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    vertical_flip: float = 0.0

    def __call__(self, image: Tensor, objects: Objects, generator: Generator) -> tuple[Tensor, Objects]:
        """The image and the objects after all changes."""
        if self.flip:
            image, objects = random_flip(image, objects, self.flip, generator=generator)
        if self.vertical_flip:
            image, objects = random_flip(image, objects, self.vertical_flip, vertical=True, generator=generator)
        if self.scale:
            image, objects = scale_jitter(image, objects, self.scale, generator=generator)
        if self.crop:
            image, objects = random_crop(image, objects, self.crop, self.min_visible, generator=generator)
        amounts = (self.brightness, self.contrast, self.saturation, self.hue)
        if any(amounts):
            image, objects = random_colour(image, objects, *amounts, generator=generator)
        return image, objects


def _sources(old: int, new: int) -> Tensor:
    """The old pixel in which the middle of each new one lies, int64 (new,)."""
    return ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new).long().clamp(max=old - 1)


def _uniform(generator: Generator) -> float:
    return torch.rand((), generator=generator, device=generator.device).item()


def _size(image: Tensor, objects: Objects) -> tuple[int, int]:
    """Height and width of the image; a ShapeError if it is none, or its masks are of another size."""
    if image.ndim != 3 or image.dtype != torch.uint8:
        raise ShapeError(f"image {tuple(image.shape)} of {image.dtype} must be uint8 (C, H, W)")
    if objects.masks is not None and objects.masks.shape[1:] != image.shape[1:]:
        raise ShapeError(f"masks {tuple(objects.masks.shape)} of an image {tuple(image.shape)} must be of its size")
    return image.shape[1], image.shape[2]
