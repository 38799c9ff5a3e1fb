"""Suppression against a loop over boxes in plain Python, whose numbers are rounded to float32 one by one."""

import math

import numpy as np
import pytest
import torch
from against_torch import assert_refused, drawn
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import SettingsError, ShapeError
from byhand.ops import suppression

THRESHOLDS = [0.0, 0.3, 0.5, 0.7, 1.0]


def by_loop(boxes, scores, threshold, idxs=None):
    """Kept indices by the definition: box by box from the best down, pair by pair, as torchvision's C++ rounds."""
    kind = {torch.float32: np.float32, torch.float64: np.float64}[boxes.dtype]
    rows = [[kind(value) for value in row] for row in boxes.tolist()]
    values, classes = scores.tolist(), [0] * len(rows) if idxs is None else idxs.tolist()
    kept = []
    with np.errstate(all="ignore"):
        areas = [(row[2] - row[0]) * (row[3] - row[1]) for row in rows]
        for j in sorted(range(len(rows)), key=lambda j: (-values[j], j)):
            b = rows[j]
            for i in kept:
                a = rows[i]
                w = max(kind(0), min(a[2], b[2]) - max(a[0], b[0]))
                h = max(kind(0), min(a[3], b[3]) - max(a[1], b[1]))
                inter = w * h
                if classes[i] == classes[j] and float(inter / (areas[i] + areas[j] - inter)) > threshold:
                    break
            else:
                kept.append(j)
    return kept


