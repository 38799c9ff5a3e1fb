"""COCO's measures of a detector: average precision and average recall of boxes or masks, by IoU, area and class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from byhand.errors import SettingsError, unknown_name
from byhand.ops.average_precision import (
    Detections,
    Objects,
    Pool,
    absent,
    candidates,
    paired_box_iou,
    paired_masks,
    pooled,
    raised,
)

# The very numbers of numpy's linspace, which pycocotools takes: 57 of 100 objects do not reach its recall of 0.57.
_STEP = (0.95 - 0.5) / 9
IOU_THRESHOLDS = (*(i * _STEP + 0.5 for i in range(9)), 0.95)
RECALLS = tuple(i * 0.01 for i in range(101))
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # px²
MOST = (1, 10, 100)  # detections of an image and class, the surest of them

# name: (of precision or of recall, the one IoU threshold, area, how many detections)
MEASURES = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APsmall": ("precision", None, "small", 100),
    "APmedium": ("precision", None, "medium", 100),
    "APlarge": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "ARsmall": ("recall", None, "small", 100),
    "ARmedium": ("recall", None, "medium", 100),
    "ARlarge": ("recall", None, "large", 100),
}


@dataclass(frozen=True)
class CocoPrecision:
    """COCO's measures, whole: T IoU thresholds × R recalls × K classes × A areas × M numbers of detections.

    NaN stands where a class has no objects of that area, where pycocotools writes −1; means leave it out.
    The axes are IOU_THRESHOLDS, RECALLS, ``class_names``, AREAS and MOST.
    """

    class_names: tuple[str, ...]
    precision: Tensor  # (T, R, K, A, M): the highest at that recall or more
    recall: Tensor  # (T, K, A, M): of all detections
    scores: Tensor  # (T, R, K, A, M): at which score that recall is reached, 0 where it is not
    num_objects: Tensor  # (K, A) int64, those that must be found

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes without objects: their AP is NaN and left out of every mean."""
        return absent(self.class_names, self.num_objects[:, 0])

    def summary(self) -> dict[str, float]:
        """The twelve numbers of COCO's table, by name, over all classes that have objects."""
        return {name: float(self._values(name).nanmean()) for name in MEASURES}

    def per_class(self) -> dict[str, dict[str, float]]:
        """The same twelve numbers of each class, by its name."""
        return {
            class_name: {name: float(self._values(name)[..., k].nanmean()) for name in MEASURES}
            for k, class_name in enumerate(self.class_names)
        }

    def curve(self, iou_threshold: float = 0.5, class_name: str | None = None) -> Tensor:
        """Precision at each of the 101 RECALLS, (R,), of one class or the mean of all; its mean is the AP."""
        return self._by_threshold(class_name)[_threshold(iou_threshold)]

    def ap_by_threshold(self, class_name: str | None = None) -> Tensor:
        """AP at each of the ten IOU_THRESHOLDS, (T,), of one class or the mean of all."""
        return self._by_threshold(class_name).mean(1)

    def _by_threshold(self, class_name: str | None) -> Tensor:
        """(T, R): all areas, as many detections as there may be."""
        precision = self.precision[..., 0, -1]
        if class_name is None:
            return precision.nanmean(2)
        if class_name not in self.class_names:
            raise unknown_name("class", class_name, self.class_names)
        return precision[..., self.class_names.index(class_name)]

    def _values(self, name: str) -> Tensor:
        """What the measure is the mean of, the classes last: (T, R, K) or (T, K), or those of one threshold."""
        kind, iou_threshold, area, most = MEASURES[name]
        values = getattr(self, kind)[..., list(AREAS).index(area), MOST.index(most)]
        return values if iou_threshold is None else values[_threshold(iou_threshold)]


