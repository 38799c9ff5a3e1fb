"""Which anchor learns which object: the book's greedy assignment, Faster R-CNN's matcher, and the balanced sample."""

import torch
from torch import Generator, Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.boxes import box_iou

BELOW_LOW_THRESHOLD = -1  # background
BETWEEN_THRESHOLDS = -2  # neither: left out of the loss


def assign_anchor_to_bbox(ground_truth: Tensor, anchors: Tensor, iou_threshold: float = 0.5) -> Tensor:
    """The ground truth of each anchor, or −1, (M, 4) and (N, 4) -> (N,) int64 in −1..M−1.

    First each object gets an anchor of its own: the largest IoU of all pairs decides for both, then the largest among
    the anchors and objects left, until the objects (or the anchors) are used up, even if that IoU is 0. Each other
    anchor takes the object that it overlaps most, if with IoU ≥ ``iou_threshold``. Of equal IoU the lower anchor, then
    the lower object counts. Source: Dive into Deep Learning, section 14.4.3.
    """
    if not 0 <= iou_threshold <= 1:
        raise SettingsError(f"iou_threshold={iou_threshold} must lie in 0..1")
    iou = box_iou(anchors, ground_truth)  # (N, M)
    N, M = iou.shape
    if M == 0 or N == 0:
        return torch.full((N,), -1, dtype=torch.int64, device=anchors.device)
    largest, nearest = iou.max(1)
    assigned = torch.where(largest >= iou_threshold, nearest, -1)
    for _ in range(min(N, M)):
        anchor, truth = divmod(int(iou.argmax()), M)
        assigned[anchor] = truth
        iou[anchor], iou[:, truth] = -1, -1  # both are taken
    return assigned


def match_boxes(
    quality: Tensor, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool = False
) -> Tensor:
    """The ground truth of each box, −1 for background or −2 for neither, (M, N) -> (N,) int64 in −2..M−1.

    ``quality`` is the IoU of M ground-truth boxes with N anchors or proposals. A box takes the object with its highest
    IoU, if that is at least ``high_threshold``; below ``low_threshold`` it is background (−1), and between the two it
    is left out of the loss (−2).

    With ``allow_low_quality_matches`` each object also keeps the boxes that have the highest IoU with it of all boxes,
    however low, ties included. Each such box still takes the object that *it* overlaps most, which may be another one;
    and an object that overlaps no box at all ties with every box of IoU 0. Both as in torchvision.

    An image without objects gives background throughout.

    Raises SettingsError if the thresholds are the wrong way round.

    Source: Ren et al. (2015), Faster R-CNN, section 3.1.2.
    """
    if quality.ndim != 2:
        raise ShapeError(f"quality has shape {tuple(quality.shape)}; expected (M, N), ground truth by boxes")
    if not low_threshold <= high_threshold:
        raise SettingsError(f"low_threshold={low_threshold} must be at most high_threshold={high_threshold}")
    if 0 in quality.shape:
        return torch.full(quality.shape[1:], BELOW_LOW_THRESHOLD, dtype=torch.int64, device=quality.device)
    highest, nearest = quality.max(0)
    matched = torch.where(highest < high_threshold, BETWEEN_THRESHOLDS, nearest)
    matched = torch.where(highest < low_threshold, BELOW_LOW_THRESHOLD, matched)
    if allow_low_quality_matches:
        best_of_some = (quality == quality.amax(1, keepdim=True)).any(0)
        matched = torch.where(best_of_some, nearest, matched)
    return matched


def sample_balanced(
    labels: Tensor, num_samples: int, positive_fraction: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Indices of positives and of negatives drawn for the loss, (N,) -> (P,) and (Q,) int64, each in order.

    ``labels`` above 0 are positives, 0 negatives, below 0 neither. At most ``positive_fraction`` of ``num_samples`` are
    positives; negatives fill up the rest, as far as there are any. Without this an image's thousands of background
    boxes would drown its few objects (Ren et al., 2015, section 3.1.3).

    The generator gives first a permutation of the positives, then one of the negatives, as torchvision's sampler takes
    them; it may live on another device than the labels, so that the same seed draws the same everywhere.
    """
    if labels.ndim != 1:
        raise ShapeError(f"labels has shape {tuple(labels.shape)}; expected (N,), one label a box")
    if num_samples < 1 or not 0 <= positive_fraction <= 1:
        raise SettingsError(
            f"num_samples={num_samples} must be at least 1 and positive_fraction={positive_fraction} lie in 0..1"
        )
    positive, negative = (labels >= 1).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    return _drawn(positive, num_positive, generator), _drawn(negative, num_negative, generator)


def _drawn(indices: Tensor, count: int, generator: Generator) -> Tensor:
    chosen = torch.randperm(len(indices), generator=generator, device=generator.device)[:count]
    return indices[chosen.to(indices.device)].sort()[0]
