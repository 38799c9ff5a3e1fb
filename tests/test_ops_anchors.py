"""Anchors against hand calculations and the values that the book and torchvision print."""

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, drawn
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import SettingsError, ShapeError


def test_the_anchors_of_one_cell_by_hand():
    # 32 √½ = 22.63 wide, 45.25 high for ratio 2; halves 11.31 and 22.63
    assert ops.cell_anchors([32], [0.5, 1, 2]).tolist() == [
        [-23, -11, 23, 11],
        [-16, -16, 16, 16],
        [-11, -23, 11, 23],
    ]
    # each ratio with all sizes; 5 / 2 and 7 / 2 go to the even neighbour, 2 and 4
    assert ops.cell_anchors([5, 7], [1, 4]).tolist() == [
        [-2, -2, 2, 2],
        [-4, -4, 4, 4],
        [-1, -5, 1, 5],
        [-2, -7, 2, 7],
    ]


def test_anchors_over_a_map_are_those_that_torchvision_publishes():
    # test/test_models_detection_anchor_utils.py of torchvision: one size 10, ratio 1, a 5 × 5 map of a 15 × 15 image...
    anchors = ops.anchor_boxes([[10]], [[1]], (15, 15), [(5, 5)])
    expected = [[x - 5, y - 5, x + 5, y + 5] for y in (0, 3, 6, 9, 12) for x in (0, 3, 6, 9, 12)]
    assert anchors.tolist() == expected
    assert anchors.dtype == torch.float32


def test_anchors_over_levels_go_level_by_level_row_by_row_with_a_stride_for_each_axis():
    anchors = ops.anchor_boxes([[8], [16, 32]], [[1], [1, 4]], (60, 100), [(2, 3), (1, 2)])
    first = [[x - 4, y - 4, x + 4, y + 4] for y in (0, 30) for x in (0, 33, 66)]  # ⌊100 / 3⌋ = 33
    around = [(8, 8), (16, 16), (4, 16), (8, 32)]  # half sizes: ratio 1 with both sizes, then ratio 4
    second = [[x - w, 0 - h, x + w, 0 + h] for x in (0, 50) for w, h in around]
    assert anchors.tolist() == first + second


def test_faster_rcnns_pyramid_has_as_many_anchors_as_torchvisions():
    # 800 × 1088 with strides 4 to 64: the numbers of a torchvision fasterrcnn_resnet50_fpn
    maps = [(200, 272), (100, 136), (50, 68), (25, 34), (13, 17)]
    anchors = ops.anchor_boxes([[s] for s in (32, 64, 128, 256, 512)], [[0.5, 1, 2]] * 5, (800, 1088), maps)
    assert len(anchors) == 3 * sum(h * w for h, w in maps)
    assert anchors[3 * (272 + 1) + 1].tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]
    assert anchors[-1].tolist() == [16 * 64 - 181, 12 * 61 - 362, 16 * 64 + 181, 12 * 61 + 362]


def test_the_books_anchors_are_those_that_it_prints():
    # Dive into Deep Learning, section 14.4.1: a photograph of 561 × 728 pixels
    boxes = ops.multibox_prior(561, 728, [0.75, 0.5, 0.25], [1, 2, 0.5])
    assert boxes.shape == (2042040, 4)
    printed = boxes.view(561, 728, 5, 4)[250, 250, 0]
    torch.testing.assert_close(printed, torch.tensor([0.06, 0.07, 0.63, 0.82]), rtol=0, atol=0.005)


def test_the_books_anchors_combine_the_first_size_with_all_ratios_and_hold_their_shape_in_pixels():
    height, width, sizes, ratios = 4, 6, [0.5, 0.2], [4, 1, 0.25]
    boxes = ops.multibox_prior(height, width, sizes, ratios, dtype=torch.float64).view(height, width, 4, 4)
    x, y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    w, h = boxes[2, 3, :, 2] - boxes[2, 3, :, 0], boxes[2, 3, :, 3] - boxes[2, 3, :, 1]
    torch.testing.assert_close(x[1], ((torch.arange(6) + 0.5) / 6)[:, None].expand(6, 4).double())
    torch.testing.assert_close(y[:, 1], ((torch.arange(4) + 0.5) / 4)[:, None].expand(4, 4).double())
    shape = (w * width) / (h * height)  # in pixels
    assert shape.tolist() == pytest.approx([4, 4, 1, 0.25])
    assert h.tolist() == pytest.approx([0.5 / 2, 0.2 / 2, 0.5, 0.5 * 2])


layer = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))


@drawn
@given(st.lists(layer, min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3))
def test_what_a_map_pixel_sees_is_where_its_gradient_arrives(layers, i, j):
    # Kernels of ones, 41 pixels each way: a pixel of the map far from the edges, whose window is whole.
    image = torch.zeros(1, 1, 400, 400, dtype=torch.float64, requires_grad=True)
    x = image
    for kernel, stride, edge in layers:
        x = F.conv2d(x, torch.ones(1, 1, kernel, kernel, dtype=torch.float64), stride=stride, padding=edge)
    size, step, _ = ops.receptive_field(layers)
    height, width = x.shape[2:]
    row, column = min(height // 2 + i, height - 1), min(width // 2 + j, width - 1)
    (seen,) = torch.autograd.grad(x[0, 0, row, column], image)
    reached = (seen[0, 0] != 0).nonzero()
    first, last = reached.amin(0), reached.amax(0)
    centre = ops.receptive_centres(layers, height, width).view(height, width, 2)[row, column]
    assert centre.tolist() == [(first[1] + last[1] + 1) / 2, (first[0] + last[0] + 1) / 2]
    dense = all(s <= 1 or k >= s for k, s, _ in layers)
    if dense:
        assert (last - first + 1).tolist() == [size, size]
    assert step == torch.tensor([stride for _, stride, _ in layers]).prod()


def test_a_residual_networks_map_looks_at_the_middle_of_the_first_pixel():
    layers = [(7, 2, 3), (3, 2, 1), *[(3, 1, 1)] * 3, (3, 2, 1), *[(3, 1, 1)] * 3]  # to stride 8
    size, step, centre = ops.receptive_field(layers)
    assert (step, centre) == (8, 0.5)
    assert size == 1 + 6 + 2 * 2 + 3 * 2 * 4 + 2 * 4 + 3 * 2 * 8


def test_what_lays_no_anchors_is_refused():
    assert_refused(SettingsError, lambda: ops.cell_anchors([], [1]), "sizes", ())
    assert_refused(SettingsError, lambda: ops.cell_anchors([8], [1, 0]), "ratios", (1, 0))
    assert_refused(ShapeError, lambda: ops.anchor_boxes([[8]], [[1]], (8, 8), [(2, 2), (1, 1)]), 1, 2)
    assert_refused(SettingsError, lambda: ops.anchor_boxes([[8]], [[1]], (8, 8), [(2, 9)]), (2, 9), (8, 8))
    assert_refused(SettingsError, lambda: ops.multibox_prior(0, 4, [0.5], [1]), "height=0")
    assert_refused(SettingsError, lambda: ops.multibox_prior(4, 4, [0.5], [-1]), (-1,))
    assert_refused(SettingsError, lambda: ops.receptive_field([(3, 0, 1)]), (3, 0, 1))
