"""RoI align, RoI pooling and the pyramid by hand, against loops from their definitions and finite differences."""

import math
import sys

import pytest
import torch
from against_torch import LAYOUTS, assert_agree, assert_refused, laid_out, random

from byhand import ops
from byhand.errors import SettingsError, ShapeError

# The definitions, one sample and one bin at a time, in Python's own numbers


def sample(image, y, x):
    """One bilinear sample of an image (C, H, W); zero where it lies more than a pixel outside."""
    H, W = image.shape[1:]
    if y < -1 or y > H or x < -1 or x > W:
        return image[:, 0, 0] * 0
    total = 0
    y, x = min(max(y, 0.0), H - 1.0), min(max(x, 0.0), W - 1.0)
    for i in {math.floor(y), min(math.floor(y) + 1, H - 1)}:
        for j in {math.floor(x), min(math.floor(x) + 1, W - 1)}:
            total = total + image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return total


def slow_roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    P, Q = output_size
    results = []
    for image, x1, y1, x2, y2 in boxes.tolist():
        shift = 0.5 if aligned else 0.0
        left, top = x1 * spatial_scale - shift, y1 * spatial_scale - shift
        width, height = (x2 - x1) * spatial_scale, (y2 - y1) * spatial_scale
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        down = sampling_ratio if sampling_ratio > 0 else math.ceil(height / P)
        across = sampling_ratio if sampling_ratio > 0 else math.ceil(width / Q)
        for p in range(P):
            for q in range(Q):
                total = input[int(image), :, 0, 0] * 0
                for u in range(down):
                    for v in range(across):
                        y = top + (p + (u + 0.5) / down) * height / P
                        x = left + (q + (v + 0.5) / across) * width / Q
                        total = total + sample(input[int(image)], y, x)
                results.append(total / max(down * across, 1))
    return torch.stack(results).view(len(boxes), P, Q, -1).permute(0, 3, 1, 2)


