"""Average precision by COCO's rules equals pycocotools', and by Pascal VOC's rules a direct reading of them."""

import itertools
import math
import xml.etree.ElementTree as ElementTree
from fractions import Fraction

import numpy as np
import pytest
import torch
from against_pycocotools import pycocotools_verdict
from against_torch import assert_refused

from byhand.errors import DataError, SettingsError, ShapeError, TargetError, UnknownName
from byhand.ops import (
    Detections,
    Objects,
    coco_average_precision,
    encode_mask,
    encode_polygons,
    mask_area,
    mask_box,
    voc_average_precision,
)
from byhand.ops import coco_precision as coco

NAMES = ("cat", "dog", "bird", "zebra")  # no test image holds a zebra
CELLS = ("Platelets", "RBC", "WBC")


def uniform(generator, low, high, *shape):
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def on_grid(boxes):
    """Boxes at quarters of a pixel: width = x2 − x1 is exact, so that a tie is one for both."""
    return (boxes * 4).round() / 4


def some_boxes(generator, n, width=640, height=480):
    """Boxes of all three of COCO's sizes."""
    sides = torch.exp(uniform(generator, math.log(6), math.log(300), n, 2))
    corner = uniform(generator, 0, 1, n, 2) * (torch.tensor([width, height]) - sides).clamp(min=0)
    return on_grid(torch.cat([corner, corner + sides], 1))


