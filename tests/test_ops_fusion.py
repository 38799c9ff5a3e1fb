"""Boxes of several views as one answer, against a loop over boxes in plain Python and numbers counted by hand."""

import pytest
import torch
from test_ops_suppression import by_loop

from byhand import ops
from byhand.errors import SettingsError, ShapeError


def overlap(a, b):
    """IoU of two boxes given as lists."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, width) * max(0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


def fused_by_loop(boxes, scores, idxs, views, num_views, threshold):
    """Rows [score, class, box] from the best down, object by object."""
    kept = by_loop(boxes, scores, threshold, idxs)
    rows, values, classes, seen = boxes.tolist(), scores.tolist(), idxs.tolist(), views.tolist()
    members = {k: [] for k in kept}
    for i in range(len(rows)):
        same = [k for k in kept if classes[k] == classes[i]]
        members[i if i in kept else max(same, key=lambda k: overlap(rows[k], rows[i]))].append(i)
    answers = []
    for k, own in members.items():
        weight = sum(values[i] for i in own)
        mean = [sum(values[i] * rows[i][axis] for i in own) / weight for axis in range(4)]
        best = [max((values[i] for i in own if seen[i] == view), default=0.0) for view in range(num_views)]
        answers.append([sum(best) / num_views, classes[k], *mean])
    return sorted(answers, key=lambda row: -row[0])


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_fused_boxes_are_those_of_a_loop_over_boxes(threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    middles = torch.rand(12, 4, generator=generator, dtype=torch.float64) * 60
    corners = middles[:, :2].repeat(10, 1) + torch.randn(120, 2, generator=generator, dtype=torch.float64)
    sizes = 10 + middles[:, 2:].repeat(10, 1) / 3 + torch.randn(120, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((corners, corners + sizes), 1)
    scores = torch.rand(120, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    idxs = torch.randint(1, 4, (120,), generator=generator)
    views = torch.randint(4, (120,), generator=generator)
    fused = ops.fuse_boxes(boxes, scores, idxs, views, 4, threshold)
    expected = torch.tensor(fused_by_loop(boxes, scores, idxs, views, 4, threshold), dtype=torch.float64)
    assert 12 <= len(expected) < 120
    torch.testing.assert_close(fused.scores, expected[:, 0])
    assert torch.equal(fused.idxs, expected[:, 1].long())
    torch.testing.assert_close(fused.boxes, expected[:, 2:])
    torch.testing.assert_close(fused.shares @ boxes, fused.boxes)


def test_what_one_view_of_two_has_seen_keeps_half_its_score():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    fused = ops.fuse_boxes(boxes, torch.tensor([0.9, 0.3, 0.8]), torch.tensor([5, 5, 5]), torch.tensor([0, 1, 1]), 2)
    torch.testing.assert_close(fused.scores, torch.tensor([0.6, 0.4]))  # (0.9 + 0.3) / 2 and 0.8 / 2
    torch.testing.assert_close(fused.boxes, torch.tensor([[0.25, 0, 10.25, 10], [50, 50, 60, 60]]))  # 1 · 0.3 / 1.2
    torch.testing.assert_close(fused.shares, torch.tensor([[0.75, 0.25, 0], [0, 0, 1]]))


def test_two_boxes_of_one_view_count_once():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    fused = ops.fuse_boxes(boxes, torch.tensor([0.8, 0.6]), torch.tensor([1, 1]), torch.tensor([0, 0]), 2)
    torch.testing.assert_close(fused.scores, torch.tensor([0.4]))


def test_boxes_of_other_classes_and_without_area_stay_by_themselves():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [3, 3, 3, 3], [3, 3, 3, 3]])
    scores, views = torch.tensor([0.8, 0.6, 0.4, 0.2]), torch.tensor([0, 1, 0, 1])
    fused = ops.fuse_boxes(boxes, scores, torch.tensor([1, 2, 1, 1]), views, 2)
    assert torch.equal(fused.boxes, boxes)
    assert fused.idxs.tolist() == [1, 2, 1, 1]
    torch.testing.assert_close(fused.scores, scores / 2)


def test_of_nothing_found_comes_nothing():
    none = torch.zeros(0, dtype=torch.long)
    fused = ops.fuse_boxes(torch.zeros(0, 4), torch.zeros(0), none, none, 4)
    assert fused.boxes.shape == (0, 4)
    assert fused.shares.shape == (0, 0)
    assert len(fused.scores) == len(fused.idxs) == 0


def test_shapes_that_do_not_fit_are_refused():
    boxes, scores, idxs = torch.ones(3, 4), torch.ones(3), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ShapeError, match=r"views has shape \(2,\); expected \(3,\)"):
        ops.fuse_boxes(boxes, scores, idxs, idxs[:2], 2)
    with pytest.raises(SettingsError, match="iou_threshold"):
        ops.fuse_boxes(boxes, scores, idxs, idxs, 2, 1.5)
