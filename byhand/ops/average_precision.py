"""What a detector is measured on: objects and detections of each image, and which of them overlap.

A detection is right if it overlaps an object of its class enough and no better one took that object. With the
detections of a class in order of their scores, from all images, the first n of them have

    precision = right among them / n,    recall = right among them / all objects of that class,

and average precision is the area under the curve of precision over recall. How Pascal VOC and COCO go about that stands
in ``byhand.ops.voc_precision`` and ``byhand.ops.coco_precision``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError, TargetError
from byhand.ops.run_length import mask_area, paired_mask_iou, pieces, read_masks, spread


@dataclass(frozen=True)
class Objects:
    """The objects of one image, N of them. A bool given as None is False for all of them.

    ``areas`` in square pixels decides between small, medium and large; None takes that of the masks, or of the boxes.
    ``crowd``: a region of many objects that nobody told apart, which any number of detections may lie in.
    ``ignored``: an object that need not be found, VOC's "difficult". Neither is missed, and what finds it is not wrong.
    """

    boxes: Tensor  # (N, 4): x1, y1, x2, y2 in pixels
    labels: Tensor  # (N,) int64, places in class_names
    areas: Tensor | None = None  # (N,)
    crowd: Tensor | None = None  # (N,) bool
    ignored: Tensor | None = None  # (N,) bool
    masks: Sequence[Mapping[str, Any]] | None = None  # N run lengths, see byhand.ops.run_length


@dataclass(frozen=True)
class Detections:
    """What a network found in one image, N of them in any order."""

    boxes: Tensor  # (N, 4): x1, y1, x2, y2 in pixels
    scores: Tensor  # (N,), the higher the surer
    labels: Tensor  # (N,) int64, places in class_names
    masks: Sequence[Mapping[str, Any]] | None = None  # N run lengths


def raised(precision: Tensor) -> Tensor:
    """Each precision raised to the highest that follows, along the last axis: no more of a saw."""
    return precision.flip(-1).cummax(-1).values.flip(-1)


def absent(class_names: Sequence[str], num_objects: Tensor) -> tuple[str, ...]:
    return tuple(name for name, number in zip(class_names, num_objects.tolist(), strict=True) if not number)


@dataclass(frozen=True)
class Pool:
    """All images together: G objects and D detections by image and class, ``group`` = image · K + label.

    Within their group, objects stand as they were given and detections by score, the surest first (``rank`` 0).
    """

    object_group: Tensor  # (G,), ascending
    object_boxes: Tensor  # (G, 4) float64
    object_areas: Tensor  # (G,) float64
    crowd: Tensor  # (G,) bool
    ignored: Tensor  # (G,) bool
    object_masks: Sequence[Mapping[str, Any]]  # G or none
    group: Tensor  # (D,), ascending
    boxes: Tensor  # (D, 4) float64
    areas: Tensor  # (D,) float64
    scores: Tensor  # (D,) float64
    rank: Tensor  # (D,)
    masks: Sequence[Mapping[str, Any]]  # D or none


def pooled(
    truth: Sequence[Objects],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    masks: bool = False,
    most: int | None = None,
) -> Pool:
    """Objects and detections of all images, checked; at most the ``most`` surest detections of an image and class."""
    if not len(class_names) or len(set(class_names)) < len(class_names):
        raise SettingsError(f"class_names={list(class_names)[:20]} must be one or more names, each of them once")
    if len(truth) != len(detections):
        raise ShapeError(f"truth of {len(truth)} images and detections of {len(detections)} must be of the same images")
    group, boxes = _gathered("truth", truth, len(class_names))
    order = group.sort(stable=True).indices
    object_masks = _masks("truth", truth, order) if masks else []
    counts = [len(objects.labels) for objects in truth]
    given = [objects.areas for objects in truth]
    areas = mask_area(object_masks).double() if masks else _box_area(boxes[order])
    if any(area is not None for area in given):
        known = torch.cat([torch.full((n,), a is not None) for a, n in zip(given, counts, strict=True)])[order]
        areas = torch.where(known, _joined("truth", truth, "areas", torch.float64)[order], areas)
        if not areas.isfinite().all():
            raise ShapeError(
                "areas of truth hold NaN or infinite values; give square pixels, or None for all of an image"
            )
    crowd, ignored = (_joined("truth", truth, name, torch.bool)[order] for name in ("crowd", "ignored"))
    objects = (group[order], boxes[order], areas, crowd, ignored, object_masks)

    group, boxes = _gathered("detections", detections, len(class_names))
    scores = _joined("detections", detections, "scores", torch.float64)
    if not scores.isfinite().all():
        raise ShapeError("scores of detections hold NaN or infinite values; the network that gave them has come apart")
    order = scores.sort(descending=True, stable=True).indices
    order = order[group[order].sort(stable=True).indices]
    rank = _rank(group[order])
    if most is not None:
        order, rank = order[rank < most], rank[rank < most]
    found_masks = _masks("detections", detections, order) if masks else []
    boxes = boxes[order]
    areas = mask_area(found_masks).double() if masks else _box_area(boxes)
    return Pool(*objects, group[order], boxes, areas, scores[order], rank, found_masks)


def _gathered(kind: str, images: Sequence[Any], num_classes: int) -> tuple[Tensor, Tensor]:
    """Group (N,) and box (N, 4) of all entries of all images, in the order in which they were given."""
    for i, image in enumerate(images):
        n = len(image.labels)
        if image.boxes.shape != (n, 4) or image.labels.shape != (n,):
            raise ShapeError(
                f"{kind} of image {i}: boxes {tuple(image.boxes.shape)} and labels {tuple(image.labels.shape)} must be "
                "(N, 4) and (N,) of one N"
            )
        if image.labels.is_floating_point() or image.labels.dtype == torch.bool:
            raise TargetError(f"{kind} of image {i}: labels are {image.labels.dtype}; expected whole numbers, as int64")
    boxes, labels = (
        torch.cat([torch.zeros(0, *shape, dtype=dtype), *(getattr(image, name).detach().cpu() for image in images)])
        for name, shape, dtype in (("boxes", (4,), torch.float64), ("labels", (), torch.int64))
    )
    number = torch.tensor([len(image.labels) for image in images], dtype=torch.int64)
    owner, _ = spread(torch.zeros_like(number), number)
    bad = ((labels < 0) | (labels >= num_classes)).nonzero()[:, 0]
    if len(bad):
        raise TargetError(
            f"{kind} of image {int(owner[bad[0]])}: label {int(labels[bad[0]])} is outside of 0..{num_classes - 1}, "
            f"the places of the {num_classes} class names"
        )
    bad = (~(boxes.isfinite().all(1) & (boxes[:, :2] <= boxes[:, 2:]).all(1))).nonzero()[:, 0]
    if len(bad):
        raise ShapeError(
            f"{kind} of image {int(owner[bad[0]])}: the box {boxes[bad[0]].tolist()} must be finite numbers x1, y1, "
            "x2, y2 with x1 <= x2 and y1 <= y2; leave it out"
        )
    return owner * num_classes + labels, boxes


def _joined(kind: str, images: Sequence[Any], name: str, dtype: torch.dtype) -> Tensor:
    """One field of all images, (N,); zeros where an image has None."""
    parts = [torch.zeros(0, dtype=dtype)]
    for i, image in enumerate(images):
        n, values = len(image.labels), getattr(image, name)
        if values is None:
            values = torch.zeros(n, dtype=dtype)
        if values.shape != (n,) or (dtype == torch.bool) != (values.dtype == torch.bool):
            raise ShapeError(
                f"{kind} of image {i}: {name} {tuple(values.shape)} of {values.dtype} must be ({n},) of {dtype}, one "
                "for each label"
            )
        parts.append(values.detach().cpu().to(dtype))
    return torch.cat(parts)


def _masks(kind: str, images: Sequence[Any], order: Tensor) -> list[Mapping[str, Any]]:
    masks: list[Mapping[str, Any]] = []
    for i, image in enumerate(images):
        given, n = image.masks, len(image.labels)
        if n and (given is None or len(given) != n):
            raise ShapeError(
                f"{kind} of image {i}: {'no' if given is None else len(given)} masks for {n} labels; masks=True needs "
                "run lengths for each, as encode_mask gives them"
            )
        masks += given or ()
    return [masks[i] for i in order.tolist()]


def _rank(group: Tensor) -> Tensor:
    """0, 1, 2, ... within each group of equal numbers, which stand together."""
    _, number = torch.unique_consecutive(group, return_counts=True)
    return spread(torch.zeros_like(number), number)[1]


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


PAIRS_AT_ONCE = 2**16
Overlap = Callable[[Tensor, Tensor], Tensor]  # (P,) detections and (P,) objects, by their places -> (P,) IoU


def paired_box_iou(boxes: Tensor, object_boxes: Tensor, pixel: float = 0.0, crowd: Tensor | None = None) -> Overlap:
    """Shared area over the area of either, or of the detection alone where the object is a crowd.

    ``pixel`` is added to each width and height: 1 where boxes name their last pixel.
    """
    area, object_area = ((b[:, 2] - b[:, 0] + pixel) * (b[:, 3] - b[:, 1] + pixel) for b in (boxes, object_boxes))

    def overlap(d: Tensor, g: Tensor) -> Tensor:
        a, b = boxes[d], object_boxes[g]
        sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2]) + pixel).clamp(min=0)
        shared = sides[:, 0] * sides[:, 1]
        either = area[d] + object_area[g] - shared
        if crowd is not None:
            either = torch.where(crowd[g], area[d], either)
        return torch.where(shared > 0, shared / either, 0)

    return overlap


def paired_masks(pool: Pool) -> Overlap:
    """The same of masks; they are read as they are needed, as those of thousands of images would fill the memory."""

    def overlap(d: Tensor, g: Tensor) -> Tensor:
        (these, i), (those, j) = (places.unique(return_inverse=True) for places in (d, g))
        found = read_masks([pool.masks[place] for place in these.tolist()])
        objects = read_masks([pool.object_masks[place] for place in those.tolist()])
        return paired_mask_iou(found, objects, i, j, pool.crowd[g])

    return overlap


def candidates(pool: Pool, overlap: Overlap, lowest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Detection, object of its group and their IoU, of all pairs that reach ``lowest``; by detection, then object."""
    first = torch.searchsorted(pool.object_group, pool.group)
    number = torch.searchsorted(pool.object_group, pool.group, right=True) - first

    parts = [(pool.group[:0], pool.group[:0], pool.scores[:0])]
    for part in pieces(number, PAIRS_AT_ONCE):
        d, g = spread(first[part], number[part])
        d += part.start
        iou = overlap(d, g)
        near = iou >= lowest
        parts.append((d[near], g[near], iou[near]))
    found, at, iou = (torch.cat(column) for column in zip(*parts, strict=True))
    return found, at, iou