def coco_average_precision(
    truth: Sequence[Objects], detections: Sequence[Detections], class_names: Sequence[str], masks: bool = False
) -> CocoPrecision:
    """COCO's measures of boxes, or of masks; ``truth`` and ``detections`` hold one entry an image.

    In each image and class the 100 surest detections choose in order of their scores. Each takes, of the objects that
    are free and that it overlaps by the IoU threshold or more, the one it overlaps most; objects that need not be found
    only where there is no other. Those are crowds, ``ignored`` ones, and those whose area lies outside of the range; a
    detection on them, or one on nothing whose own area lies outside, counts neither way. A crowd is never taken, and
    its IoU is the share of the detection that lies in it. Of equal overlaps the later object is taken, of equal scores
    the earlier detection comes first.

    AP is the mean of the precisions at 101 recalls, each the highest at that recall or more, over the IoU thresholds
    0.5, 0.55, ..., 0.95; AR the mean of the recalls at those thresholds. A detection's own area is that of its mask
    where masks are measured, else that of its box.

    Equal to pycocotools, but for three things. Where it writes −1 (nothing to find) stands NaN here. It overwrites
    the key "ignore" of its annotations by "iscrowd", while ``ignored`` holds here. It takes an object whose id is 0 for
    none, and here objects have no ids.

    Raises ShapeError for tensors that do not fit together, TargetError for labels outside the classes, SettingsError
    for class names that repeat or are none, DataError for run lengths that make no mask.
    Source: Lin et al., Microsoft COCO (2014), and https://cocodataset.org/#detection-eval.
    """
    pool = pooled(truth, detections, class_names, masks, most=MOST[-1])
    overlap = paired_masks(pool) if masks else paired_box_iou(pool.boxes, pool.object_boxes, crowd=pool.crowd)
    pairs = candidates(pool, overlap, IOU_THRESHOLDS[0])
    spans = list(AREAS.values())
    ignored = [pool.crowd | pool.ignored | _outside(pool.object_areas, span) for span in spans]
    outcomes = [match(pool, *pairs, left_out) for left_out in ignored]

    T, R, K, A, M = len(IOU_THRESHOLDS), len(RECALLS), len(class_names), len(spans), len(MOST)
    precision, scores = torch.full((2, T, R, K, A, M), torch.nan, dtype=torch.float64)
    recall = torch.full((T, K, A, M), torch.nan, dtype=torch.float64)
    object_labels, labels = pool.object_group % K, pool.group % K
    num_objects = torch.stack([torch.bincount(object_labels[~left_out], minlength=K) for left_out in ignored], 1)
    for k, a in num_objects.nonzero().tolist():
        of_class = (labels == k).nonzero()[:, 0]
        of_class = of_class[pool.scores[of_class].sort(descending=True, stable=True).indices]
        outcome = outcomes[a][of_class].T
        right = outcome == FOUND
        wrong = (outcome == NOTHING) & ~_outside(pool.areas[of_class], spans[a])
        for m, most in enumerate(MOST):
            kept = pool.rank[of_class] < most
            curve = _curve(right[:, kept], wrong[:, kept], int(num_objects[k, a]), pool.scores[of_class][kept])
            precision[:, :, k, a, m], recall[:, k, a, m], scores[:, :, k, a, m] = curve
    return CocoPrecision(tuple(class_names), precision, recall, scores, num_objects)


NOTHING, FOUND, IGNORED = 0, 1, 2  # what a detection met: no object, one that must be found, one that need not be


def match(pool: Pool, found: Tensor, at: Tensor, iou: Tensor, ignored: Tensor) -> Tensor:
    """What each detection met at each IoU threshold, int8 (D, T): NOTHING, FOUND or IGNORED.

    The pairs (``found``, ``at``) of detections and objects come with their ``iou``. Groups have nothing to do with each
    other, so that all of them advance at once: first every group's surest detection asks the object that it likes most,
    then the next it likes, until its list is at its end; then every group's second detection, and so on.
    """
    liking = torch.arange(len(iou)).flip(0)  # of equal overlaps the later object
    liking = liking[iou[liking].sort(descending=True, stable=True).indices]
    liking = liking[(found[liking] * 2 + ignored[at[liking]]).sort(stable=True).indices]
    found, at, iou = found[liking], at[liking], iou[liking]
    start = torch.searchsorted(found, found)
    wish = torch.arange(len(found)) - start
    turn = pool.rank[found] * (wish.amax() + 1 if len(wish) else 1) + wish
    turn, order = turn.sort(stable=True)
    _, sizes = torch.unique_consecutive(turn, return_counts=True)

    needed = torch.tensor(IOU_THRESHOLDS, dtype=torch.float64)
    meaning = torch.where(ignored, IGNORED, FOUND).to(torch.int8)
    taken = torch.zeros(len(pool.object_group), len(needed), dtype=torch.bool)
    outcome = torch.zeros(len(pool.group), len(needed), dtype=torch.int8)
    for asking in order.split(sizes.tolist()):
        d, g = found[asking], at[asking]
        free = ~taken[g] | pool.crowd[g, None]
        meets = (iou[asking, None] >= needed) & (outcome[d] == NOTHING) & free
        outcome[d] += meets * meaning[g, None]
        taken[g] |= meets
    return outcome


def _curve(right: Tensor, wrong: Tensor, objects: int, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision (T, R), recall (T,) and score (T, R) from what the detections were, (T, N), the surest first."""
    T, N = right.shape
    points = torch.tensor(RECALLS, dtype=torch.float64).expand(T, -1).contiguous()
    if not N:
        return torch.zeros_like(points), points.new_zeros(T), torch.zeros_like(points)
    hits, misses = right.cumsum(1).double(), wrong.cumsum(1).double()
    recall = hits / objects
    precision = raised(hits / (misses + hits + torch.finfo(torch.float64).eps))  # without it 0/0 where all are ignored
    at = torch.searchsorted(recall, points)
    reached, at = at < N, at.clamp(max=N - 1)
    return torch.where(reached, precision.gather(1, at), 0), recall[:, -1], torch.where(reached, scores[at], 0)


def _outside(areas: Tensor, span: tuple[float, float]) -> Tensor:
    return (areas < span[0]) | (areas > span[1])


def _threshold(iou_threshold: float) -> int:
    """The place of a threshold among the ten."""
    for t, known in enumerate(IOU_THRESHOLDS):
        if abs(known - iou_threshold) < 1e-9:
            return t
    raise SettingsError(f"iou_threshold={iou_threshold} must be one of 0.5, 0.55, ..., 0.95, which COCO measures at")
