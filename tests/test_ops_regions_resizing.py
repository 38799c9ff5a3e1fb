"""Resizing and mask pasting by hand, against torch's interpolation and torchvision's way of pasting written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, laid_out, random

from byhand import ops
from byhand.errors import SettingsError, ShapeError

SIZES = [
    ((5, 7), (9, 11)),
    ((5, 7), (10, 14)),
    ((12, 9), (5, 4)),
    ((6, 10), (10, 6)),
    ((1, 1), (3, 2)),
    ((4, 5), (4, 5)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_modes_match_torch_in_value_and_gradient(old, new, layout):
    x = laid_out(random(2, 3, *old), layout)
    assert_agree(lambda x: ops.upsample_nearest(x, new), lambda x: F.interpolate(x, new, mode="nearest"), x)
    assert_agree(lambda x: ops.resize(x, new), lambda x: F.interpolate(x, new, mode="bilinear"), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_takes_torchs_pixel_for_every_pair_of_sizes(dtype):
    # a quotient that rounding moves across a whole number would take the neighbour
    for old in range(1, 24):
        x = torch.arange(old, dtype=dtype).expand(1, 1, 1, old)
        for new in range(1, 41):
            expected = F.interpolate(x, (1, new), mode="nearest")
            assert torch.equal(ops.upsample_nearest(x, (1, new)), expected), (old, new)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("factor", [2, 0.5, 1.7, (0.6, 2.3), 1 / 3, 1.05])
@pytest.mark.parametrize("recompute", [None, True])
def test_a_scale_factor_means_what_it_means_in_torch(mode, factor, recompute):
    settings = {"scale_factor": factor, "mode": mode, "recompute_scale_factor": recompute}
    assert_agree(lambda x: ops.interpolate(x, **settings), lambda x: F.interpolate(x, **settings), random(2, 2, 7, 10))
    x = random(1, 2, 9, 8, dtype=torch.float32)
    assert_agree(lambda x: ops.interpolate(x, **settings), lambda x: F.interpolate(x, **settings), x)


def test_resizing_computed_on_paper():
    x = torch.tensor([[0.0, 4.0]])[None, None]
    assert ops.resize(x, (1, 4)).flatten().tolist() == [0, 1, 3, 4]  # at −¼ (the border), ¼, ¾ and 1¼
    assert ops.upsample_nearest(x, (2, 3)).tolist() == [[[[0, 0, 4], [0, 0, 4]]]]
    assert ops.resize(x, 1).item() == 2


@pytest.mark.parametrize("operation", [ops.resize, ops.upsample_nearest])
def test_gradients_of_resizing_hold_against_finite_differences(operation):
    assert torch.autograd.gradcheck(lambda x: operation(x, (5, 3)), (random(1, 2, 3, 4).requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resizing_keeps_half_precision(dtype):
    x = random(1, 2, 5, 6, dtype=dtype)
    assert_within_precision(lambda x: ops.resize(x, (8, 9)), lambda x: F.interpolate(x, (8, 9), mode="bilinear"), x)


def test_an_empty_batch_is_resized():
    assert ops.resize(random(0, 3, 4, 5), (2, 9)).shape == (0, 3, 2, 9)
    assert ops.upsample_nearest(random(0, 3, 4, 5), 6).shape == (0, 3, 6, 6)


def test_what_has_no_formula_is_refused_in_one_line():
    x = random(1, 1, 4, 4)
    assert_refused(SettingsError, lambda: ops.interpolate(x, 2, mode="bicubic"), "bicubic", "bilinear")
    assert_refused(
        SettingsError, lambda: ops.interpolate(x, 2, mode="bilinear", align_corners=True), "align_corners=True"
    )
    assert_refused(SettingsError, lambda: ops.interpolate(x, 2, mode="bilinear", antialias=True), "antialias=True")
    assert_refused(SettingsError, lambda: ops.interpolate(x), "size=None")
    assert_refused(SettingsError, lambda: ops.interpolate(x, 2, 2.0), "scale_factor=2.0")
    assert_refused(SettingsError, lambda: ops.interpolate(x, 2, recompute_scale_factor=True), "size=2")
    assert_refused(SettingsError, lambda: ops.interpolate(x, scale_factor=-1.0), "scale_factor=-1.0")
    assert_refused(SettingsError, lambda: ops.resize(x, 0), "size=0")
    assert_refused(ShapeError, lambda: ops.interpolate(x, scale_factor=0.1), "4 x 4")
    assert_refused(ShapeError, lambda: ops.resize(x[0], 2), (1, 4, 4))
    assert_refused(ShapeError, lambda: ops.resize(x.to(torch.int64), 2), "torch.int64")
    assert_refused(ShapeError, lambda: ops.resize(x[:, :, :0], 2), (1, 1, 0, 4))


# Masks


def pasted_one_by_one(masks, boxes, shape, padding=1):
    """torchvision's paste_masks_in_image as it is described, with torch's padding and interpolation."""
    M = masks.shape[-1]
    factor = (M + 2 * padding) / M
    pictures = []
    for mask, (x1, y1, x2, y2) in zip(F.pad(masks, (padding,) * 4), boxes.double().tolist(), strict=True):
        x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2 * factor, (y2 - y1) / 2 * factor
        left, top, right, bottom = (math.trunc(v) for v in (x - w, y - h, x + w, y + h))
        size = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        large = F.interpolate(mask[None], size=size, mode="bilinear", align_corners=False)[0]
        picture = torch.zeros(1, *shape, dtype=masks.dtype)
        for i in range(max(top, 0), min(top + size[0], shape[0])):
            for j in range(max(left, 0), min(left + size[1], shape[1])):
                picture[0, i, j] = large[0, i - top, j - left]
        pictures.append(picture)
    return torch.stack(pictures)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_are_pasted_as_torchvision_pastes_them(padding, dtype):
    boxes = torch.tensor(
        [
            [3.2, 4.1, 20.7, 15.3],
            [0.3, 0.2, 29.8, 25.1],
            [-6.4, -3.3, 9.1, 12.8],  # across the border
            [22.3, 18.9, 44.4, 31.1],
            [5, 5, 5, 5],  # one pixel
            [7.6, 9.2, 6.1, 8.4],  # inverted
            [60, 60, 70, 70],  # outside
            [-40.3, -50.2, 80.4, 90.1],  # larger than the picture
        ],
        dtype=dtype,
    )
    masks = random(8, 1, 6, 6).sigmoid().to(dtype)
    result = ops.paste_masks_in_image(masks, boxes, (25, 30), padding)
    torch.testing.assert_close(result, pasted_one_by_one(masks, boxes, (25, 30), padding), rtol=0, atol=2e-6)
    assert result.shape == (8, 1, 25, 30)
    assert result[6].abs().sum() == 0 < result[7].abs().sum()


def test_a_mask_of_ones_fills_its_box_and_half_of_the_border_about_it():
    # 4 + 2 pixels become 6: the box grows by a pixel each side, and mask pixels fall on picture pixels
    picture = ops.paste_masks_in_image(torch.ones(1, 1, 4, 4), torch.tensor([[2.5, 2.5, 6.0, 6.0]]), (10, 10))[0, 0]
    grown = 2.5 - 0.5 * 3.5 * (6 / 4 - 1), 6.0 + 0.5 * 3.5 * (6 / 4 - 1)
    assert (int(grown[0]), int(grown[1])) == (1, 6)
    expected = torch.zeros(10, 10)
    expected[2:6, 2:6] = 1
    assert torch.equal(picture, expected)


def test_no_masks_and_a_box_of_a_million_pixels():
    assert ops.paste_masks_in_image(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 1, 5, 6)
    huge = torch.tensor([[-1e6, -1e6, 1e6, 1e6]])
    torch.testing.assert_close(ops.paste_masks_in_image(torch.ones(1, 1, 28, 28), huge, (5, 6)), torch.ones(1, 1, 5, 6))


def test_masks_that_do_not_fit_are_refused():
    boxes = torch.zeros(2, 4)
    assert_refused(ShapeError, lambda: ops.paste_masks_in_image(torch.zeros(2, 5, 5), boxes, (9, 9)), (2, 5, 5))
    assert_refused(ShapeError, lambda: ops.paste_masks_in_image(torch.zeros(2, 3, 5, 5), boxes, (9, 9)), (2, 3, 5, 5))
    assert_refused(ShapeError, lambda: ops.paste_masks_in_image(torch.zeros(3, 1, 5, 5), boxes, (9, 9)), "3 masks")
    boxes[1, 2] = math.nan
    assert_refused(ShapeError, lambda: ops.paste_masks_in_image(torch.zeros(2, 1, 5, 5), boxes, (9, 9)), "finite")