def jittered(generator, boxes, amount):
    """The same boxes with every edge moved by about that share of their sides."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + amount * sides * torch.randn(boxes.shape, generator=generator, dtype=torch.float64)
    return on_grid(torch.cat([torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])], 1))


def flags(generator, n, share):
    return torch.rand(n, generator=generator) < share


def some_images(seed, num_images=8, most_objects=12, most_detections=30, levels=6):
    """Truth and detections with all that is odd: empty images, crowds, ignored objects, equal scores, doubles."""
    generator = torch.Generator().manual_seed(seed)

    def number(most):
        return int(torch.randint(0, most + 1, (1,), generator=generator))

    truth, detections = [], []
    for i in range(num_images):
        n = 0 if i % 5 == 3 else number(most_objects)
        boxes = some_boxes(generator, n)
        if n > 3:
            boxes[1] = boxes[0]  # equal overlaps
            boxes[2] = jittered(generator, boxes[:1], 0.05)[0]
        labels = torch.randint(0, 3, (n,), generator=generator)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) * uniform(generator, 0.4, 1, n)
        truth.append(Objects(boxes, labels, areas, flags(generator, n, 0.15), flags(generator, n, 0.15)))

        m = 0 if i % 5 == 4 else number(most_detections)
        near = torch.randint(0, n, (m,), generator=generator) if n else torch.zeros(0, dtype=torch.int64)
        found = jittered(generator, boxes[near], 0.12) if n else some_boxes(generator, m)
        guessed = torch.randint(0, 4, (m,), generator=generator)
        kept = flags(generator, m, 0.8) if n else torch.zeros(m, dtype=torch.bool)
        found_labels = torch.where(kept, labels[near], guessed) if n else guessed
        scores = torch.randint(0, levels, (m,), generator=generator) / levels
        detections.append(Detections(found, scores, found_labels))
    return truth, detections


def as_they_have(values):
    """Ours as pycocotools writes it."""
    return np.nan_to_num(values.numpy(), nan=-1.0)


def assert_like_pycocotools(truth, detections, names=NAMES, masks=False):
    mine = coco_average_precision(truth, detections, names, masks)
    theirs = pycocotools_verdict(truth, detections, names, masks)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(as_they_have(getattr(mine, name)), theirs.eval[name], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        as_they_have(torch.tensor(list(mine.summary().values()))), theirs.stats, rtol=0, atol=1e-6
    )
    for k, each in enumerate(mine.per_class().values()):
        of_class = theirs.eval["precision"][:, :, k, 0, -1]
        np.testing.assert_allclose(np.nan_to_num(each["AP"], nan=-1), of_class.mean(), rtol=0, atol=1e-6)
    return mine


def test_the_thresholds_and_recalls_are_the_numbers_of_numpys_linspace():
    np.testing.assert_array_equal(coco.IOU_THRESHOLDS, np.linspace(0.5, 0.95, 10))
    np.testing.assert_array_equal(coco.RECALLS, np.linspace(0, 1, 101))


@pytest.mark.parametrize("seed", range(40))
def test_coco_precision_of_boxes_equals_pycocotools_on_random_images(seed):
    mine = assert_like_pycocotools(*some_images(seed))
    assert "zebra" in mine.absent


@pytest.mark.parametrize("seed", range(3))
def test_coco_precision_equals_pycocotools_with_more_than_a_hundred_detections_an_image(seed):
    truth, detections = some_images(100 + seed, num_images=4, most_objects=40, most_detections=900, levels=50)
    surest = max(int(torch.bincount(found.labels, minlength=1).max()) for found in detections if len(found.labels))
    assert surest > 100
    assert_like_pycocotools(truth, detections)


def test_coco_precision_equals_pycocotools_where_every_recall_is_met_exactly():
    # 100 objects, each found: whether 57/100 reaches the recall 57 · 0.01 hangs on the last bit
    boxes = torch.arange(100).double()[:, None] * 20 + torch.tensor([0, 0, 16, 16])
    truth = [Objects(boxes, torch.zeros(100, dtype=torch.int64))]
    wrong = torch.arange(100)[:, None] * 20 + torch.tensor([0, 100, 16, 116])
    scores = torch.linspace(1, 0.1, 200, dtype=torch.float64)
    both = torch.stack([boxes, wrong.double()], 1).view(200, 4)
    parts = [Detections(both[i::2], scores[i::2], torch.zeros(100, dtype=torch.int64)) for i in range(2)]
    assert_like_pycocotools([truth[0], Objects(boxes[:0], torch.zeros(0, dtype=torch.int64))], parts, ("thing",))


def test_coco_precision_equals_pycocotools_where_overlaps_meet_the_threshold_exactly():
    # widths 10..20 in a box of 20: IoU 0.5, 0.55, ..., 1
    widths = torch.arange(10, 21).double()
    found = torch.stack([torch.zeros(11), torch.zeros(11), widths, torch.full((11,), 10.0)], 1).double()
    for w in range(11):
        truth = [Objects(torch.tensor([[0.0, 0, 20, 10]]), torch.tensor([0]))]
        one = [Detections(found[w : w + 1], torch.tensor([0.5]), torch.tensor([0]))]
        assert_like_pycocotools(truth, one, ("thing",))


def polygon(generator, box):
    """An outline of some points in a box; it may cross itself."""
    points = uniform(generator, 0, 1, 7, 2) * (box[2:] - box[:2]) + box[:2]
    return points.reshape(-1).tolist()


def with_masks(seed):
    """Random images, their boxes replaced by masks drawn from polygons; detections are the objects moved a little."""
    truth, detections = some_images(seed, num_images=6, most_objects=8, most_detections=20)
    generator = torch.Generator().manual_seed(seed)
    width, height = 160, 120
    images, found = [], []
    for i, (objects, guesses) in enumerate(zip(truth, detections, strict=True)):
        outlines = [[polygon(generator, box / 4) for _ in range(2)] for box in objects.boxes]
        masks = [encode_polygons(outline, height, width, compressed=i % 2 == 0) for outline in outlines]
        n, m = len(masks), len(guesses.labels)
        near = torch.randint(0, n, (m,), generator=generator).tolist() if n else [None] * m
        guessed = []
        for j, box in zip(near, guesses.boxes, strict=True):
            outline = [polygon(generator, box / 4)] if j is None else outlines[j]
            shift = float(uniform(generator, -2, 2))
            guessed.append(encode_polygons([[x + shift for x in part] for part in outline], height, width))
        labels = guesses.labels if not n else objects.labels[torch.tensor(near, dtype=torch.int64)]
        areas = None if i == 0 else objects.areas
        images.append(Objects(mask_box(masks), objects.labels, areas, objects.crowd, objects.ignored, masks))
        found.append(Detections(mask_box(guessed), guesses.scores, labels, guessed))
    return images, found


@pytest.mark.parametrize("seed", range(15))
def test_coco_precision_of_masks_equals_pycocotools_on_random_polygons(seed):
    truth, detections = with_masks(seed)
    told = [  # pycocotools needs the areas
        Objects(t.boxes, t.labels, mask_area(t.masks) if t.areas is None else t.areas, t.crowd, t.ignored, t.masks)
        for t in truth
    ]
    mine = coco_average_precision(truth, detections, NAMES, masks=True)
    same = assert_like_pycocotools(told, detections, masks=True)
    torch.testing.assert_close(mine.precision, same.precision, rtol=0, atol=0, equal_nan=True)


def test_the_random_images_reach_every_part_of_the_measures():
    # what the comparisons above are worth: none of the twelve numbers is trivial, and each rule changes some
    for images, masks in ((some_images, False), (with_masks, True)):
        values = [coco_average_precision(*images(seed), NAMES, masks).summary() for seed in range(8)]
        for name in coco.MEASURES:
            assert any(0.02 < value[name] < 0.98 for value in values), (name, masks)
    truth, detections = some_images(1)
    full = coco_average_precision(truth, detections, NAMES).summary()["AP"]
    for change in ({"crowd": None}, {"ignored": None}, {"areas": None, "crowd": None}):
        changed = [Objects(**{**vars(objects), **change}) for objects in truth]
        assert coco_average_precision(changed, detections, NAMES).summary()["AP"] != full


def bccd(folder):
    """The boxes (N, 4) and labels (N,) of each image of BCCD's annotations; bad boxes left out."""
    files = sorted((folder / "bccd" / "BCCD" / "Annotations").glob("*.xml"))
    if not files:
        pytest.skip("$BYHAND_DATA holds no BCCD")
    for file in files:
        boxes, labels = [], []
        for one in ElementTree.parse(file).iter("object"):
            box = [float(one.find(f"bndbox/{edge}").text) for edge in ("xmin", "ymin", "xmax", "ymax")]
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
                labels.append(CELLS.index(one.find("name").text))
        yield torch.tensor(boxes, dtype=torch.float64).view(-1, 4), torch.tensor(labels, dtype=torch.int64)


