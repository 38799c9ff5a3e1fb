"""Selective search: its measures against a library or a count, its hierarchy against a slow one of pixel sets."""

import math
import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from against_torch import assert_refused
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2hsv

from byhand import ops
from byhand.errors import ByhandError, SettingsError, ShapeError
from byhand.ops.selective_search import _boxes, _hierarchy, _histogram, _texture, hue_saturation_value, segments

BCCD = Path(os.environ.get("BYHAND_DATA", "")) / "bccd" / "BCCD"


def noise(height, width, seed=0):
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def scene():
    """Two rectangles and a disc, each of one colour, on a ground of another; (image, their boxes)."""
    image = torch.tensor([40, 90, 60], dtype=torch.uint8)[:, None, None].repeat(1, 96, 128)
    image[:, 10:40, 12:50] = torch.tensor([230, 40, 40], dtype=torch.uint8)[:, None, None]
    image[:, 60:90, 20:110] = torch.tensor([240, 240, 250], dtype=torch.uint8)[:, None, None]
    y, x = torch.arange(96)[:, None], torch.arange(128)
    disc = (y - 30) ** 2 + (x - 90) ** 2 < 18**2  # 17 pixels each way from its middle
    image[:, disc] = torch.tensor([30, 60, 220], dtype=torch.uint8)[:, None]
    return image, torch.tensor([[12, 10, 50, 40], [20, 60, 110, 90], [73, 13, 108, 48.0]])


def test_the_objects_of_a_plain_scene_are_among_few_boxes():
    image, objects = scene()
    boxes = ops.selective_search(image)
    assert boxes.dtype == torch.float32
    assert len(boxes) < 150
    assert ops.box_iou(objects, boxes).amax(1).min() > 0.75  # the blurred rim of a few pixels may count


def test_boxes_are_unlike_inside_the_image_and_begin_with_the_whole():
    image = noise(40, 56)
    boxes = ops.selective_search(image, scales=(20, 60), min_size=5)
    assert boxes[0].tolist() == [0, 0, 56, 40]
    assert len(set(map(tuple, boxes.tolist()))) == len(boxes) > 50
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2:] <= torch.tensor([56, 40])).all()
    assert torch.equal(ops.selective_search(image, scales=(20, 60), min_size=5), boxes)
    assert torch.equal(image, noise(40, 56))
    one, other = (ops.selective_search(image, scales=(scale,), min_size=5) for scale in (20, 60))
    assert set(map(tuple, boxes.tolist())) == set(map(tuple, [*one.tolist(), *other.tolist()]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1), (2, 2), (24, 24)])
def test_an_image_of_one_colour_is_one_box(height, width):
    image = torch.full((3, height, width), 128, dtype=torch.uint8)
    assert ops.selective_search(image).tolist() == [[0, 0, width, height]]


def test_hue_saturation_and_value_are_scikit_images():
    image = noise(30, 30).float() / 255
    image[:, 0], image[:, 1, :3] = image[0, 0], 0  # greys and black
    expected = torch.from_numpy(rgb2hsv(image.permute(1, 2, 0).double().numpy())).permute(2, 0, 1)
    torch.testing.assert_close(hue_saturation_value(image), expected.float(), rtol=0, atol=1e-5)


def test_texture_bins_the_derivatives_of_scipys_gaussian():
    image = noise(20, 25, seed=1).float() / 255
    bins, count = _texture(image)
    assert bins.shape == (24, 20, 25)
    places = []
    for k in range(8):
        angle = 2 * math.pi * k / 8
        for channel in image.double().numpy():
            dy = gaussian_filter(channel, 1, order=(1, 0), mode="nearest", truncate=3)
            dx = gaussian_filter(channel, 1, order=(0, 1), mode="nearest", truncate=3)
            places.append(count * math.sqrt(2 * math.pi) * (math.cos(angle) * dx + math.sin(angle) * dy))
    exact = torch.from_numpy(np.stack(places))
    clear = (exact - exact.round()).abs() > 1e-3  # not so near to the end of a bin that rounding decides
    assert clear.float().mean() > 0.9
    assert torch.equal(bins[clear], exact.floor().clamp(0, count - 1).long()[clear])


