"""Boxes against hand calculations, exact fractions and torchvision's published values."""

import math
from fractions import Fraction

import pytest
import torch
from against_torch import assert_refused, drawn
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import SettingsError, ShapeError

# Whole numbers, so that every area is exact; sides of 0 and equal boxes occur often.
corner, side = st.integers(0, 12), st.integers(0, 6)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes = st.lists(box, min_size=0, max_size=6)


def tensor(rows, dtype=torch.float32):
    return torch.tensor(rows, dtype=dtype).reshape(-1, 4)


def pixels(box):
    """The unit squares that a box of whole numbers covers."""
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@drawn
@given(boxes)
def test_area_is_the_number_of_unit_squares(rows):
    assert ops.box_area(tensor(rows)).tolist() == [len(pixels(row)) for row in rows]


@drawn
@given(boxes, boxes)
def test_iou_is_shared_over_covered_unit_squares(rows, columns):
    iou = ops.box_iou(tensor(rows, torch.float64), tensor(columns, torch.float64))
    assert iou.shape == (len(rows), len(columns))
    for i, a in enumerate(map(pixels, rows)):
        for j, b in enumerate(map(pixels, columns)):
            expected = Fraction(len(a & b), len(a | b)) if a | b else 0
            assert float(iou[i, j]) == pytest.approx(float(expected), abs=1e-15)


@drawn
@given(boxes, boxes)
def test_generalized_iou_takes_off_the_empty_share_of_the_box_around_both(rows, columns):
    giou = ops.generalized_box_iou(tensor(rows, torch.float64), tensor(columns, torch.float64))
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            covered = len(pixels(a) | pixels(b))
            hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
            iou = len(pixels(a) & pixels(b)) / covered if covered else 0
            expected = iou - (hull - covered) / hull if hull else iou
            assert float(giou[i, j]) == pytest.approx(expected, abs=1e-14)


