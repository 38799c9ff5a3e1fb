"""Image preparation against Pillow, torch's grid_sample and slow versions, one image at a time."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from byhand.data import augment
from byhand.errors import SettingsError, ShapeError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=seeded(seed), dtype=torch.uint8)


def pillow_resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """One (H, W) image through Pillow, as torchvision's Resize of a PIL image does it."""
    picture = Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture))


RESIZES = [
    ((28, 28), (32, 32)),  # the source's LeNet input
    ((8, 8), (32, 32)),
    ((32, 32), (28, 28)),
    ((28, 28), (14, 9)),
    ((37, 23), (13, 64)),  # down one way, up the other
    ((240, 320), (28, 28)),
    ((28, 28), (28, 28)),
    ((5, 5), (1, 1)),
    ((1, 1), (5, 3)),
]


@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resize_equals_pillow_within_one_grey_level(old, new):
    images = noise(3, 2, *old)
    resized = augment.resize(images, new)
    expected = torch.stack([torch.stack([pillow_resized(c, *new) for c in image]) for image in images])
    assert resized.dtype == torch.uint8
    assert resized.shape == (3, 2, *new)
    assert (resized.int() - expected.int()).abs().max() <= 1


def test_resize_of_black_and_white_stripes_keeps_within_one_grey_level_of_pillow_and_never_wraps_around():
    stripes = (torch.arange(28) % 2 * 255).to(torch.uint8).expand(1, 1, 28, 28).contiguous()
    for size in (32, 17):
        difference = augment.resize(stripes, size)[0, 0].int() - pillow_resized(stripes[0, 0], size, size).int()
        assert difference.abs().max() <= 1


def test_resize_takes_one_number_for_a_square():
    images = noise(2, 1, 28, 28)
    assert torch.equal(augment.resize(images, 32), augment.resize(images, (32, 32)))


def test_resize_gives_the_same_pictures_whether_a_set_is_worked_in_slices_or_not(monkeypatch):
    images = noise(7, 1, 9, 9)
    whole = augment.resize(images, 12)
    monkeypatch.setattr(augment, "_SLICE", 3)
    assert torch.equal(augment.resize(images, 12), whole)


def test_resize_of_no_images_is_no_images():
    assert augment.resize(noise(0, 1, 28, 28), 32).shape == (0, 1, 32, 32)


@pytest.mark.parametrize("size", [0, -3, (32, 0)])
def test_resize_to_under_one_pixel_is_refused(size):
    with pytest.raises(SettingsError, match="at least 1 pixel"):
        augment.resize(noise(1, 1, 28, 28), size)


def test_resize_of_floating_point_images_is_refused():
    with pytest.raises(ShapeError, match="uint8"):
        augment.resize(torch.zeros(1, 1, 28, 28), 32)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pad_puts_zeros_around_and_keeps_the_dtype(dtype):
    images = noise(2, 3, 4, 5).to(dtype)
    padded = augment.pad(images, 2)
    assert padded.dtype == dtype
    assert np.array_equal(padded.numpy(), np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2))))


def test_to_float_of_mnist_black_and_white_is_the_hand_calculation():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    expected = torch.tensor([-0.1307 / 0.3081, (0.2 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081]).reshape(1, 1, 1, 3)
    floats = augment.to_float(images, 0.1307, 0.3081)
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats, expected)


def test_to_float_without_mean_and_std_is_the_scale_from_zero_to_one():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    torch.testing.assert_close(augment.to_float(levels), levels / 255, rtol=1e-6, atol=0)


def test_to_float_takes_one_mean_and_std_for_each_channel():
    images, mean, std = noise(2, 3, 4, 4), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(augment.to_float(images, mean, std), expected, rtol=1e-5, atol=1e-5)


def test_to_float_leaves_floating_point_images_as_they_were():
    images = noise(1, 1, 3, 3).float()
    before = images.clone()
    augment.to_float(images, 0.5, 0.5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"std": math.nan}, {"mean": math.inf}, {"std": (0.1, -0.1)}])
def test_to_float_refuses_a_mean_or_std_that_makes_no_sense(settings):
    with pytest.raises(SettingsError):
        augment.to_float(noise(1, 2, 3, 3), **settings)


