"""Pascal VOC's average precision of a detector, by the rules of 2007 and of 2010."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from byhand.errors import SettingsError
from byhand.ops.average_precision import (
    Detections,
    Objects,
    absent,
    candidates,
    paired_box_iou,
    pooled,
    raised,
)


@dataclass(frozen=True)
class VocPrecision:
    """Pascal VOC's measure: AP of each class, and the curves that it is the area of. NaN where a class has no objects.

    A curve has one point for each detection of the class, the surest first.
    """

    class_names: tuple[str, ...]
    iou_threshold: float
    ap: Tensor  # (K,)
    num_objects: Tensor  # (K,) int64, without the ignored ones
    precision: tuple[Tensor, ...]  # K curves
    recall: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]

    @property
    def mean(self) -> float:
        """The mean AP over the classes that have objects."""
        return float(self.ap.nanmean())

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes without objects: their AP is NaN and left out of the mean."""
        return absent(self.class_names, self.num_objects)

    def per_class(self) -> dict[str, float]:
        return dict(zip(self.class_names, self.ap.tolist(), strict=True))


def voc_average_precision(
    truth: Sequence[Objects],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    iou_threshold: float = 0.5,
    eleven_points: bool = False,
    inclusive: bool = False,
) -> VocPrecision:
    """Pascal VOC's average precision of boxes, of each class; ``truth`` and ``detections`` hold one entry an image.

    Each detection looks at the object of its class and image that it overlaps most, taken already or not. Below
    ``iou_threshold`` it is wrong; at or above it is right if it is the first there, and wrong if the object was found
    before. On an ignored object (or a crowd, which VOC does not know) it counts neither way. Of detections with equal
    scores those of earlier images come first.

    The area lies under the curve with each precision raised to the highest at that recall or more (2010 and later);
    ``eleven_points`` takes the mean of that at the recalls 0, 0.1, ..., 1 (2007). There 10 · right ≥ i · objects is
    asked in whole numbers; the devkit's 3/10 ≥ 0.3 is false in floating point.

    VOC's own boxes name their first and last pixel. Read as x1 = xmin − 1, y1 = ymin − 1, x2 = xmax, y2 = ymax they
    have its overlaps here; ``inclusive`` counts the last pixel of boxes whose numbers were left as they are.

    Raises ShapeError for tensors that do not fit together, TargetError for labels outside the classes, SettingsError
    for a threshold outside 0..1 and for class names that repeat or are none.
    Source: Everingham et al., The Pascal Visual Object Classes Challenge (2010), section 4.2, and its devkit.
    """
    if not 0 < iou_threshold <= 1:
        raise SettingsError(f"iou_threshold={iou_threshold} must lie above 0 and at most at 1, as 0.5 does")
    pool = pooled(truth, detections, class_names)
    ignored = pool.crowd | pool.ignored
    overlap = paired_box_iou(pool.boxes, pool.object_boxes, float(inclusive))
    found, at, iou = candidates(pool, overlap, iou_threshold)
    order = iou.sort(descending=True, stable=True).indices
    order = order[found[order].sort(stable=True).indices]
    best = torch.ones_like(order, dtype=torch.bool)
    best[1:] = found[order][1:] != found[order][:-1]
    found, at = found[order[best]], at[order[best]]

    sure = pool.scores.sort(descending=True, stable=True).indices
    place = torch.empty_like(sure).index_put((sure,), torch.arange(len(sure)))
    first = torch.full((len(ignored),), len(sure)).scatter_reduce(0, at, place[found], "amin")
    right, dropped = torch.zeros(2, len(sure), dtype=torch.bool)
    right[found] = (place[found] == first[at]) & ~ignored[at]
    dropped[found] = ignored[at]

    labels = pool.group % len(class_names)
    counted = torch.bincount((pool.object_group % len(class_names))[~ignored], minlength=len(class_names))
    areas, curves = [], []
    for k, objects in enumerate(counted.tolist()):
        kept = sure[(labels[sure] == k) & ~dropped[sure]]
        hits = right[kept].cumsum(0)
        precision = hits.double() / torch.arange(1, len(kept) + 1)
        recall = hits.double() / objects  # NaN or infinite without objects
        curves.append((precision, recall if objects else torch.full_like(recall, torch.nan), pool.scores[kept]))
        areas.append(_area(hits, precision, objects, eleven_points))
    ap = torch.tensor(areas, dtype=torch.float64)
    precisions, recalls, scores = zip(*curves, strict=True)
    return VocPrecision(tuple(class_names), iou_threshold, ap, counted, precisions, recalls, scores)


def _area(hits: Tensor, precision: Tensor, objects: int, eleven_points: bool) -> float:
    if not objects:
        return torch.nan
    highest = raised(precision)
    if eleven_points:
        reached = [hits * 10 >= i * objects for i in range(11)]
        return sum(float(highest[r][0]) for r in reached if r.any()) / 11
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return float((highest * gained).sum()) / objects
