"""The region proposal network: which of the anchors hold an object, whatever it is, and where exactly.

Ren, He, Girshick & Sun, Faster R-CNN (2015), section 3. Names, keys and the order of operations are those of
torchvision's ``RegionProposalNetwork``, ``RPNHead`` and ``AnchorGenerator``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from byhand.errors import SettingsError
from byhand.models.detection_images import ImageBatch, Size, Target
from byhand.models.detection_nms import check_finite, nms_by_class
from byhand.models.linear import check_counts
from byhand.ops.anchors import anchor_boxes
from byhand.ops.assignment import match_boxes, sample_balanced
from byhand.ops.boxes import box_iou, clip_boxes_to_image, decode_boxes, encode_boxes, remove_small_boxes

SMALLEST = 1e-3  # pixels; a proposal that was clipped away has none
BETA = 1 / 9  # where the smooth L1 loss turns straight: Fast R-CNN's code has σ = 3, and β = 1 / σ²


@dataclass(frozen=True)
class AnchorGenerator:
    """The sizes (√area in pixels) and ratios (height / width) of the anchors, one sequence for each level of maps."""

    sizes: Sequence[Sequence[float]]
    aspect_ratios: Sequence[Sequence[float]]

    def num_anchors_per_location(self) -> list[int]:
        return [len(s) * len(r) for s, r in zip(self.sizes, self.aspect_ratios, strict=True)]

    def __call__(self, image_size: Size, maps: Sequence[Tensor]) -> Tensor:
        """The anchors of all levels, (N, 4): row by row, pixel by pixel, and there ratio by ratio with all sizes."""
        grids = [tuple(x.shape[2:]) for x in maps]
        return anchor_boxes(self.sizes, self.aspect_ratios, image_size, grids, exact(maps[0]), maps[0].device)


def exact(x: Tensor) -> torch.dtype:
    """What boxes are computed in: float32 or wider. In bfloat16 a coordinate of 300 would be two pixels off."""
    return torch.promote_types(x.dtype, torch.float32)


@dataclass(frozen=True)
class ProposalRules:
    """How many proposals are kept, and which anchors learn; torchvision's arguments ``rpn_*`` and their defaults.

    ``pre_nms_top_n_*`` are for each level and image, ``post_nms_top_n_*`` for each image; _train wherever losses are
    computed. An anchor is positive with IoU ≥ ``fg_iou_thresh`` or the highest of an object, negative below
    ``bg_iou_thresh``; ``batch_size_per_image`` of them are drawn, positives at most the ``positive_fraction``.
    """

    pre_nms_top_n_train: int = 2000
    pre_nms_top_n_test: int = 1000
    post_nms_top_n_train: int = 2000
    post_nms_top_n_test: int = 1000
    nms_thresh: float = 0.7
    fg_iou_thresh: float = 0.7
    bg_iou_thresh: float = 0.3
    batch_size_per_image: int = 256
    positive_fraction: float = 0.5
    score_thresh: float = 0.0

    def __post_init__(self) -> None:
        check_rules("rpn", self)


def check_rules(prefix: str, rules) -> None:
    """None, if counts are whole numbers of at least 1 and the rest lies in 0..1; else a SettingsError, naming one."""
    for field in fields(rules):
        name, value = f"{prefix}_{field.name}", getattr(rules, field.name)
        if field.type is int:
            check_counts(**{name: value})
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise SettingsError(f"{name}={value!r} must lie in 0..1")
    if rules.bg_iou_thresh > rules.fg_iou_thresh:
        raise SettingsError(
            f"{prefix}_bg_iou_thresh={rules.bg_iou_thresh} must be at most {prefix}_fg_iou_thresh={rules.fg_iou_thresh}"
        )


def rules_of(options: dict[str, Any], **kinds: type) -> list[Any]:
    """The rules of each kind from the options that bear its prefix; those not given have their defaults.

    Raises SettingsError for an option that is of none of them.
    """
    known = {f"{prefix}_{field.name}": (prefix, field.name) for prefix in kinds for field in fields(kinds[prefix])}
    unknown = [name for name in options if name not in known]
    if unknown:
        read = "; byhand.pretrained.load_weights takes weights" if "weights" in unknown[0] else ""
        raise SettingsError(f"a detector takes no argument {unknown[0]!r}{read}; thresholds: {', '.join(known)}")
    taken: dict[str, dict[str, Any]] = {prefix: {} for prefix in kinds}
    for name, value in options.items():
        prefix, field = known[name]
        taken[prefix][field] = value
    return [kind(**taken[prefix]) for prefix, kind in kinds.items()]


class RPNHead(nn.Module):
    """Logits and offsets of A anchors at each pixel of each map, (B, C, H, W) -> (B, A, H, W) and (B, 4 A, H, W).

    A 3×3 convolution, ReLU and two 1×1 ones, the same for all levels; section 3.1.
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, padding=1), nn.ReLU()) for _ in range(conv_depth))
        )
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, 4 * num_anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.conv(x) for x in maps]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]


class Candidates(NamedTuple):
    """Boxes (N, 4) of one image that suppression chooses from, the objectness of each, 0..1, and its level of maps."""

    boxes: Tensor
    scores: Tensor
    levels: Tensor


class Assigned(NamedTuple):
    """The object of each anchor of an image, (N,), −1 for background and −2 for neither; the drawn ones' indices."""

    matched: Tensor
    positive: Tensor
    negative: Tensor


