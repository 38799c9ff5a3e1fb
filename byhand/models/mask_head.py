"""The mask branch: for each box a small square of logits, one for each class, and their loss.

He, Gkioxari, Dollár & Girshick, Mask R-CNN (2017), section 3 and figure 4, right. Names and keys are those of
torchvision's ``MaskRCNNHeads`` and ``MaskRCNNPredictor``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from byhand.ops.roi_align import roi_align


class MaskRCNNHeads(nn.Module):
    """3×3 convolutions with ReLU, one for each of ``layers``, (K, in_channels, M, M) -> (K, layers[-1], M, M)."""

    def __init__(self, in_channels: int, layers: Sequence[int] = (256, 256, 256, 256)) -> None:
        super().__init__()
        for i, channels in enumerate(layers):
            conv = nn.Conv2d(in_channels, channels, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            self.add_module(str(i), nn.Sequential(conv, nn.ReLU()))
            in_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class MaskRCNNPredictor(nn.Module):
    """Twice as many pixels a side, then logits, (K, in_channels, M, M) -> (K, num_classes, 2 M, 2 M)."""

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, dim_reduced, 2, stride=2)
        self.relu = nn.ReLU()
        self.mask_fcn_logits = nn.Conv2d(dim_reduced, num_classes, 1)
        for layer in (self.conv5_mask, self.mask_fcn_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return self.mask_fcn_logits(self.relu(self.conv5_mask(x)))


def mask_loss(
    logits: Tensor, boxes: Sequence[Tensor], masks: Sequence[Tensor], matched: Sequence[Tensor], labels: Tensor
) -> Tensor:
    """The mean cross-entropy of every pixel of every box, of the logits (K, classes, M, M) of its own class alone.

    ``boxes`` of each image with an object each, the ``matched`` one of its ``masks`` (N, H, W); ``labels`` (K,) of all.
    What is wanted of a pixel is the mean of the mask in it, 0..1: RoI align of the mask at the box.
    """
    M = logits.shape[-1]
    wanted = []
    for some, own, objects in zip(boxes, masks, matched, strict=True):
        rois = torch.cat([objects.to(some.dtype)[:, None], some], 1)
        if len(rois):
            wanted.append(roi_align(own[:, None].to(some.dtype), rois, (M, M), 1.0)[:, 0])
    chosen = logits[torch.arange(len(labels), device=labels.device), labels]
    return nn.functional.binary_cross_entropy_with_logits(chosen, torch.cat(wanted).to(logits.dtype))
