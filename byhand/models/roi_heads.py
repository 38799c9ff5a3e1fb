"""The second stage: what each proposal shows, and where exactly; with a mask head also which of its pixels.

Girshick, Fast R-CNN (2015), sections 2.3 and 3; Ren et al., Faster R-CNN (2015); He et al., Mask R-CNN (2017). Names,
keys and the order of operations are those of torchvision's ``RoIHeads``, ``TwoMLPHead`` and ``FastRCNNPredictor``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from byhand.errors import SettingsError, ShapeError
from byhand.models.detection_images import ImageBatch, Size, Target
from byhand.models.detection_nms import check_finite, nms_by_class
from byhand.models.linear import check_dropout
from byhand.models.mask_head import mask_loss
from byhand.models.region_proposal import BETA, check_rules, exact
from byhand.ops.assignment import BETWEEN_THRESHOLDS, match_boxes, sample_balanced
from byhand.ops.boxes import box_iou, clip_boxes_to_image, decode_boxes, encode_boxes, remove_small_boxes
from byhand.ops.pyramid import multiscale_roi_align
from byhand.ops.roi_pool import roi_pool

SMALLEST = 1e-2  # pixels


@dataclass(frozen=True)
class DetectionRules:
    """Which detections are reported, and which proposals learn; torchvision's arguments ``box_*`` and their defaults.

    A proposal is of its object's class with IoU ≥ ``fg_iou_thresh``, background below ``bg_iou_thresh``, and between
    the two left out; ``batch_size_per_image`` are drawn, those with an object at most the ``positive_fraction``.
    Fast R-CNN also leaves out what overlaps an object by less than ``bg_iou_least``, 0.1 (section 2.3), so that the
    background is learned where it is hard; in an image without objects, where all of it is, nothing is left out.
    """

    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_img: int = 100
    fg_iou_thresh: float = 0.5
    bg_iou_thresh: float = 0.5
    batch_size_per_image: int = 512
    positive_fraction: float = 0.25
    bg_iou_least: float = 0.0

    def __post_init__(self) -> None:
        check_rules("box", self)
        if self.bg_iou_least > self.bg_iou_thresh:
            raise SettingsError(
                f"box_bg_iou_least={self.bg_iou_least} must be at most box_bg_iou_thresh={self.bg_iou_thresh}"
            )


@dataclass(frozen=True)
class RoIPooler:
    """RoI align on the level that fits each box, {name: map} and boxes of each image -> (K, C, size, size).

    Scales are those of the padded batch, of which every map is an exact part. torchvision takes the sizes before
    padding, which round to the same power of two, unless the image is a strip of less than 46 pixels: there its scale
    is wrong.
    """

    output_size: int = 7
    sampling_ratio: int = 2
    canonical_scale: int = 224  # pixels of a box on level 4, a stride of 16

    def __call__(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], image_size: Size) -> Tensor:
        maps = [x for name, x in features.items() if name != "pool"]  # there is nothing in it that the last has not
        shapes = [image_size] * len(boxes)
        return multiscale_roi_align(
            maps, list(boxes), self.output_size, self.sampling_ratio, shapes, self.canonical_scale
        )


@dataclass(frozen=True)
class RoIMaxPooler:
    """RoI pooling of a single map, {name: map} and boxes of each image -> (K, C, size, size).

    Girshick, Fast R-CNN (2015), section 2.1; corners are rounded to whole pixels of the map, which is an exact part of
    the padded batch.
    """

    output_size: int = 7

    def __call__(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], image_size: Size) -> Tensor:
        if len(features) != 1:
            names = ", ".join(features)
            raise ShapeError(f"maps {names} are {len(features)}; RoI pooling looks at one, a pyramid takes RoI align")
        (x,) = features.values()
        return roi_pool(x, list(boxes), self.output_size, x.shape[2] / image_size[0])


class TwoMLPHead(nn.Module):
    """Two linear layers with ReLU, (K, C, size, size) -> (K, representation_size); ``dropout`` follows each."""

    def __init__(self, in_channels: int, representation_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_dropout(dropout=dropout)
        self.dropout = dropout
        self.fc6 = nn.Linear(in_channels, representation_size)
        self.fc7 = nn.Linear(representation_size, representation_size)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.fc6, self.fc7):
            x = nn.functional.relu(layer(torch.flatten(x, 1)))
            if self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x


class FastRCNNPredictor(nn.Module):
    """Logits of all classes and four offsets for each, (K, C) or (K, C, 1, 1) -> (K, classes) and (K, 4 · classes)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.flatten(x, 1)
        return self.cls_score(x), self.bbox_pred(x)