def away_from_zero(x):
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def slow_roi_pool(input, boxes, output_size, spatial_scale=1.0):
    (P, Q), (H, W) = output_size, input.shape[2:]
    y = []
    for image, *corners in boxes.tolist():
        left, top, right, bottom = (away_from_zero(corner * spatial_scale) for corner in corners)
        height, width = max(bottom - top + 1, 1), max(right - left + 1, 1)
        for p in range(P):
            for q in range(Q):
                rows = [i for i in range(top + p * height // P, top - (-(p + 1) * height // P)) if 0 <= i < H]
                columns = [j for j in range(left + q * width // Q, left - (-(q + 1) * width // Q)) if 0 <= j < W]
                for image_of_channel in input[int(image)]:
                    best = image_of_channel[0, 0] * 0 if not rows or not columns else None
                    for i in rows:
                        for j in columns:
                            if best is None or image_of_channel[i, j] > best:
                                best = image_of_channel[i, j]
                    y.append(best)
    return torch.stack(y).view(len(boxes), P, Q, -1).permute(0, 3, 1, 2)


def drawn_boxes(count, images=2, spread=14.0, seed=0):
    """Boxes in every position: inside, across the border, outside, and some inverted, of no size or huge."""
    numbers = random(count, 4, seed=seed) * spread + 8
    boxes = torch.cat([numbers.minimum(numbers.roll(2, 1))[:, :2], numbers.maximum(numbers.roll(2, 1))[:, :2]], 1)
    boxes[0] = torch.tensor([5.0, 6.0, 5.0, 6.0])
    boxes[1] = torch.tensor([9.0, 8.0, 3.0, 2.5])
    boxes[2] = torch.tensor([-50.3, -20.1, 61.7, 40.9])
    boxes[3] = torch.tensor([500.0, 500.0, 520.0, 530.0])
    boxes[4] = torch.tensor([0.0, 0.0, 26.0, 22.0])
    return torch.cat([(torch.arange(count) % images)[:, None].double(), boxes], 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(
    ("ratio", "layout"), [(-1, LAYOUTS[0]), (0, LAYOUTS[1]), (1, LAYOUTS[2]), (2, LAYOUTS[1]), (3, LAYOUTS[2])]
)
def test_roi_align_is_the_mean_of_bilinear_samples_in_value_and_gradient(ratio, layout, aligned):
    boxes, arguments = drawn_boxes(8), ((3, 2), 0.5, ratio, aligned)
    x = laid_out(random(2, 2, 11, 13), layout)
    assert_agree(lambda x: ops.roi_align(x, boxes, *arguments), lambda x: slow_roi_align(x, boxes, *arguments), x)


@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_align_of_few_boxes_on_large_maps_is_the_same_in_value_and_gradient(ratio):
    boxes, arguments = drawn_boxes(8, spread=3.0)[[0, 1, 5, 6, 7]], ((2, 3), 0.7, ratio, True)
    x = random(2, 2, 40, 30, seed=3)
    assert_agree(lambda x: ops.roi_align(x, boxes, *arguments), lambda x: slow_roi_align(x, boxes, *arguments), x)


def test_roi_align_cut_into_parts_is_the_same(monkeypatch):
    boxes, x = drawn_boxes(8), random(2, 2, 11, 13)
    expected = ops.roi_align(x, boxes, 3, 0.5)
    monkeypatch.setattr(sys.modules["byhand.ops.roi_align"], "OUTPUTS", 50)  # two boxes at once
    torch.testing.assert_close(ops.roi_align(x, boxes, 3, 0.5), expected, rtol=1e-12, atol=1e-12)
    assert_agree(lambda x: ops.roi_align(x, boxes, 2, 0.5), lambda x: slow_roi_align(x, boxes, (2, 2), 0.5), x)


def test_roi_align_of_a_plane_is_its_value_in_the_middle_of_each_bin():
    # a bilinear sample of a + b y + c x is exact, and the mean of samples that lie evenly is the value in their middle
    rows, columns = torch.arange(20.0).double()[:, None], torch.arange(30.0).double()
    x = (5 + 2 * rows - 3 * columns)[None, None]
    y = ops.roi_align(x, torch.tensor([[0, 4.0, 2.0, 16.0, 10.0]]).double(), (2, 3), aligned=True)
    middles = [[5 + 2 * (v - 0.5) - 3 * (u - 0.5) for u in (6, 10, 14)] for v in (4, 8)]
    torch.testing.assert_close(y, torch.tensor(middles).double()[None, None])


def test_roi_align_computed_on_paper():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]

    def at(*corners, **settings):
        return ops.roi_align(x, torch.tensor([[0.0, *corners]]), 1, **settings).item()

    assert at(0, 0, 1, 1, sampling_ratio=1) == 1.5  # one sample, at (0.5, 0.5)
    assert at(0, 0, 1, 1, sampling_ratio=1, aligned=True) == 0  # and half a pixel before it, at (0, 0)
    assert at(-1.5, 0, -0.5, 1, sampling_ratio=1) == 1  # x = -1 is not yet outside: column 0, halfway down
    assert at(-1.6, 0, -0.6, 1, sampling_ratio=1) == 0  # x = -1.1 is
    assert at(1.5, 0.5, 2.5, 1.5, sampling_ratio=1) == 3  # x = 2 = W takes the last column, y = 1
    assert at(1.6, 0.5, 2.6, 1.5, sampling_ratio=1) == 0
    assert at(1, 1, 1, 1, sampling_ratio=1) == 3  # without a size it is one pixel, with its middle beyond the border
    assert at(0, 0, 1, 1, sampling_ratio=1, spatial_scale=0.5) == 1.5  # smaller than a pixel counts as one
    assert at(1, 1, 1, 1, aligned=True) == 0  # no samples at all


def test_roi_pool_is_the_largest_value_in_value_and_gradient():
    boxes = drawn_boxes(14)
    boxes[5, 1:] = torch.tensor([1.0, 3.0, 5.0, 9.0])  # halves after scaling, which go away from zero
    boxes[6, 1:] = torch.tensor([-1.0, -3.0, 5.0, 9.0])
    for layout, size in zip(LAYOUTS, ((3, 2), (1, 1), (5, 6)), strict=True):
        x = laid_out(random(2, 2, 11, 13, seed=1), layout)
        assert_agree(
            lambda x, size=size: ops.roi_pool(x, boxes, size, 0.5),
            lambda x, size=size: slow_roi_pool(x, boxes, size, 0.5),
            x,
        )


def test_the_gradient_of_roi_pool_goes_to_the_first_of_equal_values_row_by_row():
    x = torch.zeros(1, 1, 6, 7, dtype=torch.float64)
    x[0, 0, 1:4, 2:5] = torch.tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    boxes = torch.tensor([[0, 0.0, 0, 6, 5], [0, 1, 0, 4, 5], [0, 0, 2, 6, 5], [0, 0, 4, 6, 5]]).double()
    assert_agree(lambda x: ops.roi_pool(x, boxes, 1), lambda x: slow_roi_pool(x, boxes, (1, 1)), x)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ops.roi_pool(x, boxes, 1).sum(), x)
    assert gradient.nonzero()[:, 2:].tolist() == [[1, 4], [2, 2], [4, 0]]
    assert gradient[0, 0, 1, 4] == 2


def test_roi_pool_computed_on_paper():
    x = torch.arange(12.0).view(1, 1, 3, 4) - 20
    # columns 0..2 and rows 0..2 (2.5 becomes 3, which is outside); three rows in two bins share the middle one
    y = ops.roi_pool(x, torch.tensor([[0.0, 0.4, 0.0, 2.4, 2.4]]), 2)
    assert y.tolist() == [[[[-15.0, -14.0], [-11.0, -10.0]]]]
    assert ops.roi_pool(x, torch.tensor([[0.0, 7.0, 7.0, 9.0, 9.0]]), 1).item() == 0  # an empty bin is 0, not −20
    x[0, 0, 1, 1] = torch.nan
    assert math.isnan(ops.roi_pool(x, torch.tensor([[0.0, 0, 0, 3, 2]]), 1).item())


@pytest.mark.parametrize("operation", [ops.roi_pool, lambda *args: ops.roi_align(*args, sampling_ratio=2)])
def test_gradients_hold_against_finite_differences(operation):
    boxes = drawn_boxes(8)
    x = random(2, 2, 7, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: operation(x, boxes, (2, 3), 0.4), (x,))


@pytest.mark.parametrize("operation", [ops.roi_align, ops.roi_pool])
def test_boxes_come_as_rows_with_their_image_or_as_a_list_with_some_for_each_image(operation):
    rows = drawn_boxes(9, images=1)
    rows[4:, 0] = 2
    x = random(3, 2, 9, 8)
    listed = operation(x, [rows[:4, 1:], rows[:0, 1:], rows[4:, 1:]], 2, 0.5)
    assert torch.equal(listed, operation(x, rows, 2, 0.5))
    shuffled = torch.tensor([3, 8, 0, 1, 7, 2, 6, 5, 4])
    assert torch.equal(operation(x, rows[shuffled], 2, 0.5), listed[shuffled])


@pytest.mark.parametrize("operation", [ops.roi_align, ops.roi_pool])
def test_no_boxes_give_no_regions_and_a_gradient_of_zero(operation):
    x = random(2, 3, 5, 4).requires_grad_()
    for boxes in (torch.zeros(0, 5), [torch.zeros(0, 4), torch.zeros(0, 4)]):
        y = operation(x, boxes, (2, 3))
        assert y.shape == (0, 3, 2, 3)
        assert y.dtype == x.dtype
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("operation", [ops.roi_align, ops.roi_pool])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_precisions_keep_their_dtype_and_come_near(operation, dtype):
    boxes, x = drawn_boxes(12)[5:], random(2, 3, 9, 8).to(dtype).requires_grad_()
    y = operation(x, boxes, 2, 0.5)
    exact = operation(x.detach().double(), boxes, 2, 0.5)
    limit = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.detach().double(), exact, rtol=limit, atol=4 * limit)
    assert y.dtype == dtype == torch.autograd.grad(y.sum(), x)[0].dtype
    assert y.is_contiguous()


@pytest.mark.parametrize("operation", [ops.roi_align, ops.roi_pool])
def test_boxes_get_no_gradient_and_are_not_changed(operation):
    boxes = drawn_boxes(6).requires_grad_()
    before = boxes.detach().clone()
    y = operation(random(2, 3, 9, 8), boxes, 2)
    assert not y.requires_grad
    assert torch.equal(boxes.detach(), before)


@pytest.mark.parametrize("operation", [ops.roi_align, ops.roi_pool])
def test_wrong_arguments_are_refused_in_one_line(operation):
    x, boxes = random(2, 3, 9, 8), drawn_boxes(6)
    assert_refused(ShapeError, lambda: operation(x[0], boxes, 2), (3, 9, 8), "(B, C, H, W)")
    assert_refused(ShapeError, lambda: operation(x.to(torch.int64), boxes, 2), "torch.int64")
    assert_refused(ShapeError, lambda: operation(x, boxes[:, 1:], 2), (6, 4), "(K, 5)")
    assert_refused(ShapeError, lambda: operation(x, [boxes[:, 1:], boxes], 2), "image 1", (6, 5))
    assert_refused(ShapeError, lambda: operation(x, [boxes[:, 1:]] * 3, 2), "3 images", "2 images")
    assert_refused(SettingsError, lambda: operation(x, boxes, 0), "output_size=0")
    for image in (2, -1):
        wrong = boxes.clone()
        wrong[4, 0] = image
        assert_refused(ShapeError, lambda wrong=wrong: operation(x, wrong, 2), "box 4", f"image {image}", "2 images")
    for number in (math.nan, math.inf):
        wrong = boxes.clone()
        wrong[3, 2] = number
        assert_refused(ShapeError, lambda wrong=wrong: operation(x, wrong, 2), "box 3", number)


def test_a_box_too_large_to_be_sampled_pixel_by_pixel_is_refused_and_sampled_with_a_ratio():
    x, huge = random(1, 1, 5, 5), torch.tensor([[0, -1e30, -1e30, 1e30, 1e30]]).double()
    assert_refused(ShapeError, lambda: ops.roi_align(x, huge, 2), "2e+30", "sampling_ratio")
    assert_refused(SettingsError, lambda: ops.roi_align(x, huge, 2, sampling_ratio=1.5), "sampling_ratio=1.5")
    assert ops.roi_align(x, huge, 2, sampling_ratio=2).abs().max() == 0  # no sample falls on the map
    assert ops.roi_pool(x, huge, 1) == x.max()


# The pyramid


def pyramid(*exponents, size=128, channels=2):
    return [random(2, channels, size >> k, size >> k, seed=k) for k in exponents]


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [
        *[(224, 224, 4), (223, 223, 3), (448, 448, 5), (447, 447, 4), (112, 448, 4), (111, 111, 2), (112, 112, 3)],
        *[(1, 1, 2), (0, 9, 2), (-4, 9, 2), (5000, 5000, 5)],
    ],
)
def test_a_box_belongs_to_the_level_of_equation_1(width, height, level):
    maps = [torch.full((1, 1, 1024 >> k, 1024 >> k), float(k)) for k in (2, 3, 4, 5)]
    box = torch.tensor([[300.0, 300.0, 300.0 + width, 300.0 + height]])
    y = ops.multiscale_roi_align(maps, [box], 1, 1, [(1024, 1024)])
    # a map holds its own number; samples of the largest box, or of no width, would be elsewhere
    assert y.item() == (level if width < 5000 else 0)
    if width == 5000:
        assert ops.multiscale_roi_align(maps, [box - 2600], 1, 1, [(1024, 1024)]).item() == level


def test_each_box_is_aligned_on_its_own_map_in_value_and_gradient():
    boxes = [torch.tensor([[1.0, 2, 30, 40], [5, 5, 100, 120], [0, 0, 128, 128]]).double()]
    boxes.append(torch.tensor([[3.0, 60, 20, 70], [40, 50, 41, 90]]).double())
    rows = torch.cat([torch.tensor([[0.0], [0], [0], [1], [1]]).double(), torch.cat(boxes)], 1)
    # with 32 pixels for level 2: √(29 · 38) is 33.2, √(95 · 115) 104.5, and 128, √170 = 13, √40 = 6.3
    levels = [0, 1, 2, 0, 0]

    def mine(*maps):
        return ops.multiscale_roi_align(maps, boxes, (2, 3), 2, [(128, 100), (90, 128)], 32, 2)

    def each(*maps):
        found = [slow_roi_align(maps[i], rows[k : k + 1], (2, 3), 2.0 ** -(i + 2), 2) for k, i in enumerate(levels)]
        return torch.cat(found)

    assert_agree(mine, each, *pyramid(2, 3, 4))
    named = dict(zip("abc", pyramid(2, 3, 4), strict=True))
    arguments = ((2, 3), 2, [(128, 100), (90, 128)], 32, 2)
    assert torch.equal(ops.multiscale_roi_align(named, rows, *arguments), mine(*named.values()))


def test_only_the_maps_that_need_a_gradient_get_one():
    fine, coarse = pyramid(2, 3)
    coarse.requires_grad_()
    boxes = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 120, 120]]).double()] * 2
    y = ops.multiscale_roi_align([fine, coarse], boxes, 2, 2, [(128, 128)], 32, 2)
    (gradient,) = torch.autograd.grad(y.sum(), coarse)
    assert gradient.sum() == pytest.approx(2 * 2 * 4)  # two boxes, two channels, four bins of weights that sum to 1
    assert fine.grad is None


