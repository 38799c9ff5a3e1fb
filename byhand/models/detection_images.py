"""Images and targets on their way into a detector, and boxes and masks on their way out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from byhand.errors import SettingsError, ShapeError, TargetError
from byhand.models.linear import check_counts
from byhand.ops.masks import paste_masks_in_image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Target = Mapping[str, Tensor]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class ImageBatch:
    """Images of several sizes in one tensor (B, C, H, W), each in the upper left corner, and their own sizes."""

    tensors: Tensor
    image_sizes: list[Size]

    @property
    def size(self) -> Size:
        """Of the whole, padding included."""
        return int(self.tensors.shape[2]), int(self.tensors.shape[3])


class DetectionTransform(nn.Module):
    """Images (C, H, W) in 0..1 -> one ImageBatch, and targets in its pixels; as ``GeneralizedRCNNTransform`` has it.

    In this order, as in torchvision: normalisation (x − mean) / std; bilinear resizing by min(min_size / shorter side,
    max_size / longer side), to the whole pixels below, where the step between samples is that of the whole sizes
    (``align_corners=False``, no smoothing); zeros at the right and below, to multiples of ``size_divisible``. Boxes
    move by the quotients of the whole sizes, masks by nearest pixels. With several ``min_size`` training draws one for
    each image and evaluation takes the last.

    Deviations: a side keeps at least one pixel, where torchvision fails on images far longer than wide; the draw takes
    the detector's generator.
    """

    def __init__(
        self,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        size_divisible: int = 32,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        check_counts(min_size=min(self.min_size, default=0), max_size=max_size, size_divisible=size_divisible)
        if len(image_mean) != len(image_std) or min(image_std, default=0) <= 0:
            raise SettingsError(
                f"image_mean={tuple(image_mean)} and image_std={tuple(image_std)} must be one number a channel each, "
                "the latter above 0"
            )
        self.max_size, self.size_divisible = max_size, size_divisible
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, generator: Generator | None = None
    ) -> tuple[ImageBatch, list[dict[str, Tensor]] | None]:
        resized, moved = [], []
        for i, image in enumerate(images):
            old = size_of(image)
            new = self.size_for(*old, generator)
            resized.append(enlarged(self.normalized(image), new, mode="bilinear"))
            if targets is not None:
                moved.append(moved_target(targets[i], old, new))
        return self.batched(resized), moved if targets is not None else None

    def check_images(self, images: Sequence[Tensor]) -> None:
        """None, if there is one or more and a detector can look at each; else a ShapeError."""
        if not len(images):
            raise ShapeError("images is an empty list; a detector takes at least one")
        for i, image in enumerate(images):
            self.check_image(i, image)

    def check_image(self, i: int, image: Tensor) -> None:
        """None, if the image is one that a detector can look at; else a ShapeError that says what to do."""
        channels = len(self.image_mean)
        if not isinstance(image, Tensor) or image.ndim != 3 or 0 in image.shape:
            found = f"has shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"is a {type(image).__name__}"
            raise ShapeError(f"image {i} {found}; a detector takes a list of tensors ({channels}, height, width)")
        if image.shape[0] != channels:
            hint = {1: "repeat the grey one: image.expand(3, -1, -1)", 4: "drop the alpha channel: image[:3]"}
            raise ShapeError(
                f"image {i} has {image.shape[0]} channels, {tuple(image.shape)}, expected {channels}; "
                f"{hint.get(image.shape[0], 'channels come first: image.permute(2, 0, 1)')}"
            )
        if not image.is_floating_point():
            raise ShapeError(f"image {i} is of {image.dtype}, expected floating point in 0..1; use image.float() / 255")

    def size_for(self, height: int, width: int, generator: Generator | None) -> Size:
        choice = len(self.min_size) - 1
        if self.training and choice:
            choice = int(torch.randint(len(self.min_size), (), generator=generator))
        # This very order of operations: 800 / 427 · 427 can be 799.99..., and then 799 pixels.
        scale = min(self.min_size[choice] / min(height, width), self.max_size / max(height, width))
        return max(1, int(height * scale)), max(1, int(width * scale))

    def normalized(self, image: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, dtype=image.dtype, device=image.device)[:, None, None]
            for values in (self.image_mean, self.image_std)
        )
        return (image - mean) / std

    def batched(self, images: Sequence[Tensor]) -> ImageBatch:
        sizes = [size_of(image) for image in images]
        height, width = (
            math.ceil(max(sides) / self.size_divisible) * self.size_divisible for sides in zip(*sizes, strict=True)
        )
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for place, image, (h, w) in zip(batch, images, sizes, strict=True):
            place[:, :h, :w] = image
        return ImageBatch(batch, sizes)

    def restored(self, found: list[dict[str, Tensor]], sizes: list[Size], wanted: list[Size]) -> list[dict]:
        """The detections in the pixels of the images as they were given; masks (N, 1, M, M) at their places."""
        for detections, size, original in zip(found, sizes, wanted, strict=True):
            detections["boxes"] = moved_boxes(detections["boxes"], size, original)
            if "masks" in detections:
                detections["masks"] = paste_masks_in_image(detections["masks"], detections["boxes"], original)
        return found

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}, mean={self.image_mean}, std={self.image_std}"


def size_of(image: Tensor) -> Size:
    return int(image.shape[-2]), int(image.shape[-1])


def enlarged(image: Tensor, size: Size, mode: str) -> Tensor:
    """The image (C, H, W) in another size; one that has it already stays as it is, to the last bit."""
    if size_of(image) == size or not len(image):
        return image if size_of(image) == size else image.new_zeros(len(image), *size)
    align = {"align_corners": False} if mode == "bilinear" else {}
    return nn.functional.interpolate(image[None], size=size, mode=mode, **align)[0]


def moved_boxes(boxes: Tensor, old: Size, new: Size) -> Tensor:
    """Boxes (N, 4) of an image of size ``old`` in the pixels of one of size ``new``."""
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    # quotients in float32, as torchvision rounds them
    down, across = torch.tensor(ratios, dtype=torch.float32, device=boxes.device).to(boxes.dtype)
    return boxes * torch.stack([across, down, across, down])


def moved_target(target: Target, old: Size, new: Size) -> dict[str, Tensor]:
    moved = dict(target)
    moved["boxes"] = moved_boxes(target["boxes"].reshape(-1, 4), old, new)
    if "masks" in target:
        moved["masks"] = enlarged(target["masks"].float(), new, mode="nearest")
    return moved


def check_classes(num_classes: int) -> None:
    """None, if there is a class beside the background; else a SettingsError."""
    check_counts(num_classes=num_classes)
    if num_classes < 2:
        raise SettingsError(f"num_classes={num_classes} must be at least 2: the background is class 0")


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Target] | None, num_classes: int, masks: bool
) -> Sequence[Target]:
    """The targets, if a detector can learn from them; else a TargetError that names the image and the box.

    For each image ``boxes`` (N, 4), (x1, y1, x2, y2) in its pixels with x1 < x2 and y1 < y2, and ``labels`` (N,) of
    1..num_classes−1, for 0 is the background; with ``masks`` also those, (N, H, W), 1 inside of the object. N may be 0.
    """
    if targets is None or len(targets) != len(images):
        found = "no targets" if targets is None else f"{len(targets)} targets"
        raise TargetError(f"{found} for {len(images)} images; losses need a dict with boxes and labels for each image")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        missing = [name for name in ("boxes", "labels", *["masks"] * masks) if name not in target]
        if missing:
            raise TargetError(f"the target of image {i} has no {missing[0]!r}, but {', '.join(target) or 'nothing'}")
        boxes, labels = target["boxes"], target["labels"]
        if not (boxes.is_floating_point() and (boxes.shape == (len(boxes), 4) or not boxes.numel())):
            raise TargetError(
                f"boxes of image {i} have shape {tuple(boxes.shape)} and dtype {boxes.dtype}; expected floating-point "
                "(N, 4), rows (x1, y1, x2, y2)"
            )
        boxes = boxes.reshape(-1, 4)
        good = torch.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        if not good.all():
            k = int(good.to(torch.int64).argmin())
            raise TargetError(
                f"box {k} of image {i} is {boxes[k].tolist()}; x1 < x2 and y1 < y2 must hold, in pixels; correct it or "
                "leave it out"
            )
        if labels.shape != (len(boxes),) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise TargetError(
                f"labels of image {i} have shape {tuple(labels.shape)} and dtype {labels.dtype}; expected int64 of "
                f"({len(boxes)},), one a box"
            )
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise TargetError(
                f"labels of image {i} run from {int(labels.min())} to {int(labels.max())}; expected "
                f"1..{num_classes - 1}: 0 is the background, and num_classes={num_classes} counts it"
            )
        if masks and target["masks"].shape != (len(boxes), *image.shape[-2:]):
            raise TargetError(
                f"masks of image {i} have shape {tuple(target['masks'].shape)}; expected "
                f"{(len(boxes), *image.shape[-2:])}, one of the image's size for each box"
            )
    return targets
