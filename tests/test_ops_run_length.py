"""Masks as run lengths and from polygons: bit for bit pycocotools' own."""

import itertools

import numpy as np
import pytest
import torch
from against_torch import assert_refused, drawn
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as theirs

from byhand.errors import DataError, ShapeError
from byhand.ops import decode_mask, encode_mask, encode_polygons, mask_area, mask_box, mask_iou, merge_masks
from byhand.ops.run_length import pieces


def some_mask(seed, size=None):
    """Blocks, noise, all or nothing: bool (H, W)."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size or torch.randint(1, 40, (2,), generator=generator).tolist()
    noise = torch.rand(height, width, generator=generator)
    if seed % 4 == 0:
        return noise < noise[0, 0]
    if seed % 4 == 1:
        return torch.full((height, width), seed % 8 == 1)
    mask = torch.zeros(height, width, dtype=torch.bool)
    for _ in range(3):
        y, x = int(noise[0, 0] * height), int(torch.rand(1, generator=generator) * width)
        mask[y : y + height // 2 + 1, x : x + width // 3 + 1] = True
    return mask ^ (noise < 0.03)


def encoded(mask):
    """pycocotools' run lengths, with counts as text like ours."""
    return as_text(theirs.encode(np.asfortranarray(mask.numpy().astype(np.uint8))))


def as_text(mask):
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}


def as_bytes(mask):
    return {**mask, "counts": mask["counts"].encode("ascii")}


@pytest.mark.parametrize("seed", range(60))
def test_a_mask_its_area_and_its_box_are_pycocotools_bit_for_bit(seed):
    mask = some_mask(seed)
    mine = encode_mask(mask)
    assert mine == encoded(mask)
    assert torch.equal(decode_mask(mine), mask)
    assert mask_area([mine]).tolist() == [theirs.area(as_bytes(mine))] == [int(mask.sum())]
    x, y, w, h = theirs.toBbox(as_bytes(mine)).tolist()
    assert mask_box([mine]).tolist() == [[x, y, x + w, y + h]]


def test_the_worked_example_of_the_format():
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]]).bool()
    assert encode_mask(mask, compressed=False) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
    # 2, 1, 1 and 2 − 1 are one group each: 48 + number
    assert encode_mask(mask) == {"size": [2, 3], "counts": "2111"}
    assert mask_box([encode_mask(mask)]).tolist() == [[1, 0, 3, 2]]


@drawn
@given(st.lists(st.integers(0, 2_000_000), min_size=1, max_size=9), st.booleans())
def test_counts_of_any_size_are_written_and_read_as_pycocotools_does(runs, zeros_first):
    counts = [0 if i == 0 and not zeros_first else max(1, run) for i, run in enumerate(runs)]
    mask = {"size": [sum(counts), 1], "counts": counts}
    if not sum(counts):
        return
    text = as_text(theirs.frPyObjects(mask, *mask["size"]))
    assert merge_masks([mask]) == text
    assert merge_masks([text], compressed=False) == mask


def test_lists_strings_and_bytes_are_read_side_by_side():
    masks = [some_mask(seed) for seed in range(12)]
    forms = [
        encode_mask(mask, compressed=False) if i % 3 == 0 else as_bytes(encoded(mask)) if i % 3 == 1 else encoded(mask)
        for i, mask in enumerate(masks)
    ]
    assert mask_area(forms).tolist() == [int(mask.sum()) for mask in masks]
    assert mask_area([]).shape == (0,)
    assert mask_box([]).shape == (0, 4)
    assert mask_iou([], forms).shape == (0, 12)


@pytest.mark.parametrize("seed", range(10))
def test_iou_of_masks_is_pycocotools_bit_for_bit_also_of_crowds(seed):
    masks = [encode_mask(some_mask(100 * seed + i, (23, 17))) for i in range(14)]
    a, b = masks[:8], masks[5:]
    crowd = torch.rand(len(b), generator=torch.Generator().manual_seed(seed)) < 0.5
    for flags in (torch.zeros(len(b)).bool(), crowd):
        expected = theirs.iou([as_bytes(m) for m in a], [as_bytes(m) for m in b], flags.int().tolist())
        np.testing.assert_array_equal(mask_iou(a, b, flags).numpy(), expected)
    assert torch.equal(mask_iou(a, b), mask_iou(a, b, torch.zeros(len(b)).bool()))


def test_iou_is_the_same_when_the_work_is_cut_into_pieces(monkeypatch):
    masks = [encode_mask(some_mask(i, (23, 17))) for i in range(14)]
    whole = mask_iou(masks, masks)
    monkeypatch.setattr("byhand.ops.run_length.AT_ONCE", 7)
    assert torch.equal(mask_iou(masks, masks), whole)
    cut = list(pieces(torch.tensor([3, 0, 9, 1, 1, 20, 0]), 7))
    assert cut[0].start == 0
    assert cut[-1].stop == 7
    assert len(cut) > 2
    assert all(one.stop == other.start for one, other in itertools.pairwise(cut))


