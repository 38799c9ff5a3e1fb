"""One image on its way through a detector, step by step, by the detector's own code and in the image's own pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from byhand.models.detection_images import ImageBatch, moved_boxes, size_of
from byhand.ops.pyramid import exponents_of, level_of
from byhand.ops.roi_align import num_samples, places, spans
from byhand.ops.roi_pool import windows_of
from byhand.training.detection import image_input


@dataclass(frozen=True)
class Seen:
    """An image as the data set holds it, uint8 (C, H, W), the batch that the detector makes of it, and its maps."""

    image: Tensor
    batch: ImageBatch
    maps: Mapping[str, Tensor]

    def there(self, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) of the image in the pixels of the batch."""
        return moved_boxes(boxes, size_of(self.image), self.batch.image_sizes[0])

    def back(self, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) of the batch in the pixels of the image."""
        return moved_boxes(boxes.detach(), self.batch.image_sizes[0], size_of(self.image)).cpu()


class Level(NamedTuple):
    """The anchors of one map: (height, width), the points (H W, 2) they lie around, and those of one point, (A, 4)."""

    grid: tuple[int, int]
    points: Tensor
    around: Tensor
    point: Tensor  # (2,), the one that those anchors lie around
    ratios: Tensor  # (A,) height / width of each in the pixels of the batch, which a very thin image is bent to


class Proposed(NamedTuple):
    """Boxes (N, 4) with their objectness, best first, and which of them are left after suppression, best first."""

    boxes: Tensor
    scores: Tensor
    left: Tensor


class Taught(NamedTuple):
    """What a stage learns of an image: boxes, (N, 4), the object of each, −1 for background; and of how many.

    ``counts``: all boxes that were looked at, those with an object, background, neither.
    """

    boxes: Tensor
    matched: Tensor
    counts: tuple[int, int, int, int]


class Regions(NamedTuple):
    """A box on the map that the second stage looks it up in, in pixels of the map, pixel i from i − ½ to i + ½."""

    box: Tensor  # (4,) the box times the scale, nothing rounded
    bins: Tensor  # (P · Q, 4) of pooling: x1, y1, x2, y2 around the whole pixels of each bin
    x: Tensor  # (Q, n) of align: where the samples lie
    y: Tensor  # (P, n)
    strength: Tensor  # (H, W): the mean over the channels of what the map holds, without its sign
    stride: int
    level: str


def look(network: Any, image: Tensor) -> Seen:
    """The image (C, H, W) as the detector takes it, and the maps of its backbone."""
    device = next(network.parameters()).device
    batch, _ = network.transform([image_input(image, device)])
    maps = network.backbone(batch.tensors)
    return Seen(image, batch, {"0": maps} if isinstance(maps, Tensor) else maps)


def anchors_of(network: Any, seen: Seen) -> list[Level]:
    """The anchors of each map, in the image's pixels; those drawn of one point are of the one nearest to its middle."""
    generator = network.rpn.anchor_generator
    maps = list(seen.maps.values())
    laid = generator(seen.batch.size, maps)
    anchors, sides = seen.back(laid), (laid[:, 2:] - laid[:, :2]).cpu()
    counts = [x.shape[2] * x.shape[3] * n for x, n in zip(maps, generator.num_anchors_per_location(), strict=True)]
    height, width = size_of(seen.image)
    found = []
    for x, some, side in zip(maps, anchors.split(counts), sides.split(counts), strict=True):
        cells = some.view(x.shape[2] * x.shape[3], -1, 4)
        points = (cells[:, 0, :2] + cells[:, 0, 2:]) / 2
        inside = (points <= torch.tensor([width, height])).all(1)  # beyond lies the padding
        nearest = int((points - torch.tensor([width / 2, height / 2])).square().sum(1).argmin())
        ratios = (side[:, 1] / side[:, 0])[: cells.shape[1]]  # the same at each point
        found.append(Level((x.shape[2], x.shape[3]), points[inside], cells[nearest], points[nearest], ratios))
    return found


