"""Boxes: area, overlap, formats, and the offsets that a detector learns; Dive into Deep Learning, 14.3 and 14.4.

Boxes are (x1, y1, x2, y2) in pixels unless said otherwise, (N, 4), with x1 ≤ x2 and y1 ≤ y2; x runs to the right, y
down. Names and arguments are those of ``torchvision.ops``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.precision import fractional

FORMATS = ("xyxy", "xywh", "cxcywh")
CLIP = math.log(1000 / 16)  # a side grows at most 62.5 times in one step: Detectron's guard against exp(large)


def box_area(boxes: Tensor) -> Tensor:
    """Width times height of each box, (N, 4) -> (N,), in square pixels."""
    x1, y1, x2, y2 = _columns("boxes", boxes)
    return (x2 - x1) * (y2 - y1)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Overlap area over union area of every pair, (N, 4) and (M, 4) -> (N, M), in 0..1.

    Two boxes without area have IoU 0, where torchvision divides 0 by 0 and gives NaN.
    """
    inter, union = overlap_and_union(rows_and_area(boxes1), rows_and_area(boxes2))
    return _share(inter, union)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU − (|C| − |A ∪ B|) / |C|, C the smallest box around A and B, (N, 4) and (M, 4) -> (N, M), in −1..1.

    It still tells near from far where two boxes do not overlap. Source: Rezatofighi et al. (2019), Generalized
    Intersection over Union, algorithm 1. Where C has no area, the second term is 0.
    """
    a, b = rows_and_area(boxes1), rows_and_area(boxes2)
    inter, union = overlap_and_union(a, b)
    x1, y1, x2, y2, _ = a.unsqueeze(2).unbind()
    u1, v1, u2, v2, _ = b.unbind()
    hull = (torch.maximum(x2, u2) - torch.minimum(x1, u1)) * (torch.maximum(y2, v2) - torch.minimum(y1, v1))
    return _share(inter, union) - _share(hull - union, hull)


def rows_and_area(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 and the area as five contiguous rows, (N, 4) -> (5, N)."""
    x1, y1, x2, y2 = _columns("boxes", boxes)
    return torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])


