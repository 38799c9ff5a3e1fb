"""Faster R-CNN, with and without a feature pyramid: presets with torchvision's names, arguments and keys, and smaller.

Ren, He, Girshick & Sun, Faster R-CNN (2015); Lin et al., Feature Pyramid Networks (2017).
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
    size_of,
)
from byhand.models.detector_backbones import RESNET, mobilenet_pyramid, resnet50_pyramid, small_pyramid, train_only
from byhand.models.feature_pyramid import Backbone, Stages
from byhand.models.frozen_norm import freeze_norms
from byhand.models.region_proposal import AnchorGenerator, ProposalRules, RegionProposalNetwork, RPNHead, rules_of
from byhand.models.resnet import resnet50
from byhand.models.roi_heads import DetectionRules, FastRCNNPredictor, RoIHeads, RoIPooler, TwoMLPHead
from byhand.models.weights import current_name

RATIOS = (0.5, 1.0, 2.0)


class FasterRCNN(nn.Module):
    """Detections of images, or in training losses; arguments and results are torchvision's.

        model.train();  losses = model(images, targets)       a dict of losses, to be added up
        model.eval();   detections = model(images)            a list with a dict for each image
        model.eval();   losses = model(images, targets, losses=True)     validation: the layers as in evaluation

    ``images``: a list of float (3, H, W) in 0..1, of any sizes. ``targets``: for each image a dict of ``boxes`` (N, 4),
    (x1, y1, x2, y2) in its pixels, ``labels`` (N,) of 1..num_classes−1, and with masks ``masks`` (N, H, W). Losses are
    ``loss_classifier``, ``loss_box_reg``, with masks ``loss_mask``, ``loss_objectness`` and ``loss_rpn_box_reg``.
    Detections are ``boxes``, ``labels``, ``scores``, best first, and with masks ``masks`` (N, 1, H, W) in 0..1, to be
    cut at 0.5.

    Args:
        backbone: gives maps of ``out_channels`` by name, finest first.
        num_classes: the background, class 0, counts.
        rpn_head, box_roi_pool, box_head, box_predictor: None builds those of torchvision for ``num_classes``.
        bbox_reg_weights: what the offsets of the second stage are multiplied by.
        generator: draws the anchors and proposals of the losses. The attribute may be set at any time; with None
            torch's own is drawn from.
        rules: ``rpn_*`` of ``ProposalRules`` and ``box_*`` of ``DetectionRules``.

    Raises:
        SettingsError: an argument out of range, or one that is not there.
        ShapeError, TargetError: (from the network) images or targets that it cannot take.
        NonFiniteLoss: (from the network) offsets or logits with NaN.
    """

    parts: ClassVar[dict[str, str]] = {"proposals": "rpn", "features": "backbone", "heads": "roi_heads"}  # to be timed

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        rpn_anchor_generator: AnchorGenerator | None = None,
        rpn_head: nn.Module | None = None,
        box_roi_pool: RoIPooler | None = None,
        box_head: nn.Module | None = None,
        box_predictor: nn.Module | None = None,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        generator: Generator | None = None,
        **rules,
    ) -> None:
        super().__init__()
        check_classes(num_classes)
        for_proposals, for_detections = rules_of(rules, rpn=ProposalRules, box=DetectionRules)
        channels: Any = backbone.out_channels
        anchors = rpn_anchor_generator or AnchorGenerator(tuple((2**k,) for k in range(5, 10)), (RATIOS,) * 5)
        pool = box_roi_pool or RoIPooler()
        self.generator = generator
        self.transform = DetectionTransform(min_size, max_size, image_mean, image_std)
        self.backbone = backbone
        self.rpn = RegionProposalNetwork(
            anchors, rpn_head or RPNHead(channels, anchors.num_anchors_per_location()[0]), for_proposals
        )
        self.roi_heads = RoIHeads(
            pool,
            box_head or TwoMLPHead(channels * pool.output_size**2, 1024),
            box_predictor or FastRCNNPredictor(1024, num_classes),
            for_detections,
            bbox_reg_weights,
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
        # of targets that are not asked for nothing is read, as in torchvision
        given = (
            check_targets(images, targets, self.num_classes, self.roi_heads.mask_head is not None) if learns else None
        )
        batch, moved = self.transform(images, given, self.generator)
        features = self.backbone(batch.tensors)
        if isinstance(features, Tensor):
            features = {"0": features}
        proposals, of_proposals = self.rpn(batch, features, moved, self.generator)
        detections, of_boxes = self.roi_heads(batch, features, proposals, moved, self.generator)
        if learns:
            return {**of_boxes, **of_proposals}
        return self.transform.restored(detections, batch.image_sizes, [size_of(image) for image in images])

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        # Its children see the same names; those of older torchvisions are brought to today's.
        for key in list(state_dict):
            if (name := current_name(key)) != key and name not in state_dict:
                state_dict[name] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def fasterrcnn_resnet50_fpn(
    num_classes: int = 91,
    trainable_backbone_layers: int | None = None,
    frozen_norm: bool = True,
    norm_eps: float = 0.0,
    **options,
) -> FasterRCNN:
    """Faster R-CNN on ResNet-50 with a pyramid of strides 4 to 64: 41,755,286 parameters. Keys are torchvision's.

    ``trainable_backbone_layers``: how many of the five stages learn, from the last; by default 3 with frozen norms,
    else all. ``frozen_norm=False`` has batch normalisation that learns, as torchvision has it without weights.
    ``norm_eps``: ε of frozen norms, 0 because torchvision sets it so for the weights that it publishes. A state dict
    of norms that learned loads as the same function whatever it is; one of frozen norms with another ε, and ImageNet's
    weights without num_batches_tracked, want 1e-5. ``options`` are those of ``FasterRCNN``.
    """
    return FasterRCNN(resnet50_pyramid(trainable_backbone_layers, frozen_norm, norm_eps), num_classes, **options)


def fasterrcnn_mobilenet_v3_large_fpn(
    num_classes: int = 91, trainable_backbone_layers: int | None = None, frozen_norm: bool = True, **options
) -> FasterRCNN:
    """Faster R-CNN on MobileNetV3-Large, maps of strides 32, 32 and 64: 19,386,354 parameters. Keys are torchvision's.

    ``trainable_backbone_layers``: how many of the six stages learn, by default 3 with frozen norms, else all.
    """
    backbone = mobilenet_pyramid(trainable_backbone_layers, frozen_norm)
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, (RATIOS,) * 3)
    defaults: dict[str, Any] = {"rpn_score_thresh": 0.05, "rpn_anchor_generator": anchors}
    return FasterRCNN(backbone, num_classes, **defaults | options)


def fasterrcnn_mobilenet_v3_large_320_fpn(
    num_classes: int = 91, trainable_backbone_layers: int | None = None, frozen_norm: bool = True, **options
) -> FasterRCNN:
    """The same network for images of 320 pixels, with fewer proposals: 19,386,354 parameters, torchvision's keys."""
    few: dict[str, Any] = {
        "min_size": 320,
        "max_size": 640,
        "rpn_pre_nms_top_n_test": 150,
        "rpn_post_nms_top_n_test": 150,
    }
    return fasterrcnn_mobilenet_v3_large_fpn(num_classes, trainable_backbone_layers, frozen_norm, **few | options)


