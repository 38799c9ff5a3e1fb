"""Fast R-CNN: one pass over the image, and every proposal is a window on the same map.

Girshick, Fast R-CNN (2015). What R-CNN did for each of 2,000 warped crops is done once for the image; what remains for
each proposal is RoI pooling and two linear layers. The proposals are still found by a search that does not learn, which
now takes most of the time: what Faster R-CNN changed.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from byhand.models.detection_images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectionTransform,
    Target,
    check_classes,
    check_targets,
    moved_boxes,
    size_of,
)
from byhand.models.detector_backbones import small_map, vgg16_map
from byhand.models.proposals import SelectiveSearch
from byhand.models.region_proposal import rules_of
from byhand.models.roi_heads import DetectionRules, FastRCNNPredictor, RoIHeads, RoIMaxPooler, TwoMLPHead
from byhand.models.vgg import initialise_vgg

BETA = 1.0  # where the smooth L1 loss turns straight: equation 3


class FastRCNN(nn.Module):
    """Detections of images, or in training losses; it is called as ``FasterRCNN`` is.

        model.train();  losses = model(images, targets)       a dict of losses, to be added up
        model.eval();   detections = model(images)            a list with a dict for each image
        model.eval();   losses = model(images, targets, losses=True)     validation: the layers as in evaluation

    ``images``: a list of float (3, H, W) in 0..1, of any sizes. ``targets``: for each image a dict of ``boxes`` (N, 4),
    (x1, y1, x2, y2) in its pixels, and ``labels`` (N,) of 1..num_classes−1. Losses are ``loss_classifier`` and
    ``loss_box_reg``, equations 1 to 3 with λ = 1. Detections are ``boxes``, ``labels``, ``scores``, best first.

    64 proposals of each image learn, a quarter of them with IoU ≥ 0.5 with an object and the others with 0.1 to 0.5
    (section 2.3). Offsets count ten times for the middle and five times for the size, which gives them about the
    variance 1 that the paper normalises them to.

    The search looks at the images as they are given, before they are resized, and remembers what it found in each; an
    image that was cut, mirrored or coloured is another image, to be searched anew.

    Args:
        backbone: gives one map of ``out_channels``.
        num_classes: the background, class 0, counts.
        proposals: gives the boxes of an image; None is selective search with the paper's 2,000 at most.
        box_head, box_predictor: None builds two linear layers of 1024, and the two heads on them.
        bbox_reg_weights: what the offsets are multiplied by.
        generator: draws the proposals of the losses. The attribute may be set at any time; with None torch's own is
            drawn from.
        rules: ``box_*`` of ``DetectionRules``.

    Raises:
        SettingsError: an argument out of range, or one that is not there.
        ShapeError, TargetError: (from the network) images or targets that it cannot take.
        NonFiniteLoss: (from the network) offsets or logits with NaN.

    Deviations: an image without objects teaches background with all its boxes, where the paper has no such image; of
    each batch all images are drawn from, with the optimizer's settings and not the paper's.
    """

    parts: ClassVar[dict[str, str]] = {"proposals": "proposals", "features": "backbone", "heads": "roi_heads"}

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        min_size: int | Sequence[int] = 600,
        max_size: int = 1000,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        proposals: nn.Module | None = None,
        box_roi_pool: RoIMaxPooler | None = None,
        box_head: nn.Module | None = None,
        box_predictor: nn.Module | None = None,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        generator: Generator | None = None,
        **rules,
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        paper = {"box_batch_size_per_image": 64, "box_bg_iou_least": 0.1, "box_nms_thresh": 0.3}
        (for_detections,) = rules_of(paper | rules, box=DetectionRules)
        channels: Any = backbone.out_channels
        pool = box_roi_pool or RoIMaxPooler()
        self.generator = generator
        self.transform = DetectionTransform(min_size, max_size, image_mean, image_std)
        self.proposals = proposals or SelectiveSearch()
        self.backbone = backbone
        self.roi_heads = RoIHeads(
            pool,
            box_head or TwoMLPHead(channels * pool.output_size**2, 1024),
            box_predictor or FastRCNNPredictor(1024, num_classes),
            for_detections,
            bbox_reg_weights,
            BETA,
        )

    @property
    def num_classes(self) -> int:
        """With the background; that of the predictor, which may be exchanged for another task."""
        predictor: Any = self.roi_heads.box_predictor
        return int(predictor.cls_score.out_features)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, losses: bool | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        learns = self.training if losses is None else losses
        self.transform.check_images(images)
        given = check_targets(images, targets, self.num_classes, masks=False) if learns else None
        batch, moved = self.transform(images, given, self.generator)
        old = [size_of(image) for image in images]
        proposals = [
            moved_boxes(self.proposals(image), before, after)
            for image, before, after in zip(images, old, batch.image_sizes, strict=True)
        ]
        features = self.backbone(batch.tensors)
        detections, of_boxes = self.roi_heads(batch, features, proposals, moved, self.generator)
        return of_boxes if learns else self.transform.restored(detections, batch.image_sizes, old)


def fastrcnn_small(num_classes: int = 4, width: int = 32, **options) -> FastRCNN:
    """Fast R-CNN that learns from nothing on a CPU: 2.0 million parameters, for objects of 10 to 250 of 320 pixels.

    The body of ``fasterrcnn_small`` up to a single map of stride 8 and 4 · ``width`` channels; two linear layers of
    256. Images are brought to 240 × 320 or what fits into it.
    """
    defaults: dict[str, Any] = {
        "min_size": 240,
        "max_size": 320,
        "box_head": TwoMLPHead(4 * width * 49, 256),
        "box_predictor": FastRCNNPredictor(256, num_classes),
    }
    return FastRCNN(small_map(width), num_classes, **defaults | options)


def fastrcnn_vgg16(
    num_classes: int = 21, trainable_backbone_layers: int | None = None, dropout: float = 0.5, **options
) -> FastRCNN:
    """Fast R-CNN as the paper has it, model L: VGG-16, one map of stride 16: 134,690,729 parameters with 21 classes.

    ``trainable_backbone_layers``: how many of the five blocks learn, from the last; all by default. The paper, which
    starts from ImageNet's weights, has 3 (section 4.5). ``dropout`` follows fc6 and fc7, as in its code. The last
    layers begin with N(0, 0.01²) for classes and N(0, 0.001²) for offsets (section 2.3).
    """
    head, predictor = TwoMLPHead(512 * 49, 4096, dropout), FastRCNNPredictor(4096, num_classes)
    for part in (head, predictor):
        initialise_vgg(part)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    defaults: dict[str, Any] = {"box_head": head, "box_predictor": predictor}
    return FastRCNN(vgg16_map(trainable_backbone_layers), num_classes, **defaults | options)