class RegionProposalNetwork(nn.Module):
    """Proposals of each image, (x1, y1, x2, y2) in pixels of the batch, best first, and with targets the two losses.

    Boxes carry no gradient: the second stage takes them as given, as in the paper's approximate joint training.
    """

    def __init__(self, anchor_generator: AnchorGenerator, head: nn.Module, rules: ProposalRules) -> None:
        super().__init__()
        self.anchor_generator, self.head, self.rules = anchor_generator, head, rules

    def forward(
        self,
        images: ImageBatch,
        features: Mapping[str, Tensor],
        targets: Sequence[Target] | None = None,
        generator: Generator | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        logits, offsets, anchors, counts = self.scored(images, features)
        learns = targets is not None
        with torch.no_grad():
            candidates = self.candidates(logits, offsets, anchors, counts, images.image_sizes, learns)
            proposals = [some.boxes[self.survivors(some, learns)] for some in candidates]
        if targets is None:
            return proposals, {}
        return proposals, self.losses(logits, offsets, anchors, targets, generator or torch.default_generator)

    def scored(self, images: ImageBatch, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Logits (B, N) and offsets (B, N, 4) of all anchors, the anchors (N, 4), and how many each level has."""
        maps = list(features.values())
        by_level, moves = self.head(maps)
        anchors = self.anchor_generator(images.size, maps)
        counts = [x[0].numel() for x in by_level]
        logits = torch.cat([in_order(x, 1) for x in by_level], 1)[:, :, 0].to(anchors.dtype)
        offsets = torch.cat([in_order(x, 4) for x in moves], 1).to(anchors.dtype)
        check_finite("offsets", offsets, "rpn.head.bbox_pred", "image")
        check_finite("objectness", logits, "rpn.head.cls_logits", "image")
        return logits, offsets, anchors, counts

    def candidates(
        self, logits: Tensor, offsets: Tensor, anchors: Tensor, counts: list[int], sizes: list[Size], training: bool
    ) -> list[Candidates]:
        """Of each image the best of each level, moved, clipped, without those too small or unlikely; in any order."""
        rules = self.rules
        before = rules.pre_nms_top_n_train if training else rules.pre_nms_top_n_test
        best, levels, first = [], [], 0
        for level, part in enumerate(logits.split(counts, 1)):
            top = part.topk(min(before, part.shape[1]), dim=1)[1]
            best.append(top + first)
            levels.append(torch.full((top.shape[1],), level, device=top.device))
            first += part.shape[1]
        chosen, level_of = torch.cat(best, 1), torch.cat(levels)
        found = []
        for image, size in enumerate(sizes):
            some = chosen[image]
            scores = torch.sigmoid(logits[image, some])
            boxes = clip_boxes_to_image(decode_boxes(offsets[image, some], anchors[some]), size)
            keep = remove_small_boxes(boxes, SMALLEST)
            keep = keep[scores[keep] >= rules.score_thresh]
            found.append(Candidates(boxes[keep], scores[keep], level_of[keep]))
        return found

    def survivors(self, candidates: Candidates, training: bool) -> Tensor:
        """Indices of those that are proposed, best first: suppressed level by level, no more than the rules allow."""
        rules = self.rules
        after = rules.post_nms_top_n_train if training else rules.post_nms_top_n_test
        return nms_by_class(candidates.boxes, candidates.scores, candidates.levels, rules.nms_thresh)[:after]

    def assigned(self, anchors: Tensor, boxes: Tensor, generator: Generator) -> Assigned:
        """Which object each anchor of an image takes, and which of the anchors are drawn to learn."""
        rules = self.rules
        matched = match_boxes(box_iou(boxes, anchors), rules.fg_iou_thresh, rules.bg_iou_thresh, True)
        kinds = torch.where(matched >= 0, 1, matched + 1)  # −1, background, becomes 0, and −2, neither, −1
        drawn = sample_balanced(kinds, rules.batch_size_per_image, rules.positive_fraction, generator)
        return Assigned(matched, *drawn)

    def losses(
        self, logits: Tensor, offsets: Tensor, anchors: Tensor, targets: Sequence[Target], generator: Generator
    ) -> dict[str, Tensor]:
        """Cross-entropy of the drawn anchors' objectness, its mean; smooth L1 of the positives' offsets, Σ / drawn."""
        num_anchors = len(anchors)
        drawn, positives, wanted, labels = [], [], [], []
        for image, target in enumerate(targets):
            boxes = target["boxes"].to(anchors.dtype)
            matched, positive, negative = self.assigned(anchors, boxes, generator)
            drawn += [positive + image * num_anchors, negative + image * num_anchors]
            labels += [logits.new_ones(len(positive)), logits.new_zeros(len(negative))]
            positives.append(positive + image * num_anchors)
            wanted.append(encode_boxes(boxes[matched[positive]], anchors[positive]))
        chosen = torch.cat(drawn)
        moved = offsets.reshape(-1, 4)[torch.cat(positives)]
        loss = nn.functional.smooth_l1_loss(moved, torch.cat(wanted), beta=BETA, reduction="sum")
        return {
            "loss_objectness": nn.functional.binary_cross_entropy_with_logits(
                logits.reshape(-1)[chosen], torch.cat(labels)
            ),
            "loss_rpn_box_reg": loss / len(chosen),
        }


def in_order(x: Tensor, size: int) -> Tensor:
    """Maps (B, A · size, H, W) in the order of the anchors, (B, H · W · A, size)."""
    B, channels, H, W = x.shape
    return x.view(B, channels // size, size, H, W).permute(0, 3, 4, 1, 2).reshape(B, -1, size)
