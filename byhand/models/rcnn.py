"""R-CNN: each proposal is cut out of the image, warped to one size, and looked at by a network of classification.

Girshick, Donahue, Darrell & Malik, Rich feature hierarchies for accurate object detection and semantic segmentation
(2014), section 2 and appendices A to C.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from byhand.errors import SettingsError
from byhand.models.alexnets import alexnet
from byhand.models.detection_images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectionTransform,
    Target,
    check_classes,
    check_targets,
    enlarged,
    moved_target,
    size_of,
)
from byhand.models.linear import check_counts
from byhand.models.proposals import SelectiveSearch
from byhand.models.rcnn_completion import fit_machines
from byhand.models.rcnn_fits import scikit_learn
from byhand.models.rcnn_heads import RCNNHeads
from byhand.models.region_proposal import rules_of
from byhand.models.roi_heads import DetectionRules, drawn_samples
from byhand.ops.warping import warp_boxes

CONTEXT = 16 / 227  # of a crop's side, on each of its sides (appendix A)
CROPS = 256  # that go through the network at once in evaluation; of 224 pixels 150 MB
ROUNDS = 1  # through the images in search of hard negatives, as in the authors' code


class CropNetwork(nn.Module):
    """Features of crops, (K, 3, size, size) -> the pooled maps (K, P) and the last hidden layer (K, D).

    AlexNet's pool5 and fc7. ``body`` ends in maps, ``top`` takes them flattened.
    """

    def __init__(self, body: nn.Module, top: nn.Module, num_pooled: int, num_features: int) -> None:
        super().__init__()
        self.body, self.top, self.num_pooled, self.num_features = body, top, num_pooled, num_features

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        pooled = torch.flatten(self.body(crops), 1)
        return pooled, self.top(pooled)


class WindowFeatures(nn.Module):
    """What the network sees in each box of an image, (3, H, W) and (N, 4) -> (N, P) and (N, D)."""

    def __init__(self, cnn: CropNetwork, size: int, context: int) -> None:
        super().__init__()
        self.cnn, self.size, self.context = cnn, size, context

    def crops(self, image: Tensor, boxes: Tensor) -> Tensor:
        """The warped boxes of an image whose mean pixel was subtracted, (N, 3, size, size)."""
        return warp_boxes(image, boxes, self.size, self.context)

    def forward(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        if not len(boxes):
            return image.new_zeros(0, self.cnn.num_pooled), image.new_zeros(0, self.cnn.num_features)
        parts = [self.cnn(self.crops(image, some)) for some in boxes.split(CROPS)]
        pooled, features = zip(*parts, strict=True)
        return torch.cat(pooled), torch.cat(features)

    def extra_repr(self) -> str:
        return f"size={self.size}, context={self.context}"


class RCNN(nn.Module):
    """Detections of images, or in training the loss; called as ``FasterRCNN`` is, with the same images and targets.

    Training by steps is the paper's fine-tuning: windows drawn from the proposals of each image, cross-entropy over the
    classes and the background (``loss_classifier``). Then ``complete`` fits a support vector machine a class and the
    box regression to the features of all training images, and detections are theirs; until then, and again after
    another step of training, they are the softmax's. All that was fitted lies in the state dict.

    Args:
        cnn: gives features of crops of ``size`` pixels a side.
        num_classes: the background, class 0, counts.
        proposals: (3, H, W) in 0..1 -> boxes (N, 4); None takes selective search.
        context: pixels of a crop around the box on each side; None is 16 of 227.
        min_size, max_size: what the sides of images are brought to before anything else, as ``FasterRCNN`` does it.
        generator: draws the windows of the losses; with None torch's own is drawn from.
        rules: ``box_*`` of ``DetectionRules``; here suppression is at 0.3 and 32 windows an image learn, at most a
            quarter of them with objects. (The paper draws 32 and 96 from all images together.)

    Raises:
        SettingsError: an argument out of range, or one that is not there.
        ByhandError: scikit-learn or scikit-image is not installed.
        ShapeError, TargetError: (from the network) images or targets that it cannot take.
        NonFiniteLoss: (from the network) logits, margins or offsets with NaN.
    """

    parts: ClassVar[dict[str, str]] = {"proposals": "proposals", "features": "features", "heads": "roi_heads"}

    def __init__(
        self,
        cnn: CropNetwork,
        num_classes: int,
        *,
        size: int,
        proposals: nn.Module | None = None,
        context: int | None = None,
        min_size: int = 375,
        max_size: int = 500,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        generator: Generator | None = None,
        **rules,
    ) -> None:
        super().__init__()
        check_counts(size=size)
        check_classes(num_classes)
        around = round(CONTEXT * size) if context is None else context
        if not 0 <= 2 * around < size:
            raise SettingsError(f"context={around} on both sides must leave at least one pixel of size={size}")
        few = {"box_nms_thresh": 0.3, "box_batch_size_per_image": 32}
        (for_detections,) = rules_of(few | rules, box=DetectionRules)
        self.generator = generator
        self.transform = DetectionTransform(min_size, max_size, image_mean, image_std)
        self.proposals = SelectiveSearch() if proposals is None else proposals
        self.features = WindowFeatures(cnn, size, around)
        self.roi_heads = RCNNHeads(cnn.num_pooled, cnn.num_features, num_classes, for_detections)

    @property
    def num_classes(self) -> int:
        """With the background."""
        return int(self.roi_heads.cls_score.out_features)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, losses: bool | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        self.transform.check_images(images)
        if self.training if losses is None else losses:
            return self.losses(images, check_targets(images, targets, self.num_classes, masks=False))
        found = [self.detected(image) for image in images]
        sizes = [size_of(image) for image in images]
        return self.transform.restored(found, [self.transform.size_for(*size, None) for size in sizes], sizes)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the windows drawn from all images, their mean; 0 where there is no window."""
        if self.training:
            scikit_learn()  # a training that cannot be completed should not begin
            self.roi_heads.completed.fill_(False)  # what was fitted to other features says nothing of these
        crops, labels = [], []
        for image, target in zip(images, targets, strict=True):
            seen, moved = self.resized(image, target)
            (sample,) = drawn_samples(
                [self.proposals(seen).to(seen.dtype)],
                [moved],
                self.roi_heads.rules,
                self.generator or torch.default_generator,
            )
            crops.append(self.features.crops(self.transform.normalized(seen), sample.boxes))
            labels.append(sample.labels)
        wanted = torch.cat(labels)
        if not len(wanted):
            return {"loss_classifier": 0 * self.roi_heads.cls_score.bias.sum()}
        _, features = self.features.cnn(torch.cat(crops))
        return {"loss_classifier": nn.functional.cross_entropy(self.roi_heads.logits(features), wanted)}

    def detected(self, image: Tensor) -> dict[str, Tensor]:
        """The detections of one image, in the pixels of the resized one."""
        seen, _ = self.resized(image, None)
        boxes = self.proposals(seen).to(seen.dtype)
        pooled, features = self.features(self.transform.normalized(seen), boxes)
        return self.roi_heads(pooled, features, boxes, size_of(seen))

    def resized(self, image: Tensor, target: Target | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The image, still in 0..1, and its target at the size that the network sees."""
        old = size_of(image)
        new = self.transform.size_for(*old, self.generator)
        return enlarged(image, new, mode="bilinear"), {} if target is None else moved_target(target, old, new)

    def complete(self, images: Sequence[Tensor], targets: Sequence[Target], rounds: int = ROUNDS) -> list[int]:
        """The classes that nothing could be learned of; fits machines and regression to the training images.

        Each class has its own: positives are its objects, negatives the proposals with IoU < 0.3 with every one of
        them, of which only the hard ones are looked for, image by image (``HardNegatives``); with ``rounds`` above 1
        again, until a round finds none. Windows with IoU > 0.6 with an object learn to move onto the one that they
        overlap most. Features are scaled to a mean length of 20; the scale is then multiplied into the weights.

        To be called in evaluation mode, after the last step; images and targets are as in training. A class without an
        object, or without anything beside it, is never answered.
        """
        return fit_machines(self, images, targets, rounds)


def rcnn_small(num_classes: int = 4, width: int = 16, size: int = 32, **options) -> RCNN:
    """R-CNN that learns from nothing on a CPU: four convolutions with batch normalisation on crops of ``size`` pixels.

    width - 2 width - 4 width - 4 width channels, the largest of 2 × 2 after the first, second and last; a hidden layer
    of 8 width. Of 32 pixels remain 4 × 4, whose place the box regression needs. Images are brought to 240 × 320 or what
    fits into it.
    """
    check_counts(num_classes=num_classes, width=width)
    if size < 8 or size % 8:
        raise SettingsError(f"size={size} must be a multiple of 8, as the maps are halved three times")
    pooled = 4 * width * (size // 8) ** 2
    body = nn.Sequential(
        *_convolution(3, width),
        nn.MaxPool2d(2),
        *_convolution(width, 2 * width),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 4 * width),
        *_convolution(4 * width, 4 * width),
        nn.MaxPool2d(2),
    )
    top = nn.Sequential(nn.Linear(pooled, 8 * width), nn.ReLU())
    defaults: dict[str, Any] = {"min_size": 240, "max_size": 320}
    return RCNN(CropNetwork(body, top, pooled, 8 * width), num_classes, size=size, **defaults | options)


def rcnn_alexnet(num_classes: int = 21, **options) -> RCNN:
    """The paper's R-CNN: AlexNet on crops of 224 pixels, 9216 values of pool5 and 4096 of fc7, 21 classes of VOC.

    Images are brought to 375 × 500 pixels or what fits into it, for the sake of selective search. AlexNet is
    torchvision's, whose crops have 224 pixels where the paper's have 227; it starts from nothing, not from ImageNet.
    """
    whole: Any = alexnet(num_classes=1)
    body = nn.Sequential(*whole.features, whole.avgpool)
    top = nn.Sequential(*list(whole.classifier)[:-1])
    return RCNN(CropNetwork(body, top, 9216, 4096), num_classes, size=224, **options)


def _convolution(in_channels: int, channels: int) -> list[nn.Module]:
    layer = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return [layer, nn.BatchNorm2d(channels), nn.ReLU()]
