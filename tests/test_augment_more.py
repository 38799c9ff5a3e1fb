"""Crops, erasing, colours and mixtures against Pillow, colorsys, slow versions, numpy, and the laws of their draws."""

import ast
import colorsys
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from byhand.data import colour, cutting, mixing
from byhand.errors import SettingsError, ShapeError, TargetError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)


def picture(image: torch.Tensor) -> Image.Image:
    """A (3, H, W) image, or a (1, H, W) one, for Pillow."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def planes(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def fills(values: torch.Tensor, low: float, high: float, within: float = 0.02) -> bool:
    """Whether the values lie in low..high, come near both ends and have the mean and spread of the uniform law."""
    values, reach = values.double(), high - low
    inside = values.min() >= low - 0.002 * reach and values.max() <= high + 0.002 * reach
    ends = values.min() < low + within * reach and values.max() > high - within * reach
    mean = abs(values.mean() - (low + high) / 2) < within * reach
    return bool(inside and ends and mean and abs(values.std() - reach / math.sqrt(12)) < within * reach)


# random resized crop


def drawn_rectangles(monkeypatch, images, **options):
    """The (top, left, height, width) of each image that the crop cuts out."""
    seen = []
    weights = cutting._weights
    monkeypatch.setattr(cutting, "_weights", lambda *a: seen.append(a) or weights(*a))
    cropped = cutting.random_resized_crop(images, generator=seeded(), **options)
    (top, rows, *_), (left, columns, *_) = seen
    return cropped, torch.stack((top, left, rows, columns), 1).tolist()


@pytest.mark.parametrize(("shape", "size"), [((32, 32), None), ((28, 40), (30, 20)), ((64, 50), 16), ((9, 9), 24)])
def test_a_random_resized_crop_equals_pillows_resize_of_that_rectangle_within_one_level(monkeypatch, shape, size):
    images = noise(40, 3, *shape)
    cropped, rectangles = drawn_rectangles(monkeypatch, images, size=size)
    height, width = shape if size is None else (size, size) if isinstance(size, int) else size
    assert cropped.dtype == torch.uint8
    assert cropped.shape == (40, 3, height, width)
    for image, mine, (top, left, rows, columns) in zip(images, cropped, rectangles, strict=True):
        cut = picture(image).crop((left, top, left + columns, top + rows))
        expected = planes(cut.resize((width, height), Image.Resampling.BILINEAR))
        assert (mine.int() - expected.int()).abs().max() <= 1


def test_the_crop_of_floating_point_images_is_the_uint8_one_before_rounding():
    images = noise(20, 2, 12, 12)
    rounded = cutting.random_resized_crop(images, generator=seeded())
    exact = cutting.random_resized_crop(images.double(), generator=seeded())
    assert exact.dtype == torch.float64
    assert (rounded.double() - exact).abs().max() <= 1 + 1e-3  # rounded twice, half a level each time


def test_crops_have_areas_and_ratios_of_the_published_laws():
    side = 10_000  # pixels, so that whole ones do not blur the law
    rectangles, fits = cutting._draw_rectangles(4000, side, side, (0.08, 1.0), (3 / 4, 4 / 3), seeded())
    top, left, rows, columns = rectangles.double()
    assert fits.all()
    assert ((top >= 0) & (left >= 0) & (top + rows <= side) & (left + columns <= side)).all()
    area = rows * columns / side**2
    # a wide rectangle of nearly the whole area does not fit, so that the law holds well below that
    small = area < 0.7
    assert fills(area[small], 0.08, 0.7, within=0.03)
    assert fills(torch.log(columns / rows)[small], math.log(3 / 4), math.log(4 / 3), within=0.03)
    assert fills(top[small] / (side - rows[small]), 0, 1, within=0.03)
    assert fills(left[small] / (side - columns[small]), 0, 1, within=0.03)
    assert torch.corrcoef(torch.stack((area, columns / rows, top / side, left / side))[:, small])[0, 1].abs() < 0.06


def test_where_nothing_fits_the_crop_is_the_largest_in_the_middle(monkeypatch):
    for shape, expected in (((10, 100), [0, 45, 10, 10]), ((100, 10), [45, 0, 10, 10]), ((20, 20), [0, 0, 20, 20])):
        options = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
        _, rectangles = drawn_rectangles(monkeypatch, noise(3, 1, *shape), **options)
        assert rectangles == [expected] * 3
    _, (flat, *_) = drawn_rectangles(monkeypatch, noise(3, 1, 10, 100), scale=(1.0, 1.0), ratio=(2.0, 3.0))
    assert flat == [0, 35, 10, 30]


def test_a_crop_of_everything_is_the_same_picture():
    images = noise(3, 2, 9, 9)
    assert torch.equal(cutting.random_resized_crop(images, scale=(1, 1), ratio=(1, 1), generator=seeded()), images)


# erasing


def test_erasing_overwrites_one_rectangle_with_the_fill_and_leaves_the_rest():
    images = noise(300, 3, 16, 20).clamp(max=200)
    erased = cutting.random_erasing(images, 1.0, fill=(201, 202, 203), generator=seeded())
    changed = (erased != images).any(1)
    rows, columns = changed.any(2), changed.any(1)
    assert torch.equal(changed, rows.unsqueeze(2) & columns.unsqueeze(1))  # a rectangle
    for part in (rows, columns):  # without a gap
        steps = part.int().diff(dim=1).abs().sum(1) + part[:, 0].int() + part[:, -1].int()
        assert set(steps.tolist()) <= {0, 2}
    for channel, value in enumerate((201, 202, 203)):
        assert torch.equal(erased[:, channel], torch.where(changed, value, images[:, channel]))
    area = changed.sum((1, 2)) / (16 * 20)
    assert 0.02 - 0.015 <= area[area > 0].min() < 0.05
    assert 0.35 < area.max() <= 0.4 + 0.05  # to whole pixels
    assert (area > 0).double().mean() > 0.99


def test_the_share_of_images_that_are_erased_is_the_probability():
    images = torch.ones(4000, 1, 16, 16)
    erased = cutting.random_erasing(images, 0.3, fill=0.0, generator=seeded())
    assert 0.27 < (erased != images).flatten(1).any(1).double().mean() < 0.33  # four standard deviations
    assert torch.equal(cutting.random_erasing(images, 0.0, fill=0.0, generator=seeded()), images)


@pytest.mark.parametrize(("dtype", "high"), [(torch.uint8, 255), (torch.float32, 1)])
def test_without_a_fill_the_rectangle_is_noise_of_its_own_in_every_value(dtype, high):
    images = torch.full((400, 3, 16, 16), 1, dtype=dtype)
    erased = cutting.random_erasing(images, 1.0, (0.2, 0.3), generator=seeded())
    assert erased.dtype == dtype
    values = erased[erased != 1]
    assert fills(values, 0, high)
    inside = (erased != 1).all(1)
    red, green = erased[:, 0][inside].double(), erased[:, 1][inside].double()
    assert abs(torch.corrcoef(torch.stack((red, green)))[0, 1]) < 0.03


def slow_cutout(image: torch.Tensor, length: int, y: int, x: int, fill: float) -> torch.Tensor:
    """One image, pixel by pixel, with the square whose middle is (y, x)."""
    cut = image.clone()
    _, height, width = image.shape
    for i in range(y - length // 2, y - length // 2 + length):
        for j in range(x - length // 2, x - length // 2 + length):
            if 0 <= i < height and 0 <= j < width:
                cut[:, i, j] = fill
    return cut


@pytest.mark.parametrize("length", [1, 4, 5])
def test_each_cutout_is_one_of_the_slow_ones_and_every_middle_happens(length):
    image = noise(1, 2, 5, 6).clamp(min=1)
    cut = cutting.cutout(image.expand(600, -1, -1, -1), length, generator=seeded())
    expected = torch.stack([slow_cutout(image[0], length, y, x, 0) for y in range(5) for x in range(6)])
    equal = (cut[:, None] == expected[None]).flatten(2).all(2)  # (600, 30)
    assert equal.any(1).all()
    assert equal.any(0).all()
    assert cut.dtype == torch.uint8


def test_the_middles_of_cutouts_are_uniform_over_the_image():
    cut = cutting.cutout(torch.ones(4000, 1, 40, 40), 1, generator=seeded())
    place = (cut[:, 0] == 0).flatten(1).int().argmax(1)
    assert fills(place // 40, 0, 39)
    assert fills(place % 40, 0, 39)


def test_cutout_fills_each_channel_with_its_own_value_and_of_no_length_cuts_nothing():
    images = torch.zeros(9, 3, 8, 8)
    cut = cutting.cutout(images, 4, (0.1, 0.2, 0.3), generator=seeded())
    for channel, value in enumerate((0.1, 0.2, 0.3)):
        assert set(cut[:, channel].unique().tolist()) == {0.0, torch.tensor(value).item()}
    assert torch.equal(cutting.cutout(images, 0, 1.0, generator=seeded()), images)


# colours

ENHANCERS = {
    colour.adjust_brightness: ImageEnhance.Brightness,
    colour.adjust_contrast: ImageEnhance.Contrast,
    colour.adjust_saturation: ImageEnhance.Color,
}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("adjust", ENHANCERS, ids=lambda adjust: adjust.__name__)
def test_colours_change_as_in_pillow_within_one_level(adjust, channels):
    images = noise(7, channels, 9, 11)
    factors = torch.tensor([0.0, 0.3, 0.75, 1.0, 1.2, 1.7, 3.0])
    adjusted = adjust(images, factors)
    assert adjusted.dtype == torch.uint8
    for image, mine, factor in zip(images, adjusted, factors.tolist(), strict=True):
        expected = planes(ENHANCERS[adjust](picture(image)).enhance(factor))
        assert (mine.int() - expected.int()).abs().max() <= 1
    assert torch.equal(adjusted[3], images[3])


@pytest.mark.parametrize("turn", [-0.5, -1 / 3, -0.1, 0.0, 0.07, 0.25, 1 / 3, 0.5])
def test_the_hue_turns_as_in_colorsys(turn):
    images = noise(2, 3, 6, 6)
    images[0, :, 0] = 128  # greys have no hue
    images[0, :, 1, :3] = torch.eye(3, dtype=torch.uint8) * 255
    images[0, :, 1, 3:] = 255 - torch.eye(3, dtype=torch.uint8) * 255
    turned = colour.adjust_hue(images, torch.full((2,), turn))
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    expected = []
    for pixel in pixels:
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in pixel))
        expected.append([255 * level for level in colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)])
    mine = turned.permute(0, 2, 3, 1).reshape(-1, 3).double()
    assert (mine - torch.tensor(expected)).abs().max() <= 0.5 + 1e-3


def test_a_third_of_the_circle_makes_red_green():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert colour.adjust_hue(red, torch.tensor([1 / 3])).flatten().tolist() == [0, 200, 0]


def test_grey_images_have_no_saturation_and_no_hue_to_change():
    images = noise(5, 1, 4, 4)
    assert torch.equal(colour.colour_jitter(images, saturation=0.9, hue=0.5, generator=seeded()), images)


def test_the_jitter_draws_each_amount_around_one_for_each_image():
    grey = torch.full((4000, 3, 1, 1), 100, dtype=torch.uint8)
    assert fills(colour.colour_jitter(grey, brightness=0.5, generator=seeded())[:, 0, 0, 0], 50, 150)
    assert fills(colour.colour_jitter(grey, brightness=1.5, generator=seeded())[:, 0, 0, 0], 0, 250)  # not under 0
    halves = torch.tensor([50, 150], dtype=torch.uint8).expand(4000, 3, 1, 2)
    contrast = colour.colour_jitter(halves, contrast=0.4, generator=seeded())
    assert fills(contrast[:, 0, 0, 1], 130, 170)
    assert (contrast[:, :, :, 0].int() + contrast[:, :, :, 1] - 200).abs().max() <= 1
    red = torch.tensor([150, 100, 100], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(4000, -1, -1, -1)
    range_ = torch.tensor([1, -1, 0]).reshape(3, 1, 1)
    assert fills((colour.colour_jitter(red, saturation=0.6, generator=seeded()) * range_).sum((1, 2, 3)), 20, 80)
    pure = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(4000, -1, -1, -1)
    turned = colour.colour_jitter(pure, hue=1 / 6, generator=seeded()).int()
    assert fills(turned[:, 1, 0, 0] - turned[:, 2, 0, 0], -255, 255)  # towards yellow, towards magenta
    assert (turned[:, 0] == 255).all()


def test_the_amounts_of_an_image_are_independent_of_each_other():
    draws = torch.tensor([100, 100, 200], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(4000, -1, -1, -1)
    jittered = colour.colour_jitter(draws, brightness=0.2, saturation=0.5, generator=seeded()).double()
    level = jittered[:, 0, 0, 0] * 0.886 + jittered[:, 2, 0, 0] * 0.114
    range_ = (jittered[:, 2, 0, 0] - jittered[:, 0, 0, 0]) / level
    assert abs(torch.corrcoef(torch.stack((level, range_)))[0, 1]) < 0.07


def test_the_order_is_brightness_contrast_saturation_hue():
    images = noise(50, 3, 8, 8)
    together = colour.colour_jitter(images, 0.4, 0.4, 0.4, 0.1, generator=seeded())
    draws = torch.rand(4, 50, generator=seeded())
    one_by_one = images
    for adjust, draw in zip(ENHANCERS, draws, strict=False):
        one_by_one = adjust(one_by_one, 0.6 + 0.8 * draw)
    one_by_one = colour.adjust_hue(one_by_one, 0.1 * (2 * draws[3] - 1))
    difference = (together.int() - one_by_one.int()).abs()  # the latter is rounded four times
    assert difference.double().mean() < 0.6
    assert difference.max() <= 6


# mixtures


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_the_share_has_the_moments_and_the_quantiles_of_the_beta_law(alpha):
    n = 40_000
    share = mixing.symmetric_beta(alpha, n, seeded()).double()
    assert share.min() >= 0
    assert share.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))  # central, of the symmetric law
    assert abs(share.mean() - 0.5) < 4 * math.sqrt(variance / n)
    assert abs(((share - 0.5) ** 2).mean() - variance) < 4 * math.sqrt((fourth - variance**2) / n)
    # both in float32, which has many ones for a small alpha
    reference = np.sort(np.random.default_rng(0).beta(alpha, alpha, n).astype(np.float32))
    mine = np.sort(share.numpy().astype(np.float32))
    gap = np.abs(np.searchsorted(reference, mine, side="right") - np.searchsorted(mine, mine, side="right")) / n
    assert gap.max() < 1.95 * math.sqrt(2 / n)  # Kolmogorov and Smirnov at one in a thousand


def test_mixup_is_the_formula_and_the_targets_have_the_same_share():
    images, labels = noise(64, 3, 4, 4).double(), torch.arange(64) % 7
    mixed, targets = mixing.mixup(images, labels, 7, 0.7, generator=seeded(3))
    generator = seeded(3)
    partner = torch.randperm(64, generator=generator)
    share = mixing.symmetric_beta(0.7, 64, generator)
    for i, (j, part) in enumerate(zip(partner.tolist(), share.tolist(), strict=True)):
        torch.testing.assert_close(mixed[i], part * images[i] + (1 - part) * images[j], rtol=1e-6, atol=1e-4)
        expected = torch.zeros(7)
        expected[labels[i]] += part
        expected[labels[j]] += 1 - part
        torch.testing.assert_close(targets[i], expected)
    assert targets.dtype == torch.float32


def test_mixup_of_uint8_is_the_floating_point_one_rounded():
    images, labels = noise(64, 3, 4, 4), torch.zeros(64, dtype=torch.int64)
    mixed, _ = mixing.mixup(images, labels, 1, 1.0, generator=seeded())
    exact, _ = mixing.mixup(images.double(), labels, 1, 1.0, generator=seeded())
    assert mixed.dtype == torch.uint8
    assert (mixed.double() - exact).abs().max() <= 0.5 + 1e-3


def test_cutmix_puts_a_rectangle_of_the_partner_in_the_same_place_and_counts_its_area():
    num_images, height, width = 300, 12, 10
    # each pixel tells from which image it comes: 300 images in two channels
    number = torch.arange(num_images)
    images = torch.stack((number // 20, number % 20), 1).reshape(-1, 2, 1, 1).expand(-1, -1, height, width).float()
    mixed, targets = mixing.cutmix(images, number, num_images, generator=seeded())
    origin = (mixed[:, 0] * 20 + mixed[:, 1]).long()  # (N, H, W)
    replaced = origin != number.reshape(-1, 1, 1)
    rows, columns = replaced.any(2), replaced.any(1)
    assert torch.equal(replaced, rows.unsqueeze(2) & columns.unsqueeze(1))
    for i in range(num_images):
        partners = origin[i][replaced[i]].unique().tolist()
        assert len(partners) <= 1
        expected = torch.zeros(num_images)
        expected[i] = 1 - replaced[i].double().mean()
        if partners:
            expected[partners[0]] = replaced[i].double().mean()
        torch.testing.assert_close(targets[i], expected)
    assert replaced.any((1, 2)).double().mean() > 0.9


def test_the_rectangle_of_cutmix_has_the_share_of_the_area_that_was_drawn(monkeypatch):
    monkeypatch.setattr(mixing, "symmetric_beta", lambda alpha, n, generator: torch.full((n,), 0.75))
    images = torch.arange(500.0).reshape(-1, 1, 1, 1).expand(-1, 1, 20, 40)
    mixed, targets = mixing.cutmix(images, torch.arange(500), 500, generator=seeded())
    replaced = mixed != images
    heights = replaced.any(3).sum((1, 2))
    widths = replaced.any(2).sum((1, 2))
    assert (heights.max(), widths.max()) == (10, 20)  # √(1 − 0.75) of each side, less where it is cut off
    area = replaced.flatten(1).double().mean(1)
    assert area.max() == pytest.approx(0.25)
    torch.testing.assert_close(targets.diagonal()[area > 0].double(), 1 - area[area > 0])
    middle = replaced.any(3).squeeze(1)[heights == 10].int().argmax(1)
    assert fills(middle, 0, 10, within=0.06)


@pytest.mark.parametrize("mix", [mixing.mixup, mixing.cutmix])
def test_mixtures_happen_with_their_probability_and_targets_sum_to_one(mix):
    images, labels = torch.arange(2000.0).reshape(-1, 1, 1, 1).expand(-1, 1, 16, 16), torch.arange(2000) % 10
    mixed, targets = mix(images, labels, 10, 4.0, 0.3, generator=seeded())
    changed = (mixed != images).flatten(1).any(1).double().mean()
    assert 0.26 < changed < 0.34  # four standard deviations, and a rectangle may have no pixel
    torch.testing.assert_close(targets.sum(1), torch.ones(2000))
    unchanged, certain = mix(images, labels, 10, 4.0, 0.0, generator=seeded())
    assert torch.equal(unchanged, images)
    assert torch.equal(certain, torch.eye(10)[labels])


# all of them


def zeros(images):
    return torch.zeros(len(images), dtype=torch.int64)


DRAWS = {
    "crop": lambda images, generator: cutting.random_resized_crop(images, generator=generator),
    "erasing": lambda images, generator: cutting.random_erasing(images, generator=generator),
    "erasing with black": lambda images, generator: cutting.random_erasing(images, fill=0, generator=generator),
    "cutout": lambda images, generator: cutting.cutout(images, 3, generator=generator),
    "jitter": lambda images, generator: colour.colour_jitter(images, 0.4, 0.4, 0.4, 0.1, generator=generator),
    "mixup": lambda images, generator: mixing.mixup(images, zeros(images), 2, generator=generator)[0],
    "cutmix": lambda images, generator: mixing.cutmix(images, zeros(images), 2, generator=generator)[0],
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


@each_draw
def test_the_generator_alone_decides_and_its_saved_state_gives_the_same_pictures(draw):
    images, generator = noise(32, 3, 8, 8), seeded(5)
    draw(images, generator)
    state = generator.get_state()
    torch.manual_seed(1)
    once = draw(images, generator)
    torch.manual_seed(2)  # the global generator must not matter
    again = draw(images, torch.Generator().set_state(state))
    assert torch.equal(once, again)
    assert not torch.equal(once, draw(images, generator))


@each_draw
def test_nothing_is_drawn_from_the_global_generator_and_the_images_are_left_alone(draw):
    images = noise(8, 3, 8, 8)
    before, state = images.clone(), torch.get_rng_state()
    draw(images, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@each_draw
def test_the_number_of_draws_does_not_depend_on_what_is_drawn(draw):
    states = set()
    for images in (noise(16, 3, 8, 8), torch.zeros(16, 3, 8, 8).byte()):
        generator = seeded(7)
        draw(images, generator)
        states.add(generator.get_state().numpy().tobytes())
    assert len(states) == 1


@each_draw
def test_an_empty_batch_stays_empty_and_shape_and_dtype_stay(draw):
    assert draw(noise(0, 3, 8, 8), seeded()).shape == (0, 3, 8, 8)
    changed = draw(noise(5, 3, 8, 6), seeded())
    assert (changed.shape, changed.dtype) == ((5, 3, 8, 6), torch.uint8)


@each_draw
def test_images_that_lie_otherwise_in_memory_give_the_same(draw):
    images = noise(6, 3, 8, 8)
    batch_last = images.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    assert batch_last.stride() != images.stride()
    assert torch.equal(draw(batch_last, seeded()), draw(images, seeded()))


@each_draw
def test_images_without_a_channel_axis_are_refused_in_one_line(draw):
    with pytest.raises(ShapeError, match=r"\(N, .*, H, W\)") as caught:
        draw(noise(5, 8, 8), seeded())
    assert "\n" not in str(caught.value)


IMAGES, LABELS = noise(4, 3, 8, 8), torch.arange(4)
REFUSED = {
    "scale of 0": lambda g: cutting.random_resized_crop(IMAGES, scale=(0, 1), generator=g),
    "scale above 1": lambda g: cutting.random_resized_crop(IMAGES, scale=(0.5, 1.5), generator=g),
    "scale backwards": lambda g: cutting.random_erasing(IMAGES, scale=(0.5, 0.2), generator=g),
    "scale of nan": lambda g: cutting.random_erasing(IMAGES, scale=(math.nan, 1), generator=g),
    "ratio of 0": lambda g: cutting.random_erasing(IMAGES, ratio=(0, 1), generator=g),
    "ratio without end": lambda g: cutting.random_resized_crop(IMAGES, ratio=(1, math.inf), generator=g),
    "size of 0": lambda g: cutting.random_resized_crop(IMAGES, 0, generator=g),
    "erasing too probable": lambda g: cutting.random_erasing(IMAGES, 1.5, generator=g),
    "fill above 255": lambda g: cutting.random_erasing(IMAGES, fill=256, generator=g),
    "fill of nan": lambda g: cutting.cutout(IMAGES.float(), 2, math.nan, generator=g),
    "length of half a pixel": lambda g: cutting.cutout(IMAGES, 0.5, generator=g),
    "negative length": lambda g: cutting.cutout(IMAGES, -1, generator=g),
    "negative brightness": lambda g: colour.colour_jitter(IMAGES, -0.1, generator=g),
    "contrast of nan": lambda g: colour.colour_jitter(IMAGES, contrast=math.nan, generator=g),
    "hue above a half": lambda g: colour.colour_jitter(IMAGES, hue=0.6, generator=g),
    "alpha of 0": lambda g: mixing.mixup(IMAGES, LABELS, 4, 0, generator=g),
    "alpha without end": lambda g: mixing.cutmix(IMAGES, LABELS, 4, math.inf, generator=g),
    "mixing too probable": lambda g: mixing.mixup(IMAGES, LABELS, 4, 1, 2, generator=g),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_settings_out_of_range_are_refused_in_one_line(call):
    with pytest.raises(SettingsError) as caught:
        call(seeded())
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_are_refused():
    for call, message in (
        (lambda: cutting.cutout(IMAGES, 2, (1, 2), generator=seeded()), "2 values for images of 3 channels"),
        (lambda: colour.colour_jitter(IMAGES.float(), generator=seeded()), "must be uint8"),
        (lambda: colour.adjust_hue(noise(2, 4, 3, 3), torch.zeros(2)), "must be uint8 .N, 1 or 3, H, W."),
        (lambda: mixing.mixup(IMAGES, LABELS[:3], 4, generator=seeded()), r"labels \(3,\) .* must be int64 \(4,\)"),
        (lambda: mixing.cutmix(IMAGES, torch.zeros(4), 4, generator=seeded()), "must be int64"),
        (lambda: cutting.random_resized_crop(noise(2, 1, 0, 4), generator=seeded()), "no pixels"),
    ):
        with pytest.raises(ShapeError, match=message):
            call()


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2, 4]), torch.tensor([-1, 0, 0, 0])])
@pytest.mark.parametrize("mix", [mixing.mixup, mixing.cutmix])
def test_labels_outside_the_classes_are_refused(mix, labels):
    with pytest.raises(TargetError, match=r"labels run from .*, expected 0\.\.3"):
        mix(IMAGES, labels, 4, generator=seeded())


def test_the_modules_call_no_ready_made_layer_sampler_or_law():
    for module in (cutting, colour, mixing):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"functional", "nn", "grid_sample", "interpolate", "distributions", "_standard_gamma"}
