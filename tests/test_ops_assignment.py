"""Assignment against the book's printed example, a referee that goes pair by pair, and counting."""

import pytest
import torch
from against_torch import assert_refused, drawn
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import SettingsError, ShapeError

# A few values only, so that ties and empty overlaps occur often.
value = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.5, 0.7, 0.9])
sizes = st.tuples(st.integers(0, 4), st.integers(0, 7))
qualities = sizes.flatmap(
    lambda size: st.lists(value, min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda values: torch.tensor(values, dtype=torch.float64).reshape(size)
    )
)


def test_the_books_example_is_assigned_as_it_prints():
    # Dive into Deep Learning, section 14.4.3.3: classes 0, 1, 2, 0, 2 are background, dog, cat, background, cat
    truth = torch.tensor([[0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88]])
    anchors = torch.tensor(
        [[0, 0.1, 0.2, 0.3], [0.15, 0.2, 0.4, 0.4], [0.63, 0.05, 0.88, 0.98], [0.66, 0.45, 0.8, 0.8],
         [0.57, 0.3, 0.92, 0.9]]
    )  # fmt: skip
    assert ops.assign_anchor_to_bbox(truth, anchors).tolist() == [-1, 0, 1, -1, 1]


def test_each_object_gets_an_anchor_of_its_own_however_low_the_iou():
    # Both objects overlap anchor 0 most; the second must be content with anchor 2, of IoU 1 / 19.
    truth = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9.0]])
    anchors = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60], [9, 0, 19, 9.0]])
    assert ops.assign_anchor_to_bbox(truth, anchors).tolist() == [0, -1, 1]
    assert ops.assign_anchor_to_bbox(truth, anchors[:1]).tolist() == [0]  # more objects than anchors
    assert ops.assign_anchor_to_bbox(truth[:0], anchors).tolist() == [-1] * 3
    assert ops.assign_anchor_to_bbox(truth, anchors[:0]).tolist() == []


@drawn
@given(st.integers(0, 2**31), st.integers(0, 5), st.integers(0, 8), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_greedy_assignment_is_that_of_the_sorted_list_of_pairs(seed, M, N, threshold):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 6, (M + N, 2), generator=generator)
    both = torch.cat([start, start + torch.randint(1, 6, (M + N, 2), generator=generator)], 1).double()
    iou = ops.box_iou(both[M:], both[:M]).tolist()
    expected = [-1] * N
    for n in range(N):
        best = max(range(M), key=lambda m: iou[n][m], default=None)
        if best is not None and iou[n][best] >= threshold:
            expected[n] = best
    free_anchors, free_truths = set(range(N)), set(range(M))
    for _, n, m in sorted((-iou[n][m], n, m) for n in range(N) for m in range(M)):
        if n in free_anchors and m in free_truths:
            expected[n] = m
            free_anchors.remove(n)
            free_truths.remove(m)
    assert ops.assign_anchor_to_bbox(both[:M], both[M:], threshold).tolist() == expected


def matched_pair_by_pair(quality, high, low, allow):
    """The rule as the paper and torchvision's documentation put it, box by box."""
    M, N = quality.shape
    rows = quality.tolist()
    matches = []
    for n in range(N):
        if M == 0:
            matches.append(-1)
            continue
        best = max(range(M), key=lambda m: rows[m][n])
        wanted = allow and any(rows[m][n] == max(rows[m]) for m in range(M))
        if rows[best][n] >= high or wanted:
            matches.append(best)
        else:
            matches.append(-2 if rows[best][n] >= low else -1)
    return matches


@drawn
@given(qualities, st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.9, 0.1)]), st.booleans())
def test_the_matcher_is_that_of_going_box_by_box(quality, thresholds, allow):
    matched = ops.match_boxes(quality, *thresholds, allow_low_quality_matches=allow)
    assert matched.tolist() == matched_pair_by_pair(quality, *thresholds, allow)
    assert matched.dtype == torch.int64


