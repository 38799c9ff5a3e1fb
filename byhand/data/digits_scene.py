"""digits-scene: several handwritten digits on a textured ground, with exact boxes and masks; made, not downloaded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from byhand.data.entry import Entry

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from byhand.data.detection import DetectionDataset, Objects

DIGITS_SCENE = Entry(
    name="digits-scene",
    title="Scenes of UCI digits on textured grounds, with boxes and masks",
    num_train=1600,
    num_test=400,
    shape=(3, 96, 96),
    class_names=tuple("0123456789"),
    licence="CC BY 4.0",
    citation="made from Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, doi:10.24432/C50P49",
    homepage="https://doi.org/10.24432/C50P49",
    kind="made",
    task="detection",
)

MOST = 6  # digits in a scene
_CHUNK = 200  # scenes made at once; bounds the memory to some 100 MB
_EDGE = 0.5  # of a digit's strength from 0 to 1: from here on a pixel is the digit's
_CONTRAST = 70  # grey levels between a digit and the mean of its ground, at least


@dataclass(frozen=True)
class _Placed:
    """The digits of a chunk of N scenes, slot by slot, later ones over earlier ones: all (N, 6)."""

    digit: "Tensor"  # its place among the images of digits
    size: "Tensor"  # pixels each way of the square that it fills
    left: "Tensor"
    top: "Tensor"
    wanted: "Tensor"  # bool: the scene has so many


def make_digits_scene(
    seed: int = 0,
    num_train: int = 1600,
    num_test: int = 400,
    *,
    size: int = 96,
    channels: int = 3,
    digit_sizes: tuple[int, int] = (12, 40),
    max_hidden: float = 0.4,
) -> "DetectionDataset":
    """Scenes of one to six digits: uint8 (N, channels, size, size), with boxes, labels and masks that are exact.

    A digit of 8×8 is stretched to a square of a size uniform in `digit_sizes` (bilinear) and put anywhere within the
    scene, over those before it, in a light or dark colour of its own. Its strength s, 0 to 1, is that of the ink: from
    0.15 on it covers what lies below with the ground's mean colour, and from 0.2 to 0.7 the ink sets in, so that
    digits that overlap stay apart. Its mask are the pixels with at least half of the ink that no later digit covers;
    its box is the one around its mask and its area the number of its pixels. A digit that would leave less than
    1 − max_hidden of an earlier one to be seen is not put there, so a scene may have fewer than were drawn, but at
    least one. Grounds are sums of soft noise, a gradient and stripes, in a colour of their own, with fine noise.

    Training scenes show training digits of `digits`, test scenes its test digits, so no image of a digit is in both; as
    there, the same hands wrote both. Grey scenes have one channel. The same seed gives the same scenes; the two parts
    come from generators of their own, so that the number of training scenes does not change the test scenes.

    Raises:
        SettingsError: seed negative, a number of scenes under 1, sizes that do not fit, or max_hidden not in 0..1.
        DataError: the package's files are damaged.
    """
    import hashlib

    import torch

    from byhand.data.detection import DetectionDataset
    from byhand.data.digits import load_digits
    from byhand.errors import SettingsError

    smallest, largest = digit_sizes
    for name, value, least in (("num_train", num_train, 1), ("num_test", num_test, 1), ("seed", seed, 0)):
        if value < least:
            raise SettingsError(f"{name}={value} must be at least {least}")
    if not 8 <= smallest <= largest <= size:
        raise SettingsError(f"digit_sizes={digit_sizes} must be (low, high) with 8 <= low <= high <= size={size}")
    if channels not in (1, 3):
        raise SettingsError(f"channels={channels} must be 1 (grey) or 3 (red, green, blue)")
    if not 0 <= max_hidden <= 1:
        raise SettingsError(f"max_hidden={max_hidden} must be in 0..1; 0 lets no digit hide another")
    digits = load_digits()
    images, objects = [], []
    for part, (shapes, labels, num_scenes) in enumerate(
        (
            (digits.train_images, digits.train_labels, num_train),
            (digits.test_images, digits.test_labels, num_test),
        )
    ):
        generator = torch.Generator().manual_seed(2 * seed + part)
        scenes = torch.empty(num_scenes, channels, size, size, dtype=torch.uint8)
        found: list[Objects] = []
        for start in range(0, num_scenes, _CHUNK):
            num_now = min(_CHUNK, num_scenes - start)
            placed = _draw_places(num_now, len(shapes), size, digit_sizes, generator)
            pixels, masks = _paint(placed, shapes, size, channels, max_hidden, generator)
            scenes[start : start + num_now] = pixels
            found += _objects(masks, labels[placed.digit], ("train", "test")[part], start)
        images.append(scenes)
        objects.append(found)
    sha256 = {
        f"{part} scenes": hashlib.sha256(
            scenes.numpy().tobytes() + b"".join(one.boxes.numpy().tobytes() for one in found)
        ).hexdigest()
        for part, scenes, found in zip(("train", "test"), images, objects, strict=True)
    }
    return DetectionDataset(
        DIGITS_SCENE.name,
        images[0],
        objects[0],
        images[1],
        objects[1],
        DIGITS_SCENE.class_names,
        has_masks=True,
        sha256=sha256,
        source=f"made from seed {seed}",
    )


def _draw_places(
    num_scenes: int, num_digits: int, size: int, digit_sizes: tuple[int, int], generator: "Generator"
) -> _Placed:
    import torch

    smallest, largest = digit_sizes
    draws = torch.rand(5, num_scenes, MOST, generator=generator)
    sizes = smallest + (draws[0] * (largest - smallest + 1)).long()
    room = size - sizes + 1
    number = 1 + (draws[1, :, :1] * MOST).long()  # (N, 1), uniform in 1..6
    return _Placed(
        digit=(draws[2] * num_digits).long(),
        size=sizes,
        left=(draws[3] * room).long(),
        top=(draws[4] * room).long(),
        wanted=torch.arange(MOST) < number,
    )


def _paint(
    placed: _Placed, shapes: "Tensor", size: int, channels: int, max_hidden: float, generator: "Generator"
) -> "tuple[Tensor, Tensor]":
    """The scenes, uint8 (N, C, size, size), and what is seen of each digit, bool (N, 6, size, size)."""
    import torch

    num_scenes = len(placed.size)
    ground, mean = _grounds(num_scenes, size, channels, generator)
    colours = _colours(mean, generator)  # (N, 6, C)
    picture = ground
    seen = torch.zeros(num_scenes, MOST, size, size, dtype=torch.bool)
    whole = torch.zeros(num_scenes, MOST)  # pixels of each digit before others hid it
    for slot in range(MOST):
        strength = _strengths(placed, slot, shapes, size)  # (N, size, size)
        covers = strength >= 0.15
        ink = ((strength - 0.2) / 0.5).clamp(0, 1)
        left = (seen & ~covers.unsqueeze(1)).sum((2, 3))  # (N, 6): pixels of the earlier ones that would be left
        fits = placed.wanted[:, slot] & (left >= (1 - max_hidden) * whole).all(1)
        ink, covers = ink * fits.reshape(-1, 1, 1), covers & fits.reshape(-1, 1, 1)
        seen &= ~covers.unsqueeze(1)
        seen[:, slot] = ink >= _EDGE
        whole[:, slot] = seen[:, slot].sum((1, 2)).float()
        picture = torch.where(covers.unsqueeze(1), mean.reshape(num_scenes, channels, 1, 1), picture)
        picture = picture + ink.unsqueeze(1) * (colours[:, slot].reshape(num_scenes, channels, 1, 1) - picture)
    picture = picture + 5 * torch.randn(picture.shape, generator=generator)
    return (picture + 0.5).clamp(0, 255).to(torch.uint8), seen


def _strengths(placed: _Placed, slot: int, shapes: "Tensor", size: int) -> "Tensor":
    """Each scene's digit of this slot at its place, (N, size, size) in 0..1; zeros where the scene wants none."""
    import torch

    from byhand.data.augment import resize

    canvas = torch.zeros(len(placed.size), size, size)
    for pixels in placed.size[:, slot].unique().tolist():  # all of one size together
        (which,) = torch.nonzero((placed.size[:, slot] == pixels) & placed.wanted[:, slot], as_tuple=True)
        stretched = resize(shapes[placed.digit[which, slot]], pixels).squeeze(1).float() / 255  # (n, pixels, pixels)
        across = torch.arange(pixels)
        rows = placed.top[which, slot].unsqueeze(1) + across
        columns = placed.left[which, slot].unsqueeze(1) + across
        canvas[which.reshape(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)] = stretched
    return canvas