@pytest.mark.parametrize("intersect", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_merged_masks_are_pycocotools_bit_for_bit(seed, intersect):
    masks = [encode_mask(some_mask(100 * seed + i, (19, 21))) for i in range(1 + seed % 4)]
    expected = as_text(theirs.merge([as_bytes(mask) for mask in masks], intersect))
    assert merge_masks(masks, intersect) == expected


def some_polygons(seed):
    """Outlines in and around a small image: on whole and tenth pixels, with points twice, crossing themselves."""
    draw = np.random.default_rng(seed)
    polygons = []
    for _ in range(draw.integers(1, 4)):
        points = draw.uniform(-20, 80, (draw.integers(3, 12), 2))
        if seed % 3:
            points = np.round(points, seed % 3 - 1)
        if seed % 4 == 0:
            points[1] = points[0]
        if seed % 7 == 0:
            points[-1] = points[0]
        polygons.append(points.reshape(-1).tolist())
    return polygons, *draw.integers(1, 60, 2).tolist()


@pytest.mark.parametrize("first", range(0, 420, 42))
def test_masks_from_polygons_are_pycocotools_bit_for_bit(first):
    for seed in range(first, first + 42):
        polygons, height, width = some_polygons(seed)
        expected = as_text(theirs.merge(theirs.frPyObjects(polygons, height, width)))
        assert encode_polygons(polygons, height, width) == expected, seed


def test_the_random_polygons_cover_a_part_of_their_images():
    shares = [
        mask_area([encode_polygons(*some_polygons(seed))]) / np.prod(some_polygons(seed)[1:]) for seed in range(40)
    ]
    assert sum(bool(0.05 < share < 0.95) for share in shares) > 20


def test_a_square_drawn_on_pixel_edges_covers_its_pixels():
    mask = decode_mask(encode_polygons([[1, 2, 4, 2, 4, 6, 1, 6]], 8, 7))
    expected = torch.zeros(8, 7, dtype=torch.bool)
    expected[2:6, 1:4] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "0",
        "00",
        "p",
        "2 11",
        "211P",
        "2" + "o" * 13 + "0",
        "é111",
        [],
        [2, 1, 1],
        [2, -1, 3, 2],
        [2.0, 4],
        [True, 5],
    ],
)
def test_run_lengths_that_make_no_mask_are_refused_by_name(counts):
    good = encode_mask(torch.ones(2, 3).bool())
    for read in (mask_area, mask_box, merge_masks):
        assert_refused(DataError, lambda r=read: r([good, {"size": [2, 3], "counts": counts}]), "mask 1")
    assert_refused(DataError, lambda: decode_mask({"size": [2, 3], "counts": counts}), "mask 0")


@pytest.mark.parametrize("size", [None, [2], [0, 3], [-2, -3], [2.0, 3], "23", [2**40, 2**40], [2, 3, 1]])
def test_a_size_that_is_none_is_refused(size):
    assert_refused(DataError, lambda: mask_area([{"size": size, "counts": [6]}]), "mask 0", size)
    assert_refused(DataError, lambda: mask_area(["2111"]), "2111")


def test_counts_beyond_every_number_are_refused():
    assert_refused(DataError, lambda: mask_area([{"size": [2, 3], "counts": [10**30, 6 - 10**30]}]), "mask 0")


def test_what_is_no_mask_no_polygon_or_of_another_size_is_refused():
    small, large = encode_mask(torch.ones(2, 3).bool()), encode_mask(torch.ones(3, 2).bool())
    assert_refused(ShapeError, lambda: encode_mask(torch.ones(2, 3)), (2, 3), "float32")
    assert_refused(ShapeError, lambda: encode_mask(torch.ones(1, 2, 3).bool()), (1, 2, 3))
    assert_refused(ShapeError, lambda: encode_mask(torch.ones(0, 3).bool()), (0, 3))
    assert_refused(ShapeError, lambda: mask_iou([small], [large]), [2, 3], [3, 2])
    assert_refused(ShapeError, lambda: mask_iou([small], [small], torch.ones(2).bool()), (2,))
    assert_refused(ShapeError, lambda: merge_masks([small, large]), [2, 3], [3, 2])
    assert_refused(ShapeError, lambda: merge_masks([]), "[]")
    assert_refused(ShapeError, lambda: encode_polygons([], 5, 5), 0)
    assert_refused(ShapeError, lambda: encode_polygons([[1, 1, 2, 2, 3, 1]], 0, 5), "height=0")
    square = [1, 1, 2, 1, 2, 2, 1]
    for end in ([float("nan")], [1e9], [-(10**400)], ["2"], [None], [[1]], []):
        assert_refused(DataError, lambda e=end: encode_polygons([square + e], 5, 5), str(square)[:-1])
    for polygon in ([1, 1, 2, 2], [], None, "1, 1, 2, 1, 2, 2"):
        assert_refused(DataError, lambda p=polygon: encode_polygons([p], 5, 5), polygon)


def test_counts_with_a_character_that_is_not_ascii_are_damaged():
    with pytest.raises(DataError, match="not COCO's compressed run lengths"):
        decode_mask({"size": [3, 5], "counts": "é"})