def test_to_float_refuses_a_mean_of_the_wrong_length():
    with pytest.raises(ShapeError, match="2 values for images of 3 channels"):
        augment.to_float(noise(1, 3, 4, 4), mean=(0.1, 0.2))


def slow_shift(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """One (C, H, W) image moved pixel by pixel."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                moved[:, i, j] = image[:, i - down, j - right]
    return moved


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_shifted_image_is_one_of_the_slow_shifts_and_all_of_them_happen(dtype):
    image = noise(1, 2, 6, 5).to(dtype)
    shifted = augment.random_shift(image.expand(400, -1, -1, -1), 2, seeded())
    expected = torch.stack([slow_shift(image[0], down, right) for down in range(-2, 3) for right in range(-2, 3)])
    equal = (shifted[:, None] == expected[None]).flatten(2).all(2)  # (400, 25)
    assert shifted.dtype == dtype
    assert equal.sum(1).eq(1).all()
    assert equal.any(0).all()


def test_shift_moves_channels_of_an_image_together_and_images_apart():
    image = noise(1, 1, 8, 8).expand(64, 3, 8, 8)
    shifted = augment.random_shift(image, 1, seeded())
    assert torch.equal(shifted[:, 0], shifted[:, 2])
    assert len({picture.numpy().tobytes() for picture in shifted[:, 0]}) == 9


def test_shift_by_more_than_the_picture_may_leave_it_empty():
    shifted = augment.random_shift(torch.ones(500, 1, 2, 2, dtype=torch.uint8), 3, seeded())
    assert set(shifted.sum((1, 2, 3)).tolist()) == {0, 1, 2, 4}


def test_shift_by_no_pixels_is_the_same_picture():
    images = noise(3, 1, 5, 5)
    assert torch.equal(augment.random_shift(images, 0, seeded()), images)


@pytest.mark.parametrize("vertical", [False, True])
def test_about_half_the_images_are_flipped_and_no_others_change(vertical):
    image = noise(1, 2, 5, 4)
    flipped = augment.random_flip(image.expand(1000, -1, -1, -1), seeded(), vertical)
    pixels = image[0].numpy()
    mirror = torch.from_numpy((pixels[:, ::-1] if vertical else pixels[:, :, ::-1]).copy())
    is_mirror = (flipped == mirror).flatten(1).all(1)
    is_same = (flipped == image[0]).flatten(1).all(1)
    assert (is_mirror ^ is_same).all()
    assert 437 <= is_mirror.sum() <= 563  # four standard deviations of a fair coin


def grid_sampled(images: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """The same by torch: its grid wants the inverse map on coordinates that run from −1 to 1 across the picture."""
    _, _, height, width = images.shape
    bottom = torch.tensor([0.0, 0.0, 1.0], dtype=moves.dtype).expand(len(moves), 1, 3)
    inverse = torch.linalg.inv(torch.cat((moves, bottom), 1))[:, :2]
    to_unit = torch.diag(torch.tensor([2 / width, 2 / height], dtype=moves.dtype))
    from_unit = torch.diag(torch.tensor([width / 2, height / 2, 1.0], dtype=moves.dtype))
    grid = torch.nn.functional.affine_grid(to_unit @ inverse @ from_unit, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)


def drawn_moves(num_images: int) -> torch.Tensor:
    """Strong maps, also mirrored ones and ones that move the picture out of sight."""
    linear = torch.eye(2, dtype=torch.float64) + torch.randn(num_images, 2, 2, generator=seeded(3)).double() * 0.5
    return torch.cat((linear, torch.randn(num_images, 2, 1, generator=seeded(4)).double() * 4), 2)


def test_affine_equals_torch_grid_sample_in_float64():
    images, moves = noise(40, 2, 9, 12).double(), drawn_moves(40)
    torch.testing.assert_close(augment.affine(images, moves), grid_sampled(images, moves), rtol=1e-8, atol=1e-8)


def test_affine_of_uint8_is_the_floating_point_one_rounded():
    images, moves = noise(40, 1, 9, 12), drawn_moves(40)
    moved = augment.affine(images, moves)
    assert moved.dtype == torch.uint8
    assert (moved.double() - grid_sampled(images.double(), moves)).abs().max() <= 0.5 + 1e-2  # sampled in float32


def test_affine_turns_a_picture_clockwise_by_a_right_angle():
    images = noise(1, 1, 6, 6)
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])  # x to the right goes down
    assert np.array_equal(augment.affine(images, quarter)[0, 0].numpy(), np.rot90(images[0, 0].numpy(), -1))


def test_affine_by_whole_pixels_is_the_slow_shift():
    images = noise(1, 1, 6, 6)
    move = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]])
    assert torch.equal(augment.affine(images, move)[0], slow_shift(images[0], down=-1, right=2))


def test_affine_equals_pillow_in_the_inside_of_a_smooth_picture():
    # Pillow treats the rim differently; away from it both interpolate between the same four pixels.
    levels = (torch.arange(40)[:, None] * 3 + torch.arange(40) * 3).to(torch.uint8)
    angle, centre = math.radians(10), 20.0
    cos, sin = math.cos(angle), math.sin(angle)
    inverse = (cos, sin, centre - cos * centre - sin * centre, -sin, cos, centre + sin * centre - cos * centre)
    pillow = Image.fromarray(levels.numpy()).transform(
        (40, 40), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
    )
    moves = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
    moved = augment.affine(levels[None, None], moves)[0, 0]
    assert (moved.int() - torch.from_numpy(np.array(pillow)).int())[8:32, 8:32].abs().max() <= 1


def test_random_affine_with_no_amounts_is_the_same_picture():
    images = noise(5, 2, 7, 8)
    assert torch.equal(augment.random_affine(images, generator=seeded()), images)


def drawn_maps(monkeypatch, **amounts: float) -> torch.Tensor:
    """The (N, 2, 3) maps of 4,000 images that `random_affine` hands to `affine`."""
    seen = []
    monkeypatch.setattr(augment, "affine", lambda images, moves: seen.append(moves) or images)
    augment.random_affine(noise(4000, 1, 4, 4), generator=seeded(), **amounts)
    return seen[0].double()


def fills(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether the values lie in low..high, come near both ends and have the mean and spread of the uniform law."""
    reach = high - low
    inside = values.min() >= low - 1e-5 and values.max() <= high + 1e-5
    ends = values.min() < low + 0.01 * reach and values.max() > high - 0.01 * reach
    mean = abs(values.mean() - (low + high) / 2) < 0.02 * reach
    return bool(inside and ends and mean and abs(values.std() - reach / math.sqrt(12)) < 0.02 * reach)


def test_random_affine_draws_angles_in_degrees(monkeypatch):
    maps = drawn_maps(monkeypatch, degrees=10)
    assert fills(torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0])), -10, 10)
    torch.testing.assert_close(torch.linalg.det(maps[:, :, :2]), torch.ones(4000).double(), rtol=1e-5, atol=1e-5)