def _grounds(num_scenes: int, size: int, channels: int, generator: "Generator") -> "tuple[Tensor, Tensor]":
    """Textures in grey levels, (N, C, size, size), and the mean of each channel, (N, C)."""
    import math

    import torch

    from byhand.data.augment import resize

    def uniform(low: float, high: float, *shape: int) -> "Tensor":
        return low + (high - low) * torch.rand(num_scenes, *shape, generator=generator)

    mean = uniform(30, 225, 1) + uniform(-25, 25, channels)  # (N, C): near a grey, with a tinge
    coarse = torch.randint(0, 256, (num_scenes, channels, 6, 6), generator=generator, dtype=torch.uint8)
    noise = resize(coarse, size).float() / 255 - 0.5  # soft blots, ±½
    place = (torch.arange(size) + 0.5) / size - 0.5
    y, x = place.reshape(1, -1, 1), place.reshape(1, 1, -1)

    def wave(turn: "Tensor") -> "Tensor":
        """How far each pixel lies in the direction of the turn, (N, size, size)."""
        return torch.cos(turn).reshape(-1, 1, 1) * x + torch.sin(turn).reshape(-1, 1, 1) * y

    gradient = wave(uniform(0, 2 * math.pi).reshape(-1))
    times = uniform(3, 12).reshape(-1, 1, 1)
    stripes = torch.sin(2 * math.pi * times * wave(uniform(0, math.pi).reshape(-1)))
    shares = torch.stack([uniform(10, 50), uniform(0, 50), uniform(0, 14)]).reshape(3, num_scenes, 1, 1, 1)
    texture = shares[0] * noise + shares[1] * gradient.unsqueeze(1) + shares[2] * stripes.unsqueeze(1)
    return mean.reshape(num_scenes, channels, 1, 1) + texture, mean