def overlap_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The area that each pair shares, and that it covers: (5, N), (5, M) of ``rows_and_area`` -> twice (N, M).

    Rounded step by step as torchvision's compiled operators round: w · h, then (area_a + area_b) − w · h.
    """
    x1, y1, x2, y2, area = a.unsqueeze(2).unbind()  # each once: to index takes as long as to add 10,000 numbers
    u1, v1, u2, v2, other = b.unbind()
    inter = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    inter *= height
    return inter, (area + other).sub_(inter)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    # 0 / 0 would give its NaN to the gradient, also where it is not taken.
    return torch.where(whole == 0, 0, part / torch.where(whole == 0, 1, whole))


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """The same boxes in another format, (N, 4) -> (N, 4).

    Formats are "xyxy" (corners), "xywh" (upper left corner, width, height) and "cxcywh" (centre, width, height). The
    dtype stays as it is; but whole numbers become float32 where centres are in it, which need halves.

    Raises SettingsError for another format.
    """
    for name, value in (("in_fmt", in_fmt), ("out_fmt", out_fmt)):
        if value not in FORMATS:
            raise SettingsError(f"{name}={value!r} must be one of {', '.join(FORMATS)}")
    a, b, c, d = _columns("boxes", boxes)
    if in_fmt == out_fmt:
        return boxes.clone()
    if in_fmt == "xywh":
        x1, y1, x2, y2 = a, b, a + c, b + d
    elif in_fmt == "cxcywh":
        x1, y1, x2, y2 = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    else:
        x1, y1, x2, y2 = a, b, c, d
    if out_fmt == "xywh":
        columns = [x1, y1, x2 - x1, y2 - y1]
    elif out_fmt == "cxcywh":
        columns = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    else:
        columns = [x1, y1, x2, y2]
    converted = torch.stack(columns, 1)
    whole = not boxes.dtype.is_floating_point
    return converted if whole and "cxcywh" in (in_fmt, out_fmt) else converted.to(boxes.dtype)


def clip_boxes_to_image(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The part of each box inside an image of ``size`` (height, width), (..., 4) -> (..., 4).

    What lies outside altogether becomes a box without area on the nearest edge.
    """
    if boxes.shape[-1:] != (4,):
        raise ShapeError(f"boxes has shape {tuple(boxes.shape)}; its last axis must be x1, y1, x2, y2")
    if len(size) != 2 or min(size) < 0:
        raise SettingsError(f"size={tuple(size)} must be the image's (height, width)")
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], -1).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes with both sides of at least ``min_size`` pixels, (N, 4) -> (K,) int64, in order."""
    x1, y1, x2, y2 = _columns("boxes", boxes)
    return ((x2 - x1 >= min_size) & (y2 - y1 >= min_size)).nonzero()[:, 0]


def encode_boxes(reference_boxes: Tensor, proposals: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """What moves each proposal P onto its reference box G: (dx, dy, dw, dh), (N, 4) and (N, 4) -> (N, 4).

        dx = w_x (G_cx − P_cx) / P_w,    dw = w_w log(G_w / P_w),    dy and dh alike.

    A box without width or height has no finite offsets (0 divides, or log 0): leave such boxes out beforehand.

    Raises ShapeError unless there is one reference box a proposal. Source: Girshick et al. (2014), Rich feature
    hierarchies, appendix C; the weights (10, 10, 5, 5) are Fast R-CNN's and the book's 1 / (0.1, 0.1, 0.2, 0.2).
    """
    if reference_boxes.shape != proposals.shape:
        raise ShapeError(
            f"reference_boxes {tuple(reference_boxes.shape)} and proposals {tuple(proposals.shape)} must be alike: "
            "one reference box a proposal"
        )
    wx, wy, ww, wh = _weights(weights)
    x, y, width, height = _centres_and_sizes("proposals", proposals)
    to_x, to_y, to_width, to_height = _centres_and_sizes("reference_boxes", reference_boxes)
    dx, dy = wx * (to_x - x) / width, wy * (to_y - y) / height
    dw, dh = ww * torch.log(to_width / width), wh * torch.log(to_height / height)
    return torch.stack([dx, dy, dw, dh], 1)


def decode_boxes(
    codes: Tensor, boxes: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0), clip: float = CLIP
) -> Tensor:
    """Each box moved by its offsets, (N, 4 K) and (N, 4) -> (N, 4 K): K offsets a box, one for each class for example.

    The inverse of ``encode_boxes``; dw and dh, divided by their weights, are held at ``clip`` from above, so that no
    offset makes exp() infinite. Nothing holds them from below: the box then becomes very small.
    """
    if codes.ndim != 2 or codes.shape[1] % 4 or len(codes) != len(boxes):
        raise ShapeError(f"codes has shape {tuple(codes.shape)}; expected ({len(boxes)}, 4 K), one row a box")
    wx, wy, ww, wh = _weights(weights)
    x, y, width, height = (part[:, None] for part in _centres_and_sizes("boxes", boxes.to(codes.dtype)))
    to_x, to_y = codes[:, 0::4] / wx * width + x, codes[:, 1::4] / wy * height + y
    half_width = 0.5 * (torch.exp((codes[:, 2::4] / ww).clamp(max=clip)) * width)
    half_height = 0.5 * (torch.exp((codes[:, 3::4] / wh).clamp(max=clip)) * height)
    corners = [to_x - half_width, to_y - half_height, to_x + half_width, to_y + half_height]
    return torch.stack(corners, 2).flatten(1)


def _columns(name: str, boxes: Tensor) -> tuple[Tensor, ...]:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"{name} has shape {tuple(boxes.shape)}; expected (N, 4), one box a row")
    # Whole numbers would overflow in an area, and half precision ends at 65,504 square pixels.
    return boxes.to(fractional(boxes)).unbind(1)


def _centres_and_sizes(name: str, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = _columns(name, boxes)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def _weights(weights: Sequence[float]) -> Sequence[float]:
    if len(weights) != 4 or min(weights) <= 0:
        raise SettingsError(f"weights={tuple(weights)} must be four positive numbers, for dx, dy, dw and dh")
    return weights
