"""All layers of a detector in one pass, without what lies between them: the part of it that a proof compares."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from byhand.models.cost import Row
from byhand.models.faster_rcnn import FasterRCNN
from byhand.models.region_proposal import in_order


class DetectorLayers(nn.Module):
    """What every layer of the detector gives for images (B, C, H, W) -> tensors by name, each with its gradient.

    The second stage looks at two boxes of each image, always the same: its upper left quarter, and all but the first
    quarter of both sides; with ``boxes=1`` at the first alone, as ``byhand show`` counts what one costs. Proposals,
    sampling and suppression choose boxes and compute no gradient; they are the same code in both hands. So
    ``prove(DetectorLayers(detector), images)`` proves all that ``by_hand`` changes in it.
    """

    def __init__(self, detector: FasterRCNN, boxes: int = 2) -> None:
        super().__init__()
        self.boxes = boxes
        self.backbone, self.rpn_head, self.roi_heads = detector.backbone, detector.rpn.head, detector.roi_heads

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        heads, size = self.roi_heads, (int(x.shape[2]), int(x.shape[3]))
        H, W = size
        corners = [[0, 0, W / 2, H / 2], [W / 4, H / 4, W, H]][: self.boxes]
        boxes = [torch.tensor(corners, dtype=x.dtype, device=x.device)] * len(x)
        maps = self.backbone(x)
        logits, offsets = self.rpn_head(list(maps.values()))
        classes, moves = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, boxes, size)))
        found = {
            "objectness": torch.cat([in_order(level, 1) for level in logits], 1),
            "proposal offsets": torch.cat([in_order(level, 4) for level in offsets], 1),
            "class logits": classes,
            "box offsets": moves.reshape(len(moves), -1, 4),
        }
        if heads.mask_head is not None:
            found["mask logits"] = heads.mask_logits(maps, boxes, size)
        return found


class InAll(NamedTuple):
    """The most proposals and masks that an image may have in evaluation, and the multiply-adds of all layers then."""

    proposals: int
    masks: int
    image_multiply_adds: int | None  # None where nobody knows those of a layer


def in_all(detector: FasterRCNN, rows: Iterable[Row]) -> InAll:
    """What a whole image costs, from the rows of ``layer_table(DetectorLayers(detector, boxes=1), ...)``."""
    heads = detector.roi_heads
    proposals = detector.rpn.rules.post_nms_top_n_test
    masks = heads.rules.detections_per_img if heads.mask_head is not None else 0
    counts = []
    for row in rows:
        of_masks = row.name.startswith("roi_heads.mask")
        times = masks if of_masks else proposals if row.name.startswith("roi_heads.") else 1
        counts.append(None if row.multiply_adds is None else times * row.multiply_adds)
    known = [count for count in counts if count is not None]
    return InAll(proposals, masks, sum(known) if len(known) == len(counts) else None)