def test_random_affine_draws_sizes_around_one(monkeypatch):
    maps = drawn_maps(monkeypatch, scale=0.1)
    assert fills(maps[:, 0, 0], 0.9, 1.1)
    assert torch.equal(maps[:, 0, 0], maps[:, 1, 1])
    assert not maps[:, 0, 1].any()


def test_random_affine_draws_moves_in_pixels_independent_in_both_directions(monkeypatch):
    maps = drawn_maps(monkeypatch, translate=2.5)
    assert fills(maps[:, 0, 2], -2.5, 2.5)
    assert fills(maps[:, 1, 2], -2.5, 2.5)
    assert torch.corrcoef(maps[:, :, 2].T)[0, 1].abs() < 0.06


def test_random_affine_draws_slants_in_degrees_along_x(monkeypatch):
    maps = drawn_maps(monkeypatch, shear=20)
    assert fills(torch.rad2deg(torch.atan(maps[:, 0, 1])), -20, 20)
    assert torch.equal(maps[:, 1, :2], torch.tensor([0.0, 1.0]).double().expand(4000, 2))


def test_random_affine_is_turn_times_slant_times_size(monkeypatch):
    maps = drawn_maps(monkeypatch, degrees=30, scale=0.2, shear=20)[:, :, :2]
    upright, slanted = maps[:, :, 0], maps[:, :, 1]  # where the axes go
    size = upright.norm(dim=1)
    assert fills(size, 0.8, 1.2)
    assert fills(torch.rad2deg(torch.atan2(upright[:, 1], upright[:, 0])), -30, 30)
    assert fills(torch.rad2deg(torch.atan((upright * slanted).sum(1) / size**2)), -20, 20)
    torch.testing.assert_close(torch.linalg.det(maps), size**2, rtol=1e-4, atol=1e-4)
    angle, slant = torch.atan2(upright[:, 1], upright[:, 0]), (upright * slanted).sum(1)
    correlations = torch.corrcoef(torch.stack((size, angle, slant / size**2))) - torch.eye(3)
    assert correlations.abs().max() < 0.06  # drawn apart; four standard errors at n = 4,000


