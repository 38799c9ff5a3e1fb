"""One answer out of several views of an image: boxes that show the same thing become their mean, not the best one."""

from typing import NamedTuple

import torch
from torch import Tensor

from byhand.errors import ShapeError
from byhand.ops.boxes import box_iou
from byhand.ops.suppression import batched_nms


class Fused(NamedTuple):
    """Boxes (K, 4), scores (K,) from the best down, classes (K,), and the share (K, N) of each given box in each."""

    boxes: Tensor
    scores: Tensor
    idxs: Tensor
    shares: Tensor


def fuse_boxes(
    boxes: Tensor, scores: Tensor, idxs: Tensor, views: Tensor, num_views: int, iou_threshold: float = 0.55
) -> Fused:
    """The objects behind finite boxes (N, 4) of classes ``idxs`` (N,), each found in one of the ``views`` (N,) 0, 1, …

    Greedy suppression finds the best box of each object; every other box belongs to the one of its class with which its
    IoU is the largest. Of the boxes b_i with scores s_i > 0 of an object, V being the number of views, come

        b = Σ_i s_i b_i / Σ_i s_i,        s = 1/V Σ_v max { s_i : b_i found in view v },

    so that what one view of four alone has seen keeps a quarter of its score.

    Raises ShapeError for shapes that do not fit, SettingsError for a threshold outside 0..1.
    Source: Solovyev, Wang and Gabruseva (2021), Weighted boxes fusion, where a group of boxes grows around its running
    mean; here it stands around its best box.
    """
    if views.shape != scores.shape:
        raise ShapeError(f"views has shape {tuple(views.shape)}; expected {tuple(scores.shape)}, one view a box")
    kept = batched_nms(boxes, scores, idxs, iou_threshold)
    places = torch.arange(len(kept), device=boxes.device)
    overlap = box_iou(boxes[kept], boxes).masked_fill(idxs[kept].unsqueeze(1) != idxs, -1)
    overlap[places, kept] = 2  # the best box is of its own object, whatever its area
    owner = overlap.argmax(0) if len(kept) else kept
    shares = torch.where(owner == places.unsqueeze(1), scores, 0)
    shares = shares / shares.sum(1, keepdim=True)
    best = scores.new_zeros(len(kept) * num_views).scatter_reduce(0, owner * num_views + views, scores, "amax")
    fused = best.reshape(len(kept), num_views).sum(1) / num_views
    fused, order = fused.sort(descending=True, stable=True)
    return Fused(shares[order] @ boxes, fused, idxs[kept][order], shares[order])