def test_coco_precision_equals_pycocotools_on_the_real_boxes_of_bccd(real_data):
    generator = torch.Generator().manual_seed(0)
    truth, detections = [], []
    for boxes, labels in itertools.islice(bccd(real_data), 120):
        n = len(labels)
        truth.append(Objects(boxes, labels))
        found = torch.cat([jittered(generator, boxes, 0.06), some_boxes(generator, 5)])
        mixed = torch.where(flags(generator, n, 0.9), labels, torch.randint(0, 3, (n,), generator=generator))
        guessed = torch.cat([mixed, torch.randint(0, 3, (5,), generator=generator)])
        detections.append(Detections(found, torch.rand(n + 5, generator=generator), guessed))
    values = assert_like_pycocotools(truth, detections, CELLS).summary()
    assert 0.2 < values["AP"] < values["AP50"] < 0.98
    assert not math.isnan(values["APlarge"])


def nothing(n=0):
    return torch.zeros(n, 4), torch.zeros(n, dtype=torch.int64)


def test_no_images_no_objects_and_no_detections_have_answers():
    boxes, labels = nothing()
    none = Detections(boxes, torch.zeros(0), labels)
    for truth, detections in (([], []), ([Objects(boxes, labels)], [none])):
        mine = coco_average_precision(truth, detections, NAMES)
        assert all(math.isnan(value) for value in mine.summary().values())
        assert mine.absent == NAMES
        assert math.isnan(voc_average_precision(truth, detections, NAMES).mean)
    one = Objects(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([1]))
    mine = coco_average_precision([one], [none], NAMES)
    assert mine.absent == ("cat", "bird", "zebra")
    assert mine.summary()["AP"] == mine.summary()["AR100"] == mine.summary()["APsmall"] == 0
    assert math.isnan(mine.summary()["APlarge"])
    assert voc_average_precision([one], [none], NAMES).per_class()["dog"] == 0
    assert coco_average_precision([Objects(*nothing(), masks=[])], [none], NAMES, masks=True).absent == NAMES


def test_a_class_without_objects_is_nan_and_left_out_of_the_mean():
    truth, detections = some_images(2)
    mine = coco_average_precision(truth, detections, NAMES)
    each = mine.per_class()
    assert mine.absent == ("zebra",)
    assert math.isnan(each["zebra"]["AP"])
    assert mine.summary()["AP"] == pytest.approx(np.mean([each[name]["AP"] for name in NAMES[:3]]))
    voc = voc_average_precision(truth, detections, NAMES)
    assert voc.absent == ("zebra",)
    assert math.isnan(voc.per_class()["zebra"])
    assert voc.mean == pytest.approx(np.mean([voc.per_class()[name] for name in NAMES[:3]]))