MOVES = [
    lambda images, generator: augment.random_shift(images, 2, generator),
    augment.random_flip,
    lambda images, generator: augment.random_affine(images, 10, 0.1, 2, 5, generator=generator),
]


@pytest.mark.parametrize("move", MOVES, ids=["shift", "flip", "affine"])
def test_the_generator_alone_decides_and_its_saved_state_gives_the_same_pictures(move):
    images, generator = noise(32, 1, 8, 8), seeded(5)
    move(images, generator)
    state = generator.get_state()
    torch.manual_seed(1)
    once = move(images, generator)
    torch.manual_seed(2)  # the global generator must not matter
    again = move(images, torch.Generator().set_state(state))
    assert torch.equal(once, again)
    assert not torch.equal(once, move(images, generator))


@pytest.mark.parametrize("move", MOVES, ids=["shift", "flip", "affine"])
def test_random_moves_draw_nothing_from_the_global_generator_and_leave_the_images_alone(move):
    images = noise(8, 1, 8, 8)
    before, state = images.clone(), torch.get_rng_state()
    move(images, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize("move", MOVES, ids=["shift", "flip", "affine"])
def test_random_moves_of_an_empty_batch_are_an_empty_batch(move):
    assert move(noise(0, 1, 8, 8), seeded()).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("amount", [-1, 1.5])
def test_pad_and_shift_refuse_what_is_no_number_of_pixels(amount):
    with pytest.raises(SettingsError, match="whole number of pixels"):
        augment.pad(noise(1, 1, 4, 4), amount)
    with pytest.raises(SettingsError, match="whole number of pixels"):
        augment.random_shift(noise(1, 1, 4, 4), amount, seeded())


@pytest.mark.parametrize(
    "amounts", [{"degrees": -1}, {"scale": 1.0}, {"translate": math.nan}, {"shear": 90}, {"degrees": math.inf}]
)
def test_random_affine_refuses_amounts_out_of_range(amounts):
    with pytest.raises(SettingsError, match="must be at least 0"):
        augment.random_affine(noise(1, 1, 4, 4), generator=seeded(), **amounts)


def test_affine_refuses_a_number_of_maps_other_than_of_images():
    with pytest.raises(ShapeError, match=r"\(3, 2, 3\)"):
        augment.affine(noise(3, 1, 4, 4), torch.zeros(2, 2, 3))


@pytest.mark.parametrize(
    "prepare",
    [
        lambda images: augment.pad(images, 2),
        lambda images: augment.resize(images, 32),
        augment.to_float,
        lambda images: augment.random_shift(images, 1, seeded()),
        lambda images: augment.random_flip(images, seeded()),
        lambda images: augment.random_affine(images, 10, generator=seeded()),
    ],
)
def test_images_without_a_channel_axis_are_refused_in_one_line(prepare):
    with pytest.raises(ShapeError, match=r"\(N, C, H, W\)") as caught:
        prepare(noise(5, 28, 28))
    assert "\n" not in str(caught.value)


def test_the_module_calls_no_ready_made_layer_or_sampler():
    tree = ast.parse(Path(augment.__file__).read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {
        "functional",
        "nn",
        "grid_sample",
        "affine_grid",
        "interpolate",
        "grid_sampler",
        "constant_pad_nd",
    }
