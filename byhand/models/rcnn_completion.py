"""R-CNN's second stage of learning: machines and box regression from the features of all training images.

Girshick, Donahue, Darrell & Malik, Rich feature hierarchies (2014), section 2.3 and appendices B and C.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from byhand.models.detection_images import Target
from byhand.models.rcnn_fits import HardNegatives, ridge, scikit_learn, to_norm
from byhand.models.rcnn_heads import PLAIN
from byhand.ops.boxes import box_iou, encode_boxes

if TYPE_CHECKING:
    from byhand.models.rcnn import RCNN

NEGATIVE = 0.3  # windows below this IoU with every object of a class are negatives of its machine (appendix B)
NEAR = 0.6  # windows above this IoU with an object learn to move onto it (appendix C)
TASTED = 10  # windows of each image by which the features are scaled


@torch.no_grad()
def fit_machines(network: "RCNN", images: Sequence[Tensor], targets: Sequence[Target], rounds: int) -> list[int]:
    """The classes without a machine; afterwards all others have one, and their box regression, in the state dict.

    Images are looked at one by one, once for their objects and once or more for the rest; features of windows that
    teach nothing are not kept.
    """
    scikit_learn()
    positive, scale, scale_pooled = _objects(network, images, targets)
    machines = {label: HardNegatives(features * scale) for label, features in positive.items()}
    near: list[tuple[Tensor, Tensor, Tensor]] = []  # pooled maps, offsets and classes of windows near to an object
    for turn in range(rounds):
        taken = first = 0
        for seen, boxes, labels in _resized(network, images, targets):
            windows = network.proposals(seen).to(seen.dtype)
            pooled, features = network.features(network.transform.normalized(seen), windows)
            iou = box_iou(boxes, windows).cpu()
            if turn == 0 and iou.numel():
                overlap, which = iou.max(0)
                close = overlap > NEAR
                offsets = encode_boxes(boxes[which[close]], windows[close], PLAIN)
                near.append((pooled[close].cpu(), offsets.cpu(), labels[which[close]]))
            scaled, numbers = features.cpu() * scale, torch.arange(first, first + len(windows))
            for label, machine in machines.items():
                beside = (iou[labels == label] < NEGATIVE).all(0)
                taken += machine.add(scaled[beside], numbers[beside])
            first += len(windows)
        for machine in machines.values():
            machine.fit()
        if not taken:
            break
    heads = network.roi_heads
    for label, machine in machines.items():
        of_class = [(x[k == label], t[k == label]) for x, t, k in near]
        x = torch.cat([x for x, _ in of_class]) if near else torch.zeros(0, network.features.cnn.num_pooled)
        t = torch.cat([t for _, t in of_class]) if near else torch.zeros(0, 4)
        W, b = ridge(x * scale_pooled, t)
        fitted = None if machine.weight is None or machine.bias is None else (machine.weight * scale, machine.bias)
        heads.take(label, fitted, (W * scale_pooled, b))
    heads.completed.fill_(True)
    return [label for label, machine in machines.items() if machine.weight is None]


def _objects(
    network: "RCNN", images: Sequence[Tensor], targets: Sequence[Target]
) -> tuple[dict[int, Tensor], float, float]:
    """The features of the objects of each class, and what brings features and pooled maps to their mean length."""
    found: list[Tensor] = [torch.zeros(0, network.features.cnn.num_features)]
    classes: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
    lengths: list[Tensor] = []
    for seen, boxes, labels in _resized(network, images, targets):
        windows = network.proposals(seen).to(seen.dtype)
        some = windows[:: -(-len(windows) // TASTED) or 1]
        pooled, features = network.features(network.transform.normalized(seen), torch.cat([boxes, some]))
        found.append(features[: len(boxes)].cpu())
        classes.append(labels)
        lengths.append(torch.stack([features.norm(dim=1), pooled.norm(dim=1)]).cpu())
    features, labels = torch.cat(found), torch.cat(classes)
    of_features, of_pooled = torch.cat(lengths, 1)
    positive = {label: features[labels == label] for label in range(1, network.num_classes)}
    return positive, to_norm(of_features), to_norm(of_pooled)


def _resized(
    network: "RCNN", images: Sequence[Tensor], targets: Sequence[Target]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each image as the network sees it, still in 0..1, the boxes of its objects there, and their classes on the CPU.

    By their places, as images may be decoded when they are asked for.
    """
    for i in range(len(images)):
        seen, moved = network.resized(images[i], targets[i])
        yield seen, moved["boxes"].to(seen.dtype), moved["labels"].cpu()
