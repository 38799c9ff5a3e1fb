"""Selective search: proposals from grouping what looks alike; what R-CNN starts from.

Uijlings, van de Sande, Gevers & Smeulders (2013), Selective Search for Object Recognition. An image is first cut into
small regions (Felzenszwalb & Huttenlocher, 2004; scikit-image's). Then the two neighbours that are most alike become
one region, again and again, until one is left. The box around every region that there ever was is a proposal, so
objects of every size are among them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from byhand.errors import ByhandError, SettingsError, ShapeError

COLOUR_BINS, TEXTURE_BINS, DIRECTIONS = 25, 10, 8
MEASURES = ("colour", "texture", "size", "fill")


def selective_search(
    image: Tensor,
    scales: Sequence[float] = (25.0, 50.0, 100.0),
    sigma: float = 0.8,
    min_size: int = 20,
    measures: Sequence[str] = MEASURES,
) -> Tensor:
    """Boxes around regions that may be objects, uint8 (3, H, W) -> (N, 4) float32, (x1, y1, x2, y2) in pixels.

    One hierarchy of regions for each of ``scales`` (the larger, the larger its first regions; ``sigma`` blurs before,
    and regions below ``min_size`` pixels join a neighbour), from its top down, the hierarchies in turn: the earlier
    boxes tend to be larger. No box occurs twice. How alike two regions are is the sum of ``measures``, each in 0..1:

        colour   Σ min(c_i, c_j), histograms of hue, saturation and value with 25 bins each,
        texture  Σ min(t_i, t_j), histograms of the gradients in 8 directions with 10 bins a colour and direction,
        size     1 − (size_i + size_j) / size of the image: small regions first, evenly everywhere,
        fill     1 − (box around both − size_i − size_j) / size of the image: regions that fit into each other first.

    On blood cells (BCCD, every sixth test image, at 320 × 240) 143 of 151 objects overlap one of 903 boxes an image
    with IoU ≥ 0.5, in 0.5 s an image on one core of an AMD EPYC; with the scales 50 and 100 alone 121 do, of 380 boxes.

    Raises ShapeError for anything but uint8 (3, H, W), SettingsError for unknown measures, and ByhandError where
    scikit-image is not installed. Deviations: the paper adds colour spaces and orders boxes by chance within levels.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
        raise ShapeError(f"image is {image.dtype} of shape {tuple(image.shape)}; expected uint8 (3, H, W)")
    unknown = [name for name in measures if name not in MEASURES]
    if unknown or not measures:
        raise SettingsError(f"measures={tuple(measures)} must be some of {', '.join(MEASURES)}")
    hierarchies = []
    colours = image.to("cpu").float() / 255
    appearance = [histograms for name, histograms in (("colour", _colour), ("texture", _texture)) if name in measures]
    bins = [histograms(colours) for histograms in appearance]
    for scale in scales:
        labels = segments(image, scale, sigma, min_size)
        hierarchies.append(_hierarchy(labels, [_histogram(labels, *one) for one in bins], measures))
    in_turn = [
        (place, turn, box) for turn, boxes in enumerate(hierarchies) for place, box in enumerate(reversed(boxes))
    ]
    found = dict.fromkeys(box for _, _, box in sorted(in_turn))  # in order, each once
    return torch.tensor(list(found), dtype=torch.float32, device=image.device).reshape(-1, 4)


def segments(image: Tensor, scale: float, sigma: float, min_size: int) -> Tensor:
    """The number of the region that each pixel belongs to, uint8 (3, H, W) -> int64 (H, W), from 0 on."""
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise ByhandError(
            f'selective search needs scikit-image for its first regions ({error}); pip install "byhand[detection]"'
        ) from None
    height, width = image.shape[1:]
    if min(height, width) == 1:  # scikit-image wants neighbours in both directions
        image = image.expand(3, max(2, height), max(2, width))
    pixels = image.permute(1, 2, 0).cpu().contiguous().numpy()
    labels = torch.from_numpy(felzenszwalb(pixels, scale=scale, sigma=sigma, min_size=min_size))
    return labels[:height, :width].long()