def random_boxes(n, extent, size, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(n, 2, generator=generator, dtype=dtype) * extent
    boxes = torch.cat([start, start + torch.rand(n, 2, generator=generator, dtype=dtype) * size], 1)
    return boxes, torch.rand(n, generator=generator, dtype=dtype)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(("extent", "size"), [(100, 100), (1000, 60), (5, 200)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_keeps_what_the_loop_keeps_in_its_order(threshold, extent, size, dtype):
    boxes, scores = random_boxes(600, extent, size, dtype=dtype)  # several blocks
    kept = ops.nms(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == by_loop(boxes, scores, threshold)


# Whole numbers in a narrow range: equal boxes, boxes without area, IoU of exactly 3 / 10 or 1 / 2, equal scores.
corner, side = st.integers(0, 4), st.integers(0, 5)
degenerate = st.lists(
    st.tuples(corner, corner, side, side, st.integers(0, 2), st.integers(0, 3)), min_size=0, max_size=40
)


def parts(rows, dtype):
    table = torch.tensor(rows, dtype=dtype).reshape(-1, 6)
    return torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], 1), table[:, 4] / 2, table[:, 5].long()


@drawn
@given(
    degenerate,
    st.sampled_from(THRESHOLDS),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_nms_is_exact_for_ties_equal_and_empty_boxes_whatever_the_blocks(rows, threshold, dtype, block, many):
    boxes, scores, idxs = parts(rows, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "FIRST", block)
        patch.setattr(suppression, "BLOCK", 2 * block)
        patch.setattr(suppression, "CROWD", 8 * many)  # so that some begin with the best box alone
        patch.setattr(suppression, "TILE", 3 * block)
        patch.setattr(suppression, "MANY", many)
        assert ops.nms(boxes, scores, threshold).tolist() == by_loop(boxes, scores, threshold)
        assert ops.batched_nms(boxes, scores, idxs, threshold).tolist() == by_loop(boxes, scores, threshold, idxs)


# Areas that are 0, infinite or not a number, and differences of coordinates that overflow.
extreme = st.sampled_from(
    [0.0, 1.0, 2.0, 3.0, -1.0, 1e-30, 1e-22, 1.5e-45, 1e19, 1e38, 3e38, -3e38, math.inf, -math.inf]
)


@drawn
@given(st.lists(st.tuples(extreme, extreme, extreme, extreme), min_size=1, max_size=12), st.sampled_from(THRESHOLDS))
def test_boxes_of_any_extent_inverted_ones_too_are_compared_as_the_loop_compares(rows, threshold):
    boxes, scores = torch.tensor(rows), -torch.arange(len(rows)).float()
    assert ops.nms(boxes, scores, threshold).tolist() == by_loop(boxes, scores, threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("num_classes", [1, 3, 90])
def test_suppression_per_class_keeps_what_the_loop_keeps(threshold, num_classes):
    boxes, scores = random_boxes(700, 50, 60, seed=1)
    idxs = torch.randint(-1, num_classes - 1, (700,), generator=torch.Generator().manual_seed(2))
    assert ops.batched_nms(boxes, scores, idxs, threshold).tolist() == by_loop(boxes, scores, threshold, idxs)


@pytest.mark.parametrize("tenths", range(11))
def test_an_iou_that_equals_the_threshold_is_judged_as_a_double(tenths):
    # IoU of exactly tenths / 10; its float32 lies above the double for 0.3 and 0.6 and below it for 0.7 and 0.9.
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, tenths, 1]], dtype=torch.float32)
    threshold = tenths / 10
    above = tenths > 0 and float(np.float32(tenths) / np.float32(10)) > threshold
    assert ops.nms(boxes, torch.tensor([1.0, 0.5]), threshold).tolist() == ([0] if above else [0, 1])
    boxes = boxes.double()
    assert ops.nms(boxes, torch.tensor([1.0, 0.5]).double(), threshold).tolist() == [0, 1]


def test_a_chain_in_which_each_suppresses_only_the_next_keeps_every_second():
    # IoU of neighbours 2 / 4, of the next but one 1 / 5: as deep a chain of decisions as there can be
    x = torch.arange(700.0)
    boxes = torch.stack([x, torch.zeros(700), x + 3, torch.ones(700)], 1)
    assert ops.nms(boxes, -x, 0.4).tolist() == list(range(0, 700, 2))


@pytest.mark.parametrize("reach", [2, 10, 100])
def test_a_chain_in_which_each_suppresses_several_of_the_next_keeps_one_of_reach(reach):
    # Width w and step 1: IoU of the d-th next is (w - d) / (w + d), and above 1 / 2 while 3 d < w
    x = torch.arange(700.0)
    boxes = torch.stack([x, torch.zeros(700), x + 3 * reach - 2, torch.ones(700)], 1)
    assert ops.nms(boxes, -x, 0.5).tolist() == list(range(0, 700, reach))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_boxes_that_overlap_nothing_come_in_the_order_of_their_scores(dtype):
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.arange(3000.0)
    boxes = torch.stack([x, torch.zeros(3000), x + 1, torch.ones(3000)], 1)
    scores = torch.randn(3000, generator=generator) * 10.0 ** torch.randint(-44, 30, (3000,), generator=generator)
    scores[::3] = scores[1::3]  # equal ones, of which the lower index comes first
    scores[::50], scores[7::50] = 0.0, -0.0  # which are equal too
    endless = torch.cat([scores[:-2], torch.tensor([-math.inf, math.inf])])
    for some in (scores.to(dtype), -scores.to(dtype), endless.to(dtype)):
        rows = some.tolist()
        assert ops.nms(boxes, some, 0.5).tolist() == sorted(range(3000), key=lambda i: (-rows[i], i))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_a_box_with_a_nan_overlaps_nothing_and_hides_nothing_from_the_others(threshold):
    boxes, _ = random_boxes(400, 400, 60, seed=5)
    scores = -boxes[:, 0]  # from left to right, so that most boxes lie beside what a block covers
    clean = boxes.clone()
    boxes[::7, torch.arange(len(boxes[::7])) % 4] = math.nan
    broken = boxes.isnan().any(1)
    kept = ops.nms(boxes, scores, threshold)
    assert int(broken[kept].sum()) == int(broken.sum())
    whole = (~broken).nonzero()[:, 0]
    assert torch.equal(kept[~broken[kept]], whole[ops.nms(clean[whole], scores[whole], threshold)])


def test_the_books_example_keeps_what_it_prints():
    # Dive into Deep Learning, section 14.4.4: three dogs in one place, of 0.9, 0.8, 0.7, and a cat of 0.9
    boxes = torch.tensor(
        [[0.1, 0.08, 0.52, 0.92], [0.08, 0.2, 0.56, 0.95], [0.15, 0.3, 0.62, 0.91], [0.55, 0.2, 0.9, 0.88]]
    )
    assert ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.9]), 0.5).tolist() == [0, 3]


def test_empty_input_equal_scores_and_unlike_memory_are_no_special_case():
    assert ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert ops.batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).dtype == torch.int64
    assert ops.nms(torch.tensor([[0, 0, 4, 4.0]]).repeat(500, 1), torch.zeros(500), 0.5).tolist() == [0]
    boxes, scores = random_boxes(300, 100, 100)
    spread = boxes.T.contiguous().T.requires_grad_()
    assert ops.nms(spread, scores, 0.5).tolist() == ops.nms(boxes, scores, 0.5).tolist()
    assert torch.equal(boxes, random_boxes(300, 100, 100)[0])