def test_curves_and_ap_by_threshold_are_those_that_the_summary_is_the_mean_of():
    mine = coco_average_precision(*some_images(2), NAMES)
    values = mine.summary()
    assert float(mine.curve(0.5).mean()) == pytest.approx(values["AP50"])
    assert float(mine.curve(0.75).mean()) == pytest.approx(values["AP75"])
    assert float(mine.ap_by_threshold().mean()) == pytest.approx(values["AP"])
    assert float(mine.ap_by_threshold("dog").mean()) == pytest.approx(mine.per_class()["dog"]["AP"])
    assert float(mine.curve(0.5, "dog").mean()) == pytest.approx(mine.per_class()["dog"]["AP50"])
    assert mine.ap_by_threshold().shape == (10,)
    assert mine.curve().shape == (101,)
    assert mine.ap_by_threshold("zebra").isnan().all()
    assert_refused(SettingsError, lambda: mine.curve(0.52), 0.52)
    assert_refused(UnknownName, lambda: mine.curve(0.5, "dgo"), "dgo", "dog")


# Pascal VOC, read from its devkit's VOCevaldet and VOCap, in plain Python and fractions


def voc_directly(truth, detections, k, threshold, eleven_points, pixel):
    def overlap(a, b):
        w = min(a[2], b[2]) - max(a[0], b[0]) + pixel
        h = min(a[3], b[3]) - max(a[1], b[1]) + pixel
        if w <= 0 or h <= 0:
            return Fraction(0)
        area = sum((c[2] - c[0] + pixel) * (c[3] - c[1] + pixel) for c in (a, b))
        return w * h / (area - w * h)

    def exact(boxes):
        return [[Fraction(x) for x in box] for box in boxes.tolist()]

    boxes = [exact(objects.boxes[objects.labels == k]) for objects in truth]
    hard = [(objects.ignored | objects.crowd)[objects.labels == k].tolist() for objects in truth]
    objects = sum(not one for image in hard for one in image)
    ranked = []
    for i, found in enumerate(detections):
        of_class = found.labels == k
        ranked += [
            (s, i, b) for s, b in zip(found.scores[of_class].tolist(), exact(found.boxes[of_class]), strict=True)
        ]
    ranked.sort(key=lambda one: -one[0])  # stable
    taken, right, wrong, points = set(), 0, 0, []
    for _, i, box in ranked:
        best, at = Fraction(-1), None
        for j, other in enumerate(boxes[i]):
            if overlap(box, other) > best:
                best, at = overlap(box, other), j
        if best >= Fraction(threshold):
            if hard[i][at]:
                continue
            right += (i, at) not in taken
            wrong += (i, at) in taken
            taken.add((i, at))
        else:
            wrong += 1
        points.append((Fraction(right, objects or 1), Fraction(right, right + wrong)))
    if not objects:
        return math.nan, []
    if eleven_points:
        levels = (Fraction(i, 10) for i in range(11))
        return float(sum(max((p for r, p in points if r >= level), default=0) for level in levels) / 11), points
    area, before = Fraction(0), Fraction(0)
    for n, (r, _) in enumerate(points):
        area += (r - before) * max(p for _, p in points[n:])
        before = r
    return float(area), points


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("eleven_points", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_voc_precision_equals_a_direct_reading_of_its_devkit(seed, eleven_points, inclusive):
    truth, detections = some_images(seed)
    for threshold in (0.5, 0.75):
        mine = voc_average_precision(truth, detections, NAMES, threshold, eleven_points, inclusive)
        for k in range(len(NAMES)):
            ap, points = voc_directly(truth, detections, k, threshold, eleven_points, int(inclusive))
            assert float(mine.ap[k]) == pytest.approx(ap, abs=1e-12, nan_ok=True)
            if points:
                np.testing.assert_allclose(mine.recall[k], [float(r) for r, _ in points], rtol=0, atol=1e-12)
                np.testing.assert_allclose(mine.precision[k], [float(p) for _, p in points], rtol=0, atol=1e-12)
                assert (mine.scores[k].diff() <= 0).all()


def test_voc_precision_of_a_worked_example():
    # right, wrong, right, a second on the first object, and one on a difficult one; 3 of 4 objects count
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    found = torch.tensor([[0.0, 0, 10, 10], [80, 0, 90, 10], [20, 0, 30, 5], [0, 0, 10, 9], [60, 0, 70, 10]])
    truth = [Objects(objects, torch.zeros(4).long(), ignored=torch.tensor([False, False, False, True]))]
    detections = [Detections(found, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.95]), torch.zeros(5).long())]
    mine = voc_average_precision(truth, detections, ["cell"])
    assert mine.num_objects.tolist() == [3]
    assert mine.precision[0].tolist() == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4])
    assert mine.recall[0].tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert mine.mean == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # recalls 0, 0.1, 0.2, 0.3 see precision 1; 0.4, 0.5, 0.6 see 2/3; the other four nothing
    eleven = voc_average_precision(truth, detections, ["cell"], eleven_points=True)
    assert eleven.mean == pytest.approx((4 + 3 * 2 / 3) / 11)