def proposed(network: Any, seen: Seen) -> Proposed:
    """What the region proposal network says in evaluation, before and after suppression, in the image's pixels."""
    rpn = network.rpn
    (some,) = rpn.candidates(*rpn.scored(seen.batch, seen.maps), seen.batch.image_sizes, False)
    scores, order = some.scores.sort(descending=True, stable=True)
    left = rpn.survivors(some, False)
    return Proposed(seen.back(some.boxes[order]), scores.detach().cpu(), order.argsort()[left].cpu())


def taught(network: Any, seen: Seen, boxes: Tensor, labels: Tensor, generator: Generator) -> tuple[Taught, Taught]:
    """What both stages would learn of this image: the drawn anchors, and the drawn proposals, in the image's pixels.

    ``boxes`` of the objects in the image's pixels, ``labels`` from 1 on.
    """
    rpn, wanted = network.rpn, seen.there(boxes).to(seen.batch.tensors)
    target = {"boxes": wanted, "labels": labels.to(wanted.device)}
    logits, offsets, anchors, counts = rpn.scored(seen.batch, seen.maps)
    matched, positive, negative = rpn.assigned(anchors, wanted, generator)
    drawn = torch.cat([positive, negative])
    objects, ground = int((matched >= 0).sum()), int((matched == -1).sum())
    numbers = (len(anchors), objects, ground, len(anchors) - objects - ground)
    first = Taught(seen.back(anchors[drawn]), matched[drawn].cpu(), numbers)

    (some,) = rpn.candidates(logits, offsets, anchors, counts, seen.batch.image_sizes, True)
    proposals = some.boxes[rpn.survivors(some, True)]
    (sample,) = network.roi_heads.samples([proposals], [target], generator)
    # a sample keeps no account of those that it leaves out
    of_all = network.roi_heads.matched(torch.cat([proposals, wanted]), wanted)
    objects, ground = int((of_all >= 0).sum()), int((of_all == -1).sum())
    numbers = (len(of_all), objects, ground, len(of_all) - objects - ground)
    of_sample = torch.where(sample.labels > 0, sample.matched, -1)
    return first, Taught(seen.back(sample.boxes), of_sample.cpu(), numbers)


def regions_of(network: Any, seen: Seen, box: Tensor) -> Regions:
    """The bins of RoI pooling and the samples of RoI align for a box (4,) of the image, on the map that it belongs to.

    Both with as many bins as the detector's own head takes.
    """
    pool = network.roi_heads.box_roi_pool
    names = [name for name in seen.maps if name != "pool"]
    maps = [seen.maps[name] for name in names]
    exponents = exponents_of(maps, [seen.batch.size])
    moved = seen.there(box[None]).to(maps[0])
    level = 0
    if len(maps) > 1:
        scale = getattr(pool, "canonical_scale", 224)
        level = int(level_of(moved, exponents[0], exponents[-1], scale, 4)) - exponents[0]
    x, scale, bins = maps[level], 2.0 ** -exponents[level], int(pool.output_size)
    row = torch.cat([moved.new_zeros(1, 1), moved], 1)
    _, top, bottom, left, right = windows_of(row, (bins, bins), scale, x.shape).unbind(1)
    x1, y1, width, height = spans(row, scale, False)
    ratio = int(getattr(pool, "sampling_ratio", 2))
    across = places(x1, width, bins, num_samples(width, bins, ratio))[0]
    down = places(y1, height, bins, num_samples(height, bins, ratio))[0]
    return Regions(
        (moved[0] * scale).cpu(),
        torch.stack([left, top, right, bottom], 1).cpu() - 0.5,
        across.cpu(),
        down.cpu(),
        x[0].abs().mean(0).cpu(),
        2 ** exponents[level],
        names[level],
    )