def _hierarchy(labels: Tensor, appearance: list[Tensor], measures: Sequence[str]) -> list[tuple[float, ...]]:
    """The box of each first region, then of each merged one in the order of merging.

    A merged region takes the row of one of the two; the other's row falls out. ``likeness`` holds −∞ for regions that
    do not touch, and the largest of each row is kept beside it, so that a merge costs a few rows, not a whole matrix.
    Rows are of few numbers, where numpy takes a fraction of the time that torch needs to begin: it does all but the
    sums, whose rounding would be another one there.
    """
    whole, R = labels.numel(), int(labels.max()) + 1
    likes = (torch.cat(appearance, 1) if appearance else torch.zeros(R, 0)).numpy()
    size = np.bincount(labels.flatten().numpy(), minlength=R).astype(np.float32)
    boxes = _boxes(labels, R).numpy()
    touches = np.zeros((R, R), dtype=bool)
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        touches[a.numpy(), b.numpy()] = touches[b.numpy(), a.numpy()] = True
    np.fill_diagonal(touches, False)
    near = [set(row.nonzero()[0].tolist()) for row in touches]

    def similarity(i: int | np.ndarray, others: np.ndarray) -> np.ndarray:
        total = torch.from_numpy(np.minimum(likes[others], likes[i])).sum(1).numpy()
        both = size[others] + size[i]
        if "size" in measures:
            total += 1 - both / whole
        if "fill" in measures:
            sides = np.maximum(boxes[others, 2:], boxes[i, 2:]) - np.minimum(boxes[others, :2], boxes[i, :2])
            total += 1 - (sides.prod(-1) - both) / whole
        return total

    likeness = np.full((R, R), -np.inf, dtype=np.float32)
    pairs = touches.nonzero()
    likeness[pairs] = similarity(*pairs)
    largest = likeness.max(1)
    made = [tuple(box) for box in boxes.tolist()]
    for _ in range(R - 1):
        i = int(largest.argmax())
        j = int(likeness[i].argmax())
        total = size[i] + size[j]
        likes[i] = (size[i] * likes[i] + size[j] * likes[j]) / total  # the histogram of both regions' pixels
        size[i] = total
        x1, y1, x2, y2 = boxes[i].tolist()
        x3, y3, x4, y4 = boxes[j].tolist()
        made.append((min(x1, x3), min(y1, y3), max(x2, x4), max(y2, y4)))
        boxes[i] = made[-1]
        for k in near[j]:
            near[k].discard(j)
            near[k].add(i)
        near[i] = (near[i] | near[j]) - {i, j}
        likeness[j], likeness[:, j] = -np.inf, -np.inf
        largest[j] = -np.inf
        if not near[i]:
            continue  # that was the last one
        others = np.array(sorted(near[i]))
        likeness[i, others] = likeness[others, i] = similarity(i, others)
        largest[others], largest[i] = likeness[others].max(1), likeness[i].max()
    return made


def _boxes(labels: Tensor, count: int) -> Tensor:
    """The box around each region, (H, W) -> (count, 4); a box ends where its last pixel ends."""
    ends = []
    for axis in (1, 0):
        places = torch.arange(labels.shape[axis])
        present = torch.zeros(count, len(places), dtype=torch.bool)
        present[labels.flatten(), (places[:, None] if axis == 0 else places).expand(labels.shape).flatten()] = True
        ends.append((torch.where(present, places, len(places)).amin(1), torch.where(present, places + 1, 0).amax(1)))
    (x1, x2), (y1, y2) = ends
    return torch.stack([x1, y1, x2, y2], 1).float()


def _histogram(labels: Tensor, bins: Tensor, count: int) -> Tensor:
    """The share of each bin in each region, (H, W) and (K, H, W) in 0..count−1 -> (R, K · count), rows of sum 1."""
    R, K = int(labels.max()) + 1, len(bins)
    places = ((labels * K + torch.arange(K)[:, None, None]) * count + bins).flatten()
    counted = torch.zeros(R * K * count).scatter_add_(0, places, torch.ones(len(places))).view(R, K * count)
    return counted / counted.sum(1, keepdim=True)


def _colour(rgb: Tensor) -> tuple[Tensor, int]:
    """The bin of each pixel's hue, saturation and value, (3, H, W) -> (3, H, W) int64, and how many bins there are."""
    return _binned(hue_saturation_value(rgb), COLOUR_BINS), COLOUR_BINS


def hue_saturation_value(rgb: Tensor) -> Tensor:
    """Hue, saturation and value, each in 0..1, (3, H, W) in 0..1 -> the same; a grey has hue 0.

    Source: Smith (1978), Color gamut transform pairs.
    """
    r, g, b = rgb
    value = rgb.amax(0)
    span = value - rgb.amin(0)
    some = torch.where(span == 0, 1, span)
    hue = torch.where(value == g, 2 + (b - r) / some, 4 + (r - g) / some)  # from green, or from blue
    hue = torch.where(value == r, (g - b) / some % 6, hue) / 6
    return torch.stack([hue, span / torch.where(value == 0, 1, value), value])


def _texture(rgb: Tensor) -> tuple[Tensor, int]:
    """The bin of each pixel's gradient in 8 directions, (3, H, W) -> (24, H, W) int64, and how many bins there are.

    Derivatives of a Gaussian of σ = 1; what points backwards counts as 0 in that direction, and fully in the opposite.
    """
    reach = torch.arange(-3, 4, dtype=rgb.dtype)
    smooth = torch.exp(-reach * reach / 2)
    smooth /= smooth.sum()
    slope = reach * smooth  # the derivative, turned over as a correlation wants it
    gx, gy = _along(_along(rgb, slope, 2), smooth, 1), _along(_along(rgb, slope, 1), smooth, 2)
    angles = [2 * math.pi * k / DIRECTIONS for k in range(DIRECTIONS)]
    gradients = torch.cat([(math.cos(a) * gx + math.sin(a) * gy).clamp(min=0) for a in angles])
    # A sharp edge from 0 to 1 has the slope 1 / √(2 π) in the middle, which is the largest there can be but for noise.
    return _binned(gradients * math.sqrt(2 * math.pi), TEXTURE_BINS), TEXTURE_BINS


def _binned(values: Tensor, count: int) -> Tensor:
    return (values * count).long().clamp(0, count - 1)


def _along(x: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """The correlation along one axis; beyond the edge the last pixel goes on."""
    places = torch.arange(x.shape[axis])
    middle = len(kernel) // 2
    return sum(
        (
            weight * x.index_select(axis, (places + u - middle).clamp(0, len(places) - 1))
            for u, weight in enumerate(kernel.tolist())
        ),
        torch.zeros_like(x),
    )