def test_ious_are_those_that_torchvision_publishes():
    # test/test_ops.py of torchvision, TestBoxIou and TestGenBoxIou
    whole = tensor([[0, 0, 100, 100], [0, 0, 50, 50], [200, 200, 300, 300]])
    expected = torch.tensor([[1.0, 0.25, 0.0], [0.25, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(ops.box_iou(whole, whole), expected)
    expected = torch.tensor([[1.0, 0.25, -0.7778], [0.25, 1.0, -0.8611], [-0.7778, -0.8611, 1.0]])
    torch.testing.assert_close(ops.generalized_box_iou(whole, whole), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16])
def test_areas_beyond_a_narrow_type_do_not_overflow(dtype):
    large = torch.tensor([[0, 0, 250, 250], [0, 0, 250, 125]]).to(dtype)
    large = large * 8 if dtype != torch.uint8 else large
    assert float(ops.box_area(large)[0]) == float((large[0, 2].double()) ** 2)
    assert ops.box_iou(large, large).tolist() == [[1, 0.5], [0.5, 1]]


FORMATS = {"xyxy": [10, 15, 30, 35], "xywh": [10, 15, 20, 20], "cxcywh": [20, 25, 20, 20]}


@pytest.mark.parametrize("in_fmt", FORMATS)
@pytest.mark.parametrize("out_fmt", FORMATS)
def test_one_box_in_every_format_becomes_itself_in_every_other(in_fmt, out_fmt):
    given = tensor([FORMATS[in_fmt]] * 2)
    converted = ops.box_convert(given, in_fmt, out_fmt)
    assert converted.tolist() == [FORMATS[out_fmt]] * 2
    converted.zero_()
    assert given.tolist() == [FORMATS[in_fmt]] * 2


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_converted_boxes_keep_their_dtype_but_for_centres_of_whole_numbers(dtype):
    corners = torch.tensor([[1, 2, 4, 7]], dtype=dtype)
    sized, centred = ops.box_convert(corners, "xyxy", "xywh"), ops.box_convert(corners, "xyxy", "cxcywh")
    assert sized.tolist() == [[1, 2, 3, 5]]
    assert centred.tolist() == [[2.5, 4.5, 3, 5]]
    assert sized.dtype == dtype
    assert centred.dtype == (torch.float32 if dtype == torch.int64 else dtype)


def test_clipping_keeps_what_lies_inside_height_and_width():
    inside = ops.clip_boxes_to_image(tensor([[-5, -5, 3, 4], [2, 3, 90, 80], [70, 50, 80, 90], [1, 2, 3, 4]]), (20, 60))
    assert inside.tolist() == [[0, 0, 3, 4], [2, 3, 60, 20], [60, 20, 60, 20], [1, 2, 3, 4]]
    assert ops.clip_boxes_to_image(torch.full((2, 3, 4), 9.0), (5, 7)).tolist() == [[[7, 5, 7, 5]] * 3] * 2
    assert ops.clip_boxes_to_image(torch.zeros(0, 4), (5, 7)).shape == (0, 4)


def test_small_boxes_go_by_their_shorter_side_and_the_limit_stays():
    sizes = tensor([[0, 0, 5, 5], [0, 0, 4.99, 9], [0, 0, 9, 4.99], [1, 1, 1, 1], [5, 5, 3, 3], [2, 2, 9, 7]])
    assert ops.remove_small_boxes(sizes, 5).tolist() == [0, 5]
    assert ops.remove_small_boxes(sizes, 5).dtype == torch.int64
    assert ops.remove_small_boxes(sizes[:0], 5).tolist() == []


def test_offsets_by_hand():
    # P = centre (10, 20), 20 × 40; G = centre (15, 10), 40 × 20
    proposals, truth = tensor([[0, 0, 20, 40]]), tensor([[-5, 0, 35, 20]])
    expected = [0.25, -0.25, math.log(2), -math.log(2)]
    assert ops.encode_boxes(truth, proposals).tolist()[0] == pytest.approx(expected)
    weighted = [10 * expected[0], 10 * expected[1], 5 * expected[2], 5 * expected[3]]
    assert ops.encode_boxes(truth, proposals, (10, 10, 5, 5)).tolist()[0] == pytest.approx(weighted)
    assert ops.decode_boxes(tensor([weighted]), proposals, (10, 10, 5, 5)).tolist()[0] == pytest.approx([-5, 0, 35, 20])


def test_offsets_are_those_that_the_book_prints():
    # Dive into Deep Learning, section 14.4.3.3; it adds 1e-6 in the logarithm, hence the tolerance
    truth = tensor([[0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88], [0.55, 0.2, 0.9, 0.88]])
    anchors = tensor([[0.15, 0.2, 0.4, 0.4], [0.63, 0.05, 0.88, 0.98], [0.57, 0.3, 0.92, 0.9]])
    expected = tensor([[1.40, 10.0, 2.59, 7.18], [-1.20, 0.269, 1.68, -1.57], [-0.571, -1.00, 0, 0.626]])
    torch.testing.assert_close(ops.encode_boxes(truth, anchors, (10, 10, 5, 5)), expected, rtol=5e-3, atol=1e-5)


@drawn
@given(st.integers(0, 2**31), st.integers(0, 5), st.integers(1, 3))
def test_decoding_undoes_encoding_class_by_class(seed, N, K):
    generator = torch.Generator().manual_seed(seed)

    def some():
        start = torch.rand(N, 2, generator=generator, dtype=torch.float64) * 100
        return torch.cat([start, start + 1 + torch.rand(N, 2, generator=generator, dtype=torch.float64) * 50], 1)

    proposals, truths = some(), [some() for _ in range(K)]
    codes = torch.cat([ops.encode_boxes(truth, proposals, (10, 10, 5, 5)) for truth in truths], 1)
    decoded = ops.decode_boxes(codes, proposals, (10, 10, 5, 5))
    torch.testing.assert_close(decoded, torch.cat(truths, 1), rtol=1e-10, atol=1e-10)


def test_growth_is_held_from_above_only_and_after_the_weights():
    square = tensor([[0, 0, 16, 16]])
    grown = ops.decode_boxes(tensor([[0, 0, 1e4, 5 * math.log(2)]]), square, (1, 1, 5, 5))
    assert grown.tolist()[0] == pytest.approx([8 - 500, 8 - 16, 8 + 500, 8 + 16])  # 16 · 1000 / 16 wide, 32 high
    shrunk = ops.decode_boxes(tensor([[0, 0, -50, -1e4]]), square)
    assert (shrunk == 8).all()  # exp(−50) · 8 is below a float's step at 8
    assert ops.decode_boxes(tensor([[0, 0, 9, 0]]), square, clip=math.log(3)).tolist()[0] == pytest.approx(
        [-16, 0, 32, 16]
    )
    assert torch.isfinite(ops.decode_boxes(torch.full((1, 4), 1e30), square)).all()


def test_what_is_no_box_is_refused():
    good = torch.zeros(2, 4)
    for function in (ops.box_area, lambda x: ops.box_iou(good, x), lambda x: ops.remove_small_boxes(x, 1)):
        assert_refused(ShapeError, lambda f=function: f(torch.zeros(2, 5)), (2, 5))
        assert_refused(ShapeError, lambda f=function: f(torch.zeros(4)), (4,))
    assert_refused(SettingsError, lambda: ops.box_convert(good, "xyxy", "yxyx"), "out_fmt", "yxyx", "cxcywh")
    assert_refused(ShapeError, lambda: ops.clip_boxes_to_image(torch.zeros(2, 3), (1, 1)), (2, 3))
    assert_refused(SettingsError, lambda: ops.clip_boxes_to_image(good, (1, -1)), -1)
    assert_refused(ShapeError, lambda: ops.encode_boxes(good, good[:1]), (2, 4), (1, 4))
    assert_refused(SettingsError, lambda: ops.encode_boxes(good, good, (1, 1, 1)), (1, 1, 1))
    assert_refused(SettingsError, lambda: ops.decode_boxes(good, good, (1, 0, 1, 1)), (1, 0, 1, 1))
    assert_refused(ShapeError, lambda: ops.decode_boxes(torch.zeros(2, 6), good), (2, 6))
    assert_refused(ShapeError, lambda: ops.decode_boxes(torch.zeros(3, 4), good), (3, 4), 2)


def test_boxes_without_area_have_a_gradient_of_zero():
    boxes = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    ops.box_iou(boxes, boxes.detach()).sum().backward()
    assert boxes.grad.tolist() == [[0.0] * 4] * 2
