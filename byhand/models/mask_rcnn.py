"""Mask R-CNN: Faster R-CNN with a third branch, which says of each pixel of a box whether it belongs to the object.

He, Gkioxari, Dollár & Girshick, Mask R-CNN (2017).
"""

from torch import nn

from byhand.models.detector_backbones import resnet50_pyramid, small_pyramid
from byhand.models.faster_rcnn import FasterRCNN, small_defaults
from byhand.models.mask_head import MaskRCNNHeads, MaskRCNNPredictor
from byhand.models.roi_heads import RoIPooler


def mask_rcnn(
    detector: FasterRCNN,
    mask_roi_pool: RoIPooler | None = None,
    mask_head: nn.Module | None = None,
    mask_predictor: nn.Module | None = None,
) -> FasterRCNN:
    """The same detector with a mask branch; None builds that of torchvision on 256 channels, 14 × 14 -> 28 × 28."""
    heads = detector.roi_heads
    heads.mask_roi_pool = mask_roi_pool or RoIPooler(14)
    heads.mask_head = mask_head or MaskRCNNHeads(256)
    heads.mask_predictor = mask_predictor or MaskRCNNPredictor(256, 256, detector.num_classes)
    return detector


def maskrcnn_resnet50_fpn(
    num_classes: int = 91,
    trainable_backbone_layers: int | None = None,
    frozen_norm: bool = True,
    norm_eps: float = 0.0,
    **options,
) -> FasterRCNN:
    """Mask R-CNN on ResNet-50 with a pyramid: 44,401,393 parameters. Keys are torchvision's.

    The arguments are those of ``fasterrcnn_resnet50_fpn``.
    """
    backbone = resnet50_pyramid(trainable_backbone_layers, frozen_norm, norm_eps)
    return mask_rcnn(FasterRCNN(backbone, num_classes, **options))


def maskrcnn_small(num_classes: int = 11, width: int = 32, **options) -> FasterRCNN:
    """``fasterrcnn_small`` with a mask branch of two convolutions, 14 × 14 -> 28 × 28: 2.3 million parameters.

    Of the 128 proposals of an image a quarter at most show objects, and only those learn masks.
    """
    channels = 2 * width
    detector = FasterRCNN(small_pyramid(width), num_classes, **small_defaults(num_classes, width) | options)
    of_boxes = detector.roi_heads.box_roi_pool
    assert isinstance(of_boxes, RoIPooler)
    pool = RoIPooler(14, canonical_scale=of_boxes.canonical_scale)
    predictor = MaskRCNNPredictor(channels, channels, num_classes)
    return mask_rcnn(detector, pool, MaskRCNNHeads(channels, (channels, channels)), predictor)