def fasterrcnn_resnet50_c4(
    num_classes: int = 91,
    trainable_backbone_layers: int | None = None,
    frozen_norm: bool = True,
    norm_eps: float = 0.0,
    **options,
) -> FasterRCNN:
    """Faster R-CNN without a pyramid: one map of stride 16 for everything; torchvision has none like it.

    ResNet-50's first four stages are the backbone, and its last is the head, which sees 14 × 14 samples of each box (He
    et al., Deep Residual Learning, 2016, appendix A) and learns always. Fifteen anchors a pixel; 12,000 of them before
    suppression and 2,000 proposals after it in training, 6,000 and 300 in evaluation (sections 3.3 and 4.1 of the
    paper, and its code). RoI align stands where the paper has RoI pooling.

    ``trainable_backbone_layers``: of the four stages of the backbone, by default 2 with frozen norms, else all.
    """
    body = resnet50(num_classes=1)
    if frozen_norm:
        freeze_norms(body, norm_eps)
    head = C4Head(body.layer4)
    backbone = Backbone(Stages(body.named_children(), {"layer3": "0"}), None, 1024)
    train_only(backbone.body, RESNET[:4], trainable_backbone_layers, 2 if frozen_norm else 4)
    defaults: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(((32, 64, 128, 256, 512),), (RATIOS,)),
        "rpn_pre_nms_top_n_train": 12000,
        "rpn_pre_nms_top_n_test": 6000,
        "rpn_post_nms_top_n_test": 300,
        "box_roi_pool": RoIPooler(14),
        "box_head": head,
        "box_predictor": FastRCNNPredictor(2048, num_classes),
    }
    return FasterRCNN(backbone, num_classes, **defaults | options)


def fasterrcnn_small(num_classes: int = 4, width: int = 32, **options) -> FasterRCNN:
    """Faster R-CNN that learns from nothing on a CPU: 2.2 million parameters, for objects of 10 to 250 of 320 pixels.

    Blocks of ResNet-18 with batch normalisation, one a stage, of ``width`` · 2, 4 and 8 channels at strides 4, 8 and
    16; a pyramid of the last two; fifteen anchors a pixel, five sizes a level with a factor √2 between them. Images are
    brought to 240 × 320 or what fits into it. 128 proposals an image learn, for there are few objects in one.
    """
    return FasterRCNN(small_pyramid(width), num_classes, **small_defaults(num_classes, width) | options)


def small_defaults(num_classes: int, width: int) -> dict[str, Any]:
    """What the small detectors give ``FasterRCNN``, unless other arguments are given."""
    sizes = tuple(tuple(round(first * 2 ** (i / 2)) for i in range(5)) for first in (11, 64))
    return {
        "min_size": 240,
        "max_size": 320,
        "rpn_anchor_generator": AnchorGenerator(sizes, (RATIOS,) * 2),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_pre_nms_top_n_test": 500,
        "rpn_post_nms_top_n_train": 500,
        "rpn_post_nms_top_n_test": 300,
        "box_roi_pool": RoIPooler(canonical_scale=112),  # a box of 112 pixels has 7 on the coarser map
        "box_head": TwoMLPHead(2 * width * 49, 256),
        "box_predictor": FastRCNNPredictor(256, num_classes),
        "box_batch_size_per_image": 128,
    }


class C4Head(nn.Module):
    """ResNet's last stage and the mean of its map, (K, 1024, 14, 14) -> (K, 2048, 1, 1)."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4, self.avgpool = layer4, nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.avgpool(self.layer4(x))
