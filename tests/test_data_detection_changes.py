"""Images with objects mirrored, scaled, cut: a box is the one around its moved mask, and hand-counted cases."""

import numpy as np
import pytest
import torch
from PIL import Image

from byhand.data import detection_changes as changes
from byhand.data.detection import Objects, make_objects, mask_boxes
from byhand.data.digits_scene import make_digits_scene
from byhand.errors import SettingsError, ShapeError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def scenes():
    """Scenes whose pixels are their masks' own: channel 0 shows 40·(slot + 1) where an object is seen, else 0."""
    dataset = make_digits_scene(3, 12, 1)
    found = []
    for objects in dataset.train_objects:
        slots = torch.arange(1, len(objects) + 1).reshape(-1, 1, 1)
        found.append(((objects.masks * slots * 40).sum(0, keepdim=True).to(torch.uint8), objects))
    return found


def shown(image, objects):
    """The masks as the image shows them."""
    return torch.stack([image[0] == image[0][mask].max() for mask in objects.masks])


def test_the_box_around_a_mask_is_counted_by_hand():
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    assert mask_boxes(masks).tolist() == [[2, 1, 5, 3], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("vertical", [False, True])
def test_a_mirrored_box_is_the_one_around_its_mirrored_mask(scenes, vertical):
    for image, objects in scenes:
        mirrored, moved = changes.flip(image, objects, vertical)
        assert torch.equal(mirrored, image.flip(1 if vertical else 2))
        assert torch.equal(moved.boxes, mask_boxes(moved.masks))
        assert torch.equal(moved.masks, shown(mirrored, moved))
        back = changes.flip(mirrored, moved, vertical)
        assert torch.equal(back[0], image)
        assert torch.equal(back[1].boxes, objects.boxes)
    _, moved = changes.flip(torch.zeros(3, 10, 20, dtype=torch.uint8), make_objects([[1, 2, 5, 9]], [0]))
    assert moved.boxes.tolist() == [[15, 2, 19, 9]]
    _, moved = changes.flip(torch.zeros(3, 10, 20, dtype=torch.uint8), make_objects([[1, 2, 5, 9]], [0]), vertical=True)
    assert moved.boxes.tolist() == [[1, 1, 5, 8]]


@pytest.mark.parametrize("factors", [(2, 3), (1, 1), (4, 1)])
def test_an_enlarged_box_is_the_one_around_its_enlarged_mask(scenes, factors):
    for image, objects in scenes[:4]:
        size = 96 * factors[0], 96 * factors[1]
        larger, moved = changes.resize(image, objects, size)
        assert larger.shape == (1, *size)
        assert torch.equal(moved.boxes, mask_boxes(moved.masks))
        assert moved.areas.tolist() == moved.masks.sum((1, 2)).tolist()
        kept = objects.masks.repeat_interleave(factors[0], 1).repeat_interleave(factors[1], 2)
        assert torch.equal(moved.masks, kept)


def test_a_smaller_mask_is_pillows_nearest_one_and_its_box_shrinks_by_the_same_factors(scenes):
    for image, objects in scenes:
        _, moved = changes.resize(image, objects, (50, 61))
        for mask, smaller in zip(objects.masks, moved.masks, strict=True):
            theirs = Image.fromarray(mask.numpy()).convert("L").resize((61, 50), Image.Resampling.NEAREST)
            assert np.array_equal(smaller.numpy(), np.asarray(theirs) > 0)
        assert torch.allclose(moved.boxes, objects.boxes * torch.tensor([61 / 96, 50 / 96, 61 / 96, 50 / 96]))


def test_a_cut_box_is_the_one_around_what_is_left_of_its_mask(scenes):
    num_cut = 0
    for image, objects in scenes:
        for top, left, height, width in ((10, 20, 60, 50), (0, 0, 96, 96), (40, 3, 30, 90)):
            part, moved = changes.crop(image, objects, top, left, height, width)
            assert part.shape == (1, height, width)
            assert torch.equal(moved.boxes, mask_boxes(moved.masks))
            assert torch.allclose(moved.areas, moved.masks.sum((1, 2)).float())
            num_cut += int(moved.areas.sum() < objects.areas.sum())
            middles = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
            inside = (
                (middles >= torch.tensor([left, top])) & (middles < torch.tensor([left + width, top + height]))
            ).all(1)
            seen = objects.masks[:, top : top + height, left : left + width].any(2).any(1)
            assert len(moved) == int((inside & seen).sum())
    assert num_cut > 5


def test_what_stays_in_a_rectangle_counted_by_hand():
    boxes = [[0, 0, 10, 10], [8, 8, 20, 20], [30, 30, 40, 40], [0, 0, 40, 40]]
    objects = make_objects(boxes, [0, 1, 2, 3], crowd=[False, False, False, True])
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    _, moved = changes.crop(image, objects, 5, 5, 15, 12)
    assert moved.boxes.tolist() == [[0, 0, 5, 5], [3, 3, 12, 15], [0, 0, 12, 15]]
    assert moved.labels.tolist() == [0, 1, 3]
    assert moved.areas.tolist() == pytest.approx([25, 108, 180])
    _, moved = changes.crop(image, objects, 5, 5, 15, 12, min_visible=0.5)
    assert moved.labels.tolist() == [1, 3]  # of the first a quarter is left; a crowd stays
    _, moved = changes.crop(image, objects, 25, 0, 2, 2)
    assert moved.labels.tolist() == [3]


def test_random_changes_depend_on_their_generator_only_and_leave_what_came_in(scenes):
    image, objects = scenes[0]
    before = image.clone(), objects.boxes.clone(), objects.masks.clone()
    change = changes.DetectionChanges(0.5, (0.7, 1.4), (0.6, 1.0), 0.3, brightness=0.4, contrast=0.2)
    one, again, other = (change(image, objects, seeded(seed)) for seed in (4, 4, 5))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1].boxes, again[1].boxes)
    assert one[0].shape != other[0].shape
    for old, now in zip(before, (image, objects.boxes, objects.masks), strict=True):
        assert torch.equal(old, now)
    same = changes.DetectionChanges()(image, objects, seeded())
    assert same[0] is image
    assert same[1] is objects


