"""Suppression class by class, rounded as torchvision rounds it, and the check of what is fed to it."""

import torch
from torch import Tensor

from byhand.errors import NonFiniteLoss
from byhand.ops.suppression import batched_nms, nms

FEW = {"cpu": 1000}  # boxes up to which torchvision shifts classes apart; 5,000 on other devices


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that stay, best first, (N, 4), (N,) and (N,) -> (K,) int64; classes do not see each other.

    Few boxes are compared in one go, each class shifted beyond the picture by so many times its largest coordinate plus
    one; many, class by class. It is the same, but for rounding: a shifted corner is a float32 of a few ten thousand
    pixels, and a pair at the threshold may fall to the other side. torchvision's ``batched_nms`` does so, and
    detections can only be its detections if the same pairs do.
    """
    if not 0 < len(boxes) <= FEW.get(boxes.device.type, 5000):
        return batched_nms(boxes, scores, classes, iou_threshold)
    shift = classes.to(boxes.dtype) * (boxes.max() + 1)
    return nms(boxes + shift[:, None], scores, iou_threshold)


def check_finite(what: str, values: Tensor, layer: str, row: str) -> None:
    """None, if all are finite; else a NonFiniteLoss that names what is not, in which row, and from which layer."""
    finite = torch.isfinite(values.detach())
    if finite.all():
        return
    wrong = (~finite).reshape(len(values), -1).any(1).nonzero().flatten().tolist()
    value = float(values.detach()[~finite][0])
    raise NonFiniteLoss(
        f"{what} of {row} {wrong[0]} hold {value} ({len(wrong)} of {len(values)} {row}s do), from {layer}: its weights "
        "or the images are not finite; load other weights, or train with a smaller learning rate or clipped gradients"
    )
