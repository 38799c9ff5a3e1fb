"""The views of an image that a network is measured on: itself and, with ``test_flip``, its mirror images."""

from typing import Any

import torch
from torch import Tensor

from byhand.ops.fusion import fuse_boxes
from byhand.training.settings import Settings

ACROSS, DOWN = -1, -2  # the axes of an image


def views_of(settings: Settings) -> list[tuple[int, ...]]:
    """The axes that each view is mirrored along; those of the image itself, none, come first.

    Mirrored left to right with ``test_flip``; where the training also mirrors top to bottom, that way and both ways.
    """
    if not settings.test_flip:
        return [()]
    views: list[tuple[int, ...]] = [(), (ACROSS,)]
    return [*views, (DOWN,), (ACROSS, DOWN)] if settings.vertical_flip else views


def mean_logits(network: Any, inputs: Tensor, settings: Settings) -> Tensor:
    """The mean over the views of what the network says of a batch (B, C, H, W); of no images, what it says."""
    views = views_of(settings) if inputs.ndim == 4 else [()]
    outputs = network(inputs)
    for axes in views[1:]:
        outputs = outputs + network(inputs.flip(axes))
    return outputs / len(views) if len(views) > 1 else outputs


def found_in(network: Any, image: Tensor, settings: Settings) -> dict[str, Tensor]:
    """What a detector finds in the float image (3, H, W): of several views, what they show as one answer."""
    views = views_of(settings)
    found = [mirrored(network([image.flip(axes)])[0], axes, image.shape) for axes in views]
    if len(views) == 1:
        return found[0]
    each = torch.cat([torch.full_like(one["labels"], i) for i, one in enumerate(found)])
    together = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    fused = fuse_boxes(together["boxes"], together["scores"], together["labels"], each, len(views))
    answer = {"boxes": fused.boxes, "scores": fused.scores, "labels": fused.idxs}
    if "masks" in together:
        answer["masks"] = torch.tensordot(fused.shares, together["masks"], 1)
    return answer


def mirrored(found: dict[str, Tensor], axes: tuple[int, ...], shape: torch.Size) -> dict[str, Tensor]:
    """Boxes and masks that were found in a mirror image, where they are in the image itself, of this shape."""
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    if ACROSS in axes:
        x1, x2 = shape[ACROSS] - x2, shape[ACROSS] - x1
    if DOWN in axes:
        y1, y2 = shape[DOWN] - y2, shape[DOWN] - y1
    found = {**found, "boxes": torch.stack((x1, y1, x2, y2), 1)}
    return {**found, "masks": found["masks"].flip(axes)} if "masks" in found else found