def test_changed_boxes_lie_within_their_image_and_have_a_width_and_a_height(scenes):
    change = changes.DetectionChanges(0.5, (0.5, 2.0), (0.3, 1.0), 0.1, vertical_flip=0.5)
    for seed in range(40):
        image, objects = change(*scenes[seed % len(scenes)], seeded(seed))
        height, width = image.shape[1:]
        assert objects.masks.shape == (len(objects), height, width)
        boxes = objects.boxes
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_an_image_without_objects_and_one_of_one_pixel_can_be_changed():
    nothing = make_objects([], [])
    change = changes.DetectionChanges(1.0, (0.1, 2.0), (0.1, 1.0), brightness=0.1)
    for size in ((1, 1), (7, 300)):
        image, objects = change(torch.zeros(3, *size, dtype=torch.uint8), nothing, seeded())
        assert min(image.shape) >= 1
        assert objects.boxes.shape == (0, 4)


def test_bad_settings_and_shapes_are_refused(scenes):
    image, objects = scenes[0]
    for wrong in (
        lambda: changes.crop(image, objects, 90, 0, 10, 10),
        lambda: changes.crop(image, objects, 0, 0, 0, 10),
        lambda: changes.crop(image, objects, 0, 0, 9, 9, 1.5),
        lambda: changes.random_flip(image, objects, 2.0, generator=seeded()),
        lambda: changes.scale_jitter(image, objects, (0, 1), generator=seeded()),
        lambda: changes.random_crop(image, objects, (0.5, 1.5), generator=seeded()),
    ):
        with pytest.raises(SettingsError):
            wrong()
    with pytest.raises(ShapeError, match="must be of its size"):
        changes.flip(image[:, :50], objects)
    with pytest.raises(ShapeError, match="must be uint8"):
        changes.flip(image.float(), objects)
    with pytest.raises(ShapeError, match=r"boxes \(2, 4\)"):
        Objects(torch.zeros(2, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool), torch.zeros(1))
