"""Proposals that nobody learned: selective search as R-CNN and Fast R-CNN ask for it, image by image.

Girshick et al., Rich feature hierarchies (2014), section 2.1; Girshick, Fast R-CNN (2015), section 2.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from byhand.errors import ShapeError
from byhand.models.detection_images import enlarged, moved_boxes, size_of
from byhand.models.linear import check_counts
from byhand.ops.selective_search import selective_search


class SelectiveSearch(nn.Module):
    """Boxes that may hold an object, float (3, H, W) in 0..1 -> (N, 4) float32, (x1, y1, x2, y2) in its pixels.

    There is nothing to learn, and the boxes follow from the image alone. They are remembered by the image's bytes, as
    a search takes longer than a step of training: an epoch over the same images searches once. Copies of the network
    (those by hand, a running mean) share the memory; no file holds it.

    Args:
        limit: the largest number of boxes; the first are kept, which tend to be larger.
        scales, sigma, min_size: of the first regions; see ``byhand.ops.selective_search``.
        longest: pixels; an image with a longer side is searched in a smaller size, as R-CNN's code does with 500.
        remember: the largest number of images whose boxes are kept; those that come later are searched every time.

    ``recalls``: with False every image is searched, so that the search can be timed.
    """

    def __init__(
        self,
        limit: int = 2000,
        scales: Sequence[float] = (25.0, 50.0, 100.0),
        sigma: float = 0.8,
        min_size: int = 20,
        longest: int = 500,
        remember: int = 4096,
    ) -> None:
        super().__init__()
        check_counts(limit=limit, min_size=min_size, longest=longest, remember=remember)
        self.limit, self.scales, self.sigma, self.min_size = limit, tuple(scales), sigma, min_size
        self.longest, self.memory, self.recalls = longest, Memory(remember), True

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ShapeError(
                f"image is {image.dtype} of shape {tuple(image.shape)}; selective search takes float (3, H, W) in 0..1"
            )
        pixels = to_bytes(image)
        key = (tuple(pixels.shape), hashlib.sha1(pixels.numpy().tobytes(), usedforsecurity=False).digest())
        boxes = self.memory.found.get(key) if self.recalls else None
        if boxes is None:
            boxes = self.searched(image, pixels)
            self.memory.keep(key, boxes)
        return boxes.to(image.device, copy=True)

    def searched(self, image: Tensor, pixels: Tensor) -> Tensor:
        """The boxes, which no memory was asked for; ``pixels`` are those of the image in bytes."""
        old = size_of(image)
        scale = self.longest / max(old)
        new = old
        if scale < 1:
            new = max(1, round(old[0] * scale)), max(1, round(old[1] * scale))
            pixels = to_bytes(enlarged(image, new, mode="bilinear"))
        boxes = selective_search(pixels, self.scales, self.sigma, self.min_size)[: self.limit]
        return moved_boxes(boxes, new, old) if new != old else boxes

    def extra_repr(self) -> str:
        return f"limit={self.limit}, scales={self.scales}, sigma={self.sigma}, min_size={self.min_size}"


class Memory:
    """The boxes of images by their bytes, at most those of ``most`` images; a copy of a network has the same one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[tuple, Tensor] = {}

    def keep(self, key: tuple, boxes: Tensor) -> None:
        if len(self.found) < self.most:
            self.found[key] = boxes

    def __deepcopy__(self, memo: dict) -> "Memory":
        return self


def to_bytes(image: Tensor) -> Tensor:
    """The image in 0..1 as uint8, on the CPU."""
    return (image.detach().to("cpu", torch.float32) * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