def test_a_single_map_takes_all_boxes_and_a_second_map_of_one_level_none():
    boxes = drawn_boxes(8)
    (x,) = pyramid(3)
    single = ops.multiscale_roi_align([x], boxes, 2, 2, [(128, 128)])
    assert torch.equal(single, ops.roi_align(x, boxes, 2, 1 / 8, 2))
    twice = ops.multiscale_roi_align([x, 7 * x], boxes, 2, 2, [(128, 128)])
    torch.testing.assert_close(twice, single)


def test_no_boxes_on_a_pyramid():
    maps = [x.requires_grad_() for x in pyramid(2, 3)]
    y = ops.multiscale_roi_align(maps, [torch.zeros(0, 4)] * 2, 7, 2, [(128, 128)])
    assert y.shape == (0, 2, 7, 7)
    assert all(not gradient.any() for gradient in torch.autograd.grad(y.sum(), maps))


def test_maps_that_are_no_pyramid_are_refused():
    boxes = drawn_boxes(6)
    arguments = (boxes, 2, 2, [(128, 128)])
    assert_refused(ShapeError, lambda: ops.multiscale_roi_align([], *arguments), "maps")
    assert_refused(ShapeError, lambda: ops.multiscale_roi_align(pyramid(2), boxes, 2, 2, []), "0 images")
    assert_refused(ShapeError, lambda: ops.multiscale_roi_align(pyramid(2, 4), *arguments), "[2, 4]", "finest")
    assert_refused(ShapeError, lambda: ops.multiscale_roi_align(pyramid(4, 3), *arguments), "[4, 3]")
    mixed = [*pyramid(2), *pyramid(3, channels=3)]
    assert_refused(ShapeError, lambda: ops.multiscale_roi_align(mixed, *arguments), "(2, 3, 16, 16)")