def test_voc_precision_meets_a_recall_of_three_tenths_with_three_of_ten_objects():
    boxes = torch.arange(10).double()[:, None] * 20 + torch.tensor([0, 0, 16, 16])
    truth = [Objects(boxes, torch.zeros(10).long())]
    detections = [Detections(boxes[:3], torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3).long())]
    assert voc_average_precision(truth, detections, ["cell"], eleven_points=True).mean == pytest.approx(4 / 11)


def test_what_does_not_fit_together_is_refused_in_one_line():
    boxes, labels = torch.tensor([[0.0, 0, 5, 5], [1, 1, 4, 4]]), torch.tensor([0, 1])
    objects, found = Objects(boxes, labels), Detections(boxes, torch.tensor([0.5, 0.6]), labels)

    def measured(objects=objects, found=found, names=("a", "b"), **settings):
        return lambda: coco_average_precision([objects], [found], names, **settings)

    assert not measured()().absent
    assert_refused(ShapeError, lambda: coco_average_precision([objects], [], ["a", "b"]), 1, 0)
    assert_refused(SettingsError, measured(names=()), "[]")
    assert_refused(SettingsError, measured(names=("a", "a")), "['a', 'a']")
    assert_refused(TargetError, measured(names=("a",)), "truth of image 0", "label 1", "0..0")
    assert_refused(TargetError, measured(found=Detections(boxes, found.scores, labels - 1)), "label -1", "detections")
    assert_refused(TargetError, measured(objects=Objects(boxes, labels.float())), "float32")
    assert_refused(ShapeError, measured(objects=Objects(boxes[:1], labels)), (1, 4), (2,))
    assert_refused(ShapeError, measured(objects=Objects(boxes, labels, areas=torch.ones(3))), "areas", (3,), (2,))
    assert_refused(ShapeError, measured(objects=Objects(boxes, labels, torch.tensor([1, math.nan]))), "areas", "NaN")
    assert_refused(ShapeError, measured(objects=Objects(boxes, labels, crowd=torch.zeros(2))), "crowd", "float32")
    assert_refused(ShapeError, measured(found=Detections(boxes, torch.ones(3), labels)), "scores", (3,))
    for bad in (torch.tensor([5.0, 0, 0, 5]), torch.tensor([0.0, 0, math.nan, 5]), torch.tensor([0.0, 0, math.inf, 5])):
        wrong = torch.stack([boxes[0], bad])
        assert_refused(ShapeError, measured(found=Detections(wrong, found.scores, labels)), bad.tolist(), "image 0")
        assert_refused(ShapeError, measured(objects=Objects(wrong, labels)), bad.tolist())
    assert_refused(ShapeError, measured(found=Detections(boxes, torch.tensor([0.5, math.nan]), labels)), "NaN")
    assert_refused(ShapeError, measured(masks=True), "no masks", 2)
    for threshold in (0, -1, 1.01, math.nan):
        assert_refused(
            SettingsError, lambda t=threshold: voc_average_precision([objects], [found], ["a", "b"], t), threshold
        )


def test_masks_of_another_size_than_the_objects_are_refused():
    boxes, labels = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0])
    small, large = encode_mask(torch.ones(6, 7).bool()), encode_mask(torch.ones(12, 14).bool())
    found = [Detections(boxes, torch.tensor([0.5]), labels, [large])]
    truth = [Objects(boxes, labels, masks=[small])]
    assert_refused(ShapeError, lambda: coco_average_precision(truth, found, ["a"], True), [6, 7], [12, 14])
    broken = [Objects(boxes, labels, masks=[{"size": [6, 7], "counts": "00"}])]
    assert_refused(DataError, lambda: coco_average_precision(broken, found, ["a"], True), [6, 7])


def test_the_order_of_memory_and_the_type_of_the_numbers_do_not_matter():
    truth, detections = some_images(3)
    expected = coco_average_precision(truth, detections, NAMES)
    truth = [Objects(t.boxes.float(), t.labels.int(), t.areas, t.crowd, t.ignored) for t in truth]
    detections = [Detections(d.boxes.T.contiguous().T, d.scores.double(), d.labels) for d in detections]
    got = coco_average_precision(truth, detections, NAMES)
    torch.testing.assert_close(got.precision, expected.precision, rtol=0, atol=0, equal_nan=True)