def soft_by_loop(boxes, scores, method, sigma, threshold, least):
    """Bodla et al., figure 3, in plain Python: take the best, lower the others, drop what falls too low."""
    rows = boxes.tolist()

    def iou(a, b):
        w, h = max(0, min(a[2], b[2]) - max(a[0], b[0])), max(0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        return w * h / union if union else 0

    left, taken, values = {i: score for i, score in enumerate(scores.tolist()) if score >= least}, [], []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        taken.append(best)
        values.append(left.pop(best))
        for i in list(left):
            u = iou(rows[best], rows[i])
            if method == "gaussian":
                left[i] *= math.exp(-u * u / sigma)
            elif u >= threshold:
                left[i] *= 1 - u
            if left[i] < least:
                del left[i]
    return taken, values


@drawn
@given(
    degenerate,
    st.sampled_from(["gaussian", "linear"]),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([0.25, 0.5]),
    st.sampled_from([0.0, 0.001, 0.3]),
)
def test_soft_suppression_is_that_of_the_loop(rows, method, sigma, threshold, least):
    boxes, scores, _ = parts(rows, torch.float64)
    # Scores that no product of factors makes equal again: the last digit would decide between them.
    scores = scores + torch.rand(len(scores), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    kept, lowered = ops.soft_nms(boxes, scores, method, sigma, threshold, least)
    taken, values = soft_by_loop(boxes, scores, method, sigma, threshold, least)
    assert kept.tolist() == taken
    assert lowered.tolist() == pytest.approx(values, rel=1e-12)


def test_soft_suppression_by_hand():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30.0]])
    scores = torch.tensor([0.8, 0.9, 0.5])
    kept, lowered = ops.soft_nms(boxes, scores, "linear")
    assert kept.tolist() == [1, 2, 0]
    assert lowered.tolist() == pytest.approx([0.9, 0.5, 0.4])
    kept, lowered = ops.soft_nms(boxes, scores)  # 0.8 exp(−0.25 / 0.5)
    assert kept.tolist() == [1, 2, 0]
    assert lowered.tolist() == pytest.approx([0.9, 0.5, 0.8 * math.exp(-0.5)])
    same = torch.zeros(3, 4)
    assert ops.soft_nms(same, torch.full((3,), 0.5))[0].tolist() == [0, 1, 2]  # lower index first
    assert scores.tolist() == pytest.approx([0.8, 0.9, 0.5])


def test_the_threshold_may_be_a_number_of_any_kind():
    boxes, scores = torch.tensor([[0, 0, 10, 1], [0, 0, 5, 1], [0, 0, 2, 1.0]]), torch.tensor([1.0, 0.5, 0.2])
    for of_boxes in (boxes, boxes.double()):
        for threshold in (torch.tensor(0.4), np.float32(0.4), np.float64(0.4), 0.4):
            assert ops.nms(of_boxes, scores, threshold).tolist() == [0, 2]


def test_what_does_not_fit_is_refused():
    boxes, scores = torch.zeros(3, 4), torch.zeros(3)
    assert_refused(ShapeError, lambda: ops.nms(boxes, scores[:2], 0.5), (3, 4), (2,))
    assert_refused(ShapeError, lambda: ops.nms(torch.zeros(3, 5), scores, 0.5), (3, 5))
    assert_refused(ShapeError, lambda: ops.batched_nms(boxes, scores, torch.zeros(2), 0.5), (2,))
    for threshold in (-0.1, 1.1, math.nan):
        assert_refused(SettingsError, lambda t=threshold: ops.nms(boxes, scores, t), threshold)
    assert_refused(SettingsError, lambda: ops.soft_nms(boxes, scores, "square"), "square", "gaussian")
    assert_refused(SettingsError, lambda: ops.soft_nms(boxes, scores, sigma=0), "sigma=0")


def test_what_stays_may_stand_where_gradients_are_computed():
    boxes, scores = random_boxes(50, 40, 20)
    for kept in (ops.nms(boxes, scores, 0.5), ops.batched_nms(boxes, scores, torch.zeros(50), 0.5)):
        asked = boxes.clone().requires_grad_()
        asked[kept].sum().backward()
        assert int(asked.grad.sum()) == 4 * len(kept) < 4 * 50