Pooler = RoIPooler | RoIMaxPooler


@dataclass
class Sample:
    """Proposals of one image that were drawn for the losses: boxes, the object of each, and its class, 0 for none."""

    boxes: Tensor
    matched: Tensor
    labels: Tensor


class RoIHeads(nn.Module):
    """Detections of each image, or with targets the losses. Class 0 is the background.

    ``beta``: where the smooth L1 loss of the offsets turns straight.
    ``mask_roi_pool``, ``mask_head`` and ``mask_predictor`` are None in a network without masks.
    """

    def __init__(
        self,
        box_roi_pool: Pooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        rules: DetectionRules,
        bbox_reg_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        beta: float = BETA,
    ) -> None:
        super().__init__()
        self.box_roi_pool, self.rules, self.bbox_reg_weights = box_roi_pool, rules, tuple(bbox_reg_weights)
        self.beta = beta
        self.box_head, self.box_predictor = box_head, box_predictor
        self.mask_roi_pool: RoIPooler | None = None
        self.mask_head: nn.Module | None = None
        self.mask_predictor: nn.Module | None = None

    def forward(
        self,
        images: ImageBatch,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        targets: Sequence[Target] | None = None,
        generator: Generator | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if targets is None:
            return self.detections(images, features, proposals), {}
        samples = self.samples(proposals, targets, generator or torch.default_generator)
        return [], self.losses(images, features, samples, targets)

    def classified(
        self, images: ImageBatch, features: Mapping[str, Tensor], boxes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits (K, classes) and offsets (K, classes, 4) of the boxes of all images."""
        logits, offsets = self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, images.size)))
        check_finite("offsets", offsets, "roi_heads.box_predictor.bbox_pred", "proposal")
        check_finite("class logits", logits, "roi_heads.box_predictor.cls_score", "proposal")
        dtype = exact(logits)
        return logits.to(dtype), offsets.to(dtype).reshape(len(offsets), -1, 4)

    def mask_logits(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], size: Size) -> Tensor:
        """Logits (K, classes, 2 M, 2 M) of the boxes of all images of that padded size, in a network with masks."""
        assert self.mask_roi_pool is not None
        assert self.mask_head is not None
        assert self.mask_predictor is not None
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, size)))

    def samples(self, proposals: list[Tensor], targets: Sequence[Target], generator: Generator) -> list[Sample]:
        """Of each image the drawn proposals, in order; the objects themselves are proposals too, the last ones."""
        return drawn_samples(proposals, targets, self.rules, generator)

    def matched(self, boxes: Tensor, objects: Tensor) -> Tensor:
        """The object of each box, (N, 4) and (M, 4) -> (N,), −1 for background and −2 for neither."""
        return matched_objects(boxes, objects, self.rules)

    def losses(
        self, images: ImageBatch, features: Mapping[str, Tensor], samples: list[Sample], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Fast R-CNN's equation 1: cross-entropy, its mean, and smooth L1 of the objects' offsets, Σ / drawn.

        A proposal learns the offsets of its own class alone. Without any proposal all are 0, and so is the gradient.
        """
        labels = torch.cat([sample.labels for sample in samples])
        if not len(labels):
            names = ["loss_classifier", "loss_box_reg", *["loss_mask"] * (self.mask_head is not None)]
            nothing = next(iter(features.values())).flatten()[:0].sum()
            return dict.fromkeys(names, nothing)
        logits, offsets = self.classified(images, features, [sample.boxes for sample in samples])
        positive = (labels > 0).nonzero()[:, 0]
        wanted = [
            encode_boxes(
                target["boxes"].to(sample.boxes.dtype)[sample.matched[sample.labels > 0]],
                sample.boxes[sample.labels > 0],
                self.bbox_reg_weights,
            )
            for sample, target in zip(samples, targets, strict=True)
        ]
        loss = nn.functional.smooth_l1_loss(
            offsets[positive, labels[positive]], torch.cat(wanted), beta=self.beta, reduction="sum"
        )
        losses = {
            "loss_classifier": nn.functional.cross_entropy(logits, labels),
            "loss_box_reg": loss / len(labels),
        }
        if self.mask_head is not None:
            boxes = [sample.boxes[sample.labels > 0] for sample in samples]
            matched = [sample.matched[sample.labels > 0] for sample in samples]
            masks = [target["masks"] for target in targets]
            found = self.mask_logits(features, boxes, images.size) if len(positive) else None
            losses["loss_mask"] = (
                logits.new_zeros(()) if found is None else mask_loss(found, boxes, masks, matched, labels[positive])
            )
        return losses

    def detections(
        self, images: ImageBatch, features: Mapping[str, Tensor], proposals: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Of each image ``boxes`` (N, 4), ``labels`` (N,), ``scores`` (N,), best first, and ``masks`` (N, 1, M, M).

        Every class of every proposal is a candidate of its own, but the background: those above the score threshold are
        moved by the offsets of their class, clipped, without the smallest, and suppressed class by class.
        """
        counts = [len(boxes) for boxes in proposals]
        if sum(counts):
            logits, offsets = self.classified(images, features, proposals)
            scores = nn.functional.softmax(logits, -1)
        else:  # nothing was proposed, and nothing is to be seen
            scores, offsets = proposals[0].new_zeros(0, 2), proposals[0].new_zeros(0, 2, 4)
        parts = zip(proposals, scores.split(counts), offsets.split(counts), images.image_sizes, strict=True)
        found = [self.best(*part) for part in parts]
        if self.mask_head is None:
            return found
        boxes, labels = [one["boxes"] for one in found], torch.cat([one["labels"] for one in found])
        if len(labels):
            logits = self.mask_logits(features, boxes, images.size)
            masks = torch.sigmoid(logits[torch.arange(len(labels), device=labels.device), labels][:, None])
        else:
            masks = boxes[0].new_zeros(0, 1, 1, 1)
        for one, some in zip(found, masks.split([len(b) for b in boxes]), strict=True):
            one["masks"] = some
        return found

    def best(self, proposals: Tensor, scores: Tensor, offsets: Tensor, size: Size) -> dict[str, Tensor]:
        """The detections of one image."""
        return best_detections(proposals, scores, offsets, size, self.rules, self.bbox_reg_weights)


def matched_objects(boxes: Tensor, objects: Tensor, rules: DetectionRules) -> Tensor:
    """The object of each box, (N, 4) and (M, 4) -> (N,), −1 for background and −2 for neither."""
    iou = box_iou(objects, boxes)
    matched = match_boxes(iou, rules.fg_iou_thresh, rules.bg_iou_thresh)
    if rules.bg_iou_least and len(objects):
        matched = torch.where(iou.amax(0) < rules.bg_iou_least, BETWEEN_THRESHOLDS, matched)
    return matched


def drawn_samples(
    proposals: Sequence[Tensor], targets: Sequence[Target], rules: DetectionRules, generator: Generator
) -> list[Sample]:
    """Of each image the proposals drawn for the losses, in order; the objects are proposals too, the last ones."""
    drawn = []
    for boxes, target in zip(proposals, targets, strict=True):
        objects = target["boxes"].to(boxes.dtype)
        boxes = torch.cat([boxes, objects])
        matched = matched_objects(boxes, objects, rules)
        of_object = target["labels"][matched.clamp(min=0)] if len(objects) else matched
        # −1, background, becomes label 0, and −2, neither, label −1
        labels = torch.where(matched >= 0, of_object, matched + 1)
        positive, negative = sample_balanced(labels, rules.batch_size_per_image, rules.positive_fraction, generator)
        some = torch.cat([positive, negative]).sort()[0]
        drawn.append(Sample(boxes[some], matched[some].clamp(min=0), labels[some]))
    return drawn


@torch.no_grad()
def best_detections(
    proposals: Tensor, scores: Tensor, offsets: Tensor, size: Size, rules: DetectionRules, weights: Sequence[float]
) -> dict[str, Tensor]:
    """The detections of one image, of (N, 4), (N, classes) and (N, classes, 4): ``boxes``, ``labels``, ``scores``."""
    row, column = (scores[:, 1:] > rules.score_thresh).nonzero().unbind(1)
    labels = column + 1
    chances = scores[row, labels]
    boxes = decode_boxes(offsets[row, labels], proposals[row], weights)
    boxes = clip_boxes_to_image(boxes, size)
    keep = remove_small_boxes(boxes, SMALLEST)
    stays = nms_by_class(boxes[keep], chances[keep], labels[keep], rules.nms_thresh)[: rules.detections_per_img]
    keep = keep[stays]
    return {"boxes": boxes[keep], "labels": labels[keep], "scores": chances[keep]}