def test_histograms_and_boxes_are_those_of_counting_pixels():
    labels = torch.randint(0, 5, (12, 9), generator=torch.Generator().manual_seed(0))
    labels[0, :5] = torch.arange(5)  # each occurs
    bins = torch.randint(0, 4, (2, 12, 9), generator=torch.Generator().manual_seed(1))
    histogram, boxes = _histogram(labels, bins, 4), _boxes(labels, 5)
    for region in range(5):
        inside = labels == region
        counts = [int((bins[k][inside] == b).sum()) for k in range(2) for b in range(4)]
        assert histogram[region].tolist() == pytest.approx([c / (2 * int(inside.sum())) for c in counts])
        y, x = np.nonzero(inside.numpy())
        assert boxes[region].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def slow_hierarchy(labels, bins, measures):
    """The paper's algorithm on sets of pixels: everything counted anew for each pair in each round."""
    H, W = labels.shape
    regions = [{(y, x) for y in range(H) for x in range(W) if labels[y, x] == r} for r in range(int(labels.max()) + 1)]

    def box(pixels):
        rows, columns = [y for y, _ in pixels], [x for _, x in pixels]
        return min(columns), min(rows), max(columns) + 1, max(rows) + 1

    def touch(a, b):
        return any((y + dy, x + dx) in b for y, x in a for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))

    def alike(a, b):
        total = 0.0
        for name, (values, count) in bins.items():
            if name in measures:
                shares = []
                for region in (a, b):
                    share = np.zeros((len(values), count))
                    for y, x in region:
                        for k, value in enumerate(values[:, y, x].tolist()):
                            share[k, value] += 1 / (len(region) * len(values))
                    shares.append(share)
                total += np.minimum(*shares).sum()
        if "size" in measures:
            total += 1 - (len(a) + len(b)) / (H * W)
        if "fill" in measures:
            x1, y1, x2, y2 = box(a | b)
            total += 1 - ((x2 - x1) * (y2 - y1) - len(a) - len(b)) / (H * W)
        return total

    found = [box(region) for region in regions]
    while len(regions) > 1:
        pairs = [(a, b) for i, a in enumerate(regions) for b in regions[:i] if touch(a, b)]
        a, b = max(pairs, key=lambda pair: alike(*pair))
        regions = [region for region in regions if region not in (a, b)] + [a | b]
        found.append(box(a | b))
    return found


@pytest.mark.parametrize(
    "measures", [("colour", "texture", "size", "fill"), ("colour", "texture"), ("texture", "size", "fill"), ("colour",)]
)
def test_regions_grow_together_as_in_the_slow_version(measures):
    generator = torch.Generator().manual_seed(4)
    # 12 regions: the nearest of random points; random bins, of which no two regions have the same shares
    points = torch.rand(12, 2, generator=generator) * torch.tensor([14, 17])
    y, x = torch.meshgrid(torch.arange(14), torch.arange(17), indexing="ij")
    distance = (torch.stack([y, x], -1)[..., None, :] - points).square().sum(-1)
    labels = distance.argmin(-1)
    assert len(labels.unique()) == 12
    bins = {
        "colour": (torch.randint(0, 6, (3, 14, 17), generator=generator), 6),
        "texture": (torch.randint(0, 4, (5, 14, 17), generator=generator), 4),
    }
    appearance = [_histogram(labels, *bins[name]) for name in ("colour", "texture") if name in measures]
    mine = _hierarchy(labels, appearance, measures)
    assert mine == slow_hierarchy(labels, bins, measures)
    assert len(mine) == 2 * 12 - 1


@pytest.mark.skipif(not BCCD.is_dir(), reason="BCCD is not in $BYHAND_DATA")
def test_most_blood_cells_are_found():
    found = total = 0
    for name in ("BloodImage_00007", "BloodImage_00112", "BloodImage_00222"):
        with Image.open(BCCD / "JPEGImages" / f"{name}.jpg") as file:
            image = torch.from_numpy(np.array(file.convert("RGB").resize((320, 240)))).permute(2, 0, 1)
        corners = [
            [float(box.findtext(key)) / 2 for key in ("xmin", "ymin", "xmax", "ymax")]  # drawn at 640 × 480
            for box in ElementTree.parse(BCCD / "Annotations" / f"{name}.xml").iter("bndbox")
        ]
        best = ops.box_iou(torch.tensor(corners), ops.selective_search(image)).amax(1)
        found, total = found + int((best >= 0.5).sum()), total + len(best)
    assert total > 20
    assert found / total > 0.8


def test_what_is_no_image_is_refused_and_what_is_missing_is_named(monkeypatch):
    image = noise(8, 8)
    assert_refused(ShapeError, lambda: ops.selective_search(image.float()), "float32", (3, 8, 8))
    assert_refused(ShapeError, lambda: ops.selective_search(image[:1]), (1, 8, 8))
    assert_refused(ShapeError, lambda: ops.selective_search(image[:, :0]), (3, 0, 8))
    assert_refused(SettingsError, lambda: ops.selective_search(image, measures=("colour", "taste")), "taste", "texture")
    assert_refused(SettingsError, lambda: ops.selective_search(image, measures=()), "()")
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    assert_refused(ByhandError, lambda: segments(image, 100, 0.8, 20), 'pip install "byhand[detection]"')