def _colours(mean: "Tensor", generator: "Generator") -> "Tensor":
    """A colour for each digit that all its channels keep from the ground's: (N, C) -> (N, 6, C) in grey levels."""
    import torch

    num_scenes, channels = mean.shape
    draws = torch.rand(num_scenes, MOST, channels, generator=generator)
    lighter = torch.rand(num_scenes, MOST, 1, generator=generator) < 0.5
    grey = mean.mean(1).reshape(-1, 1, 1)
    lighter = torch.where(grey > 255 - 1.5 * _CONTRAST, False, torch.where(grey < 1.5 * _CONTRAST, True, lighter))
    low = mean.unsqueeze(1) + _CONTRAST
    high = mean.unsqueeze(1) - _CONTRAST
    light = low + draws * (255 - low).clamp(min=0)
    dark = high - draws * high.clamp(min=0)
    return torch.where(lighter, light, dark).clamp(0, 255)


def _objects(masks: "Tensor", labels: "Tensor", part: str, start: int) -> "list[Objects]":
    """The objects of each scene of a chunk, from what is seen of the digits in it."""
    from byhand.data.detection import Objects, mask_boxes

    num_scenes, _, height, width = masks.shape
    boxes = mask_boxes(masks.reshape(-1, height, width)).reshape(num_scenes, MOST, 4)
    areas = masks.sum((2, 3)).float()  # (N, 6)
    found = []
    for i in range(num_scenes):
        there = areas[i] > 0
        crowd = there.new_zeros(int(there.sum()))
        name = f"{part} scene {start + i}"
        found.append(
            Objects(
                boxes[i][there], labels[i][there], crowd, areas[i][there], masks[i][there], None, name, start + i + 1
            )
        )
    return found