def test_low_quality_matches_by_hand():
    quality = torch.tensor(
        [
            [0.8, 0.4, 0.2, 0.4, 0.0],  # its best is box 0, above the high threshold anyway
            [0.1, 0.2, 0.6, 0.6, 0.0],  # boxes 2 and 3 tie
            [0.3, 0.0, 0.1, 0.65, 0.0],  # its best is box 3, which it also is of no other
        ]
    )
    assert ops.match_boxes(quality, 0.7, 0.3).tolist() == [0, -2, -2, -2, -1]
    assert ops.match_boxes(quality, 0.7, 0.3, True).tolist() == [0, -2, 1, 2, -1]
    assert (ops.assignment.BELOW_LOW_THRESHOLD, ops.assignment.BETWEEN_THRESHOLDS) == (-1, -2)


def test_an_image_without_objects_is_background():
    assert ops.match_boxes(torch.zeros(0, 3), 0.7, 0.3, True).tolist() == [-1, -1, -1]


@drawn
@given(
    st.lists(st.sampled_from([-2, -1, 0, 0, 1, 3]), max_size=40),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.integers(0, 1000),
)
def test_the_sample_is_balanced_and_filled_up(labels, num_samples, fraction, seed):
    positives = [i for i, label in enumerate(labels) if label > 0]
    negatives = [i for i, label in enumerate(labels) if label == 0]
    generator = torch.Generator().manual_seed(seed)
    positive, negative = ops.sample_balanced(torch.tensor(labels, dtype=torch.int64), num_samples, fraction, generator)
    assert len(positive) == min(len(positives), int(num_samples * fraction))
    assert len(negative) == min(len(negatives), num_samples - len(positive))
    for drawn_ones, all_of_them in ((positive.tolist(), positives), (negative.tolist(), negatives)):
        assert drawn_ones == sorted(set(drawn_ones))
        assert set(drawn_ones) <= set(all_of_them)


def test_the_draw_is_the_generators_positives_first():
    labels = torch.tensor([0, 1] * 50)
    positive, negative = ops.sample_balanced(labels, 20, 0.25, torch.Generator().manual_seed(7))
    again = torch.Generator().manual_seed(7)
    assert positive.tolist() == sorted(2 * i + 1 for i in torch.randperm(50, generator=again)[:5].tolist())
    assert negative.tolist() == sorted(2 * i for i in torch.randperm(50, generator=again)[:15].tolist())


def test_every_box_is_drawn_equally_often():
    labels, generator = torch.tensor([1] * 6 + [0] * 10), torch.Generator().manual_seed(0)
    counts = torch.zeros(16)
    for _ in range(2000):
        for drawn_ones in ops.sample_balanced(labels, 8, 0.25, generator):
            counts[drawn_ones] += 1
    # 2 of 6 and 6 of 10 a draw; five standard deviations are about 0.05
    torch.testing.assert_close(counts / 2000, torch.tensor([1 / 3] * 6 + [0.6] * 10), rtol=0, atol=0.055)


def test_what_cannot_be_assigned_is_refused():
    with pytest.raises(ShapeError):
        ops.assign_anchor_to_bbox(torch.zeros(2, 5), torch.zeros(3, 4))
    assert_refused(
        SettingsError, lambda: ops.assign_anchor_to_bbox(torch.zeros(2, 4), torch.zeros(3, 4), 1.5), "iou_threshold=1.5"
    )
    assert_refused(SettingsError, lambda: ops.match_boxes(torch.zeros(2, 3), 0.3, 0.7), 0.3, 0.7)
    assert_refused(ShapeError, lambda: ops.match_boxes(torch.zeros(3), 0.7, 0.3), (3,))
    generator = torch.Generator()
    assert_refused(ShapeError, lambda: ops.sample_balanced(torch.zeros(2, 2), 4, 0.5, generator), (2, 2))
    assert_refused(SettingsError, lambda: ops.sample_balanced(torch.zeros(2), 0, 0.5, generator), "num_samples=0")
    assert_refused(SettingsError, lambda: ops.sample_balanced(torch.zeros(2), 4, 1.5, generator), 1.5)
