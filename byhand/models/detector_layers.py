"""All layers of a detector in one pass, without what lies between them: what a proof compares, and ``show`` counts."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from byhand.models.cost import Row
from byhand.models.fast_rcnn import FastRCNN
from byhand.models.faster_rcnn import FasterRCNN
from byhand.models.rcnn import RCNN
from byhand.models.region_proposal import in_order


class DetectorLayers(nn.Module):
    """What every layer of the detector gives for images (B, C, H, W) -> tensors by name, each with its gradient.

    The second stage looks at two boxes of each image, always the same: its upper left quarter, and all but the first
    quarter of both sides; with ``boxes=1`` at the first alone, as ``byhand show`` counts what one costs. Proposals,
    sampling and suppression choose boxes and compute no gradient; they are the same code in both hands. So
    ``prove(DetectorLayers(detector), images)`` proves all that ``by_hand`` changes in it. Fast R-CNN has no layers in
    its first stage.
    """

    def __init__(self, detector: FasterRCNN | FastRCNN, boxes: int = 2) -> None:
        super().__init__()
        self.boxes = boxes
        self.backbone, self.roi_heads = detector.backbone, detector.roi_heads
        self.rpn_head = detector.rpn.head if isinstance(detector, FasterRCNN) else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        heads, size = self.roi_heads, (int(x.shape[2]), int(x.shape[3]))
        H, W = size
        corners = [[0, 0, W / 2, H / 2], [W / 4, H / 4, W, H]][: self.boxes]
        boxes = [torch.tensor(corners, dtype=x.dtype, device=x.device)] * len(x)
        maps = self.backbone(x)
        found = {}
        if self.rpn_head is not None:
            logits, offsets = self.rpn_head(list(maps.values()))
            found["objectness"] = torch.cat([in_order(level, 1) for level in logits], 1)
            found["proposal offsets"] = torch.cat([in_order(level, 4) for level in offsets], 1)
        classes, moves = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, boxes, size)))
        found |= {"class logits": classes, "box offsets": moves.reshape(len(moves), -1, 4)}
        if heads.mask_head is not None:
            found["mask logits"] = heads.mask_logits(maps, boxes, size)
        return found


class CropLayers(nn.Module):
    """What every layer of an R-CNN that learns by steps gives for crops (K, 3, size, size) -> tensors by name.

    Machines and regression are products of a matrix, fitted by scikit-learn for both hands.
    """

    def __init__(self, detector: RCNN) -> None:
        super().__init__()
        self.cnn, self.cls_score = detector.features.cnn, detector.roi_heads.cls_score

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        pooled, features = self.cnn(crops)
        return {"pooled maps": pooled, "features": features, "class logits": self.cls_score(features)}


def layers_of(
    detector: Any, image_shape: Sequence[int], boxes: int = 2
) -> tuple[DetectorLayers | CropLayers, tuple[int, ...]]:
    """The layers of any detector, and the shape of one input of theirs: (C, H, W) of an image, or of R-CNN's crops."""
    if isinstance(detector, RCNN):
        size = detector.features.size
        return CropLayers(detector), (int(image_shape[0]), size, size)
    return DetectorLayers(detector, boxes), tuple(image_shape)


class InAll(NamedTuple):
    """The most proposals and masks that an image may have in evaluation, and the multiply-adds of all layers then."""

    proposals: int
    masks: int
    image_multiply_adds: int | None  # None where nobody knows those of a layer


def in_all(detector: Any, rows: Iterable[Row]) -> InAll:
    """What a whole image costs, from the rows of ``layer_table`` of its layers with ``boxes=1``."""
    heads = detector.roi_heads
    learned = isinstance(detector, FasterRCNN)
    proposals = detector.rpn.rules.post_nms_top_n_test if learned else detector.proposals.limit
    masks = heads.rules.detections_per_img if heads.mask_head is not None else 0
    counts = []
    for row in rows:
        if row.name.startswith("roi_heads.mask"):
            times = masks
        else:
            of_boxes = row.name.startswith("roi_heads.") or isinstance(detector, RCNN)
            times = proposals if of_boxes else 1
        counts.append(None if row.multiply_adds is None else times * row.multiply_adds)
    known = [count for count in counts if count is not None]
    return InAll(proposals, masks, sum(known) if len(known) == len(counts) else None)
