"""Scenes of digits: boxes, masks and areas agree, digits are those of their part, the same seed gives the same."""

import pytest
import torch

from byhand import data
from byhand.data.detection import SMALL
from byhand.data.digits_scene import make_digits_scene
from byhand.errors import SettingsError


@pytest.fixture(scope="module")
def scenes():
    return make_digits_scene(0, 150, 60)


def everything(dataset):
    return [*dataset.train_objects, *dataset.test_objects]


def test_scenes_have_the_promised_shapes_and_one_to_six_objects(scenes):
    assert (scenes.train_images.shape, scenes.test_images.shape) == ((150, 3, 96, 96), (60, 3, 96, 96))
    assert scenes.train_images.dtype == torch.uint8
    counts = torch.tensor([len(one) for one in everything(scenes)])
    assert set(counts.tolist()) == set(range(1, 7))
    assert scenes.class_names == tuple("0123456789")
    assert set(torch.cat([one.labels for one in everything(scenes)]).tolist()) == set(range(10))


def test_each_box_ends_with_the_outermost_pixels_of_its_mask(scenes):
    for objects in everything(scenes):
        assert objects.areas.tolist() == objects.masks.sum((1, 2)).tolist()
        assert int(objects.masks.sum(0).max()) <= 1  # what is seen belongs to one object
        for (x1, y1, x2, y2), mask in zip(objects.boxes.int().tolist(), objects.masks, strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
            assert all(edge.any() for edge in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]))


def test_a_digit_stands_out_from_its_ground(scenes):
    for image, objects in zip(scenes.train_images[:40], scenes.train_objects, strict=False):
        grey = image.float().mean(0)
        ground = grey[~objects.masks.any(0)].median()
        for mask in objects.masks:
            assert (grey[mask].median() - ground).abs() > 20


def test_no_digit_is_hidden_by_more_than_the_limit_and_more_are_placed_where_it_is_wider():
    apart = make_digits_scene(1, 60, 1, max_hidden=0.0, digit_sizes=(20, 20))
    near = make_digits_scene(1, 60, 1, max_hidden=1.0, digit_sizes=(20, 20))
    assert sum(map(len, apart.train_objects)) < sum(map(len, near.train_objects))
    # Unhidden, the same digit of one size has one area wherever it lies: no mask in `apart` is smaller than in `near`.
    for one, other in zip(apart.train_objects, near.train_objects, strict=True):
        assert one.areas[0] >= other.areas[0]


def test_training_scenes_show_training_digits_and_test_scenes_test_digits():
    """Each scene of one unhidden digit of 8 pixels holds the mask of a digit of its own part."""
    scenes = make_digits_scene(0, 60, 60, size=96, digit_sizes=(8, 8), max_hidden=0.0)
    digits = data.load("digits")
    own = {}
    for part, images in (("train", digits.train_images), ("test", digits.test_images)):
        strength = images[:, 0].float() / 255
        own[part] = {cut(mask) for mask in ((strength - 0.2) / 0.5).clamp(0, 1) >= 0.5}
    only = {"train": own["train"] - own["test"], "test": own["test"] - own["train"]}
    for part, other in (("train", "test"), ("test", "train")):
        shown = {cut(mask) for one in getattr(scenes, f"{part}_objects") for mask in one.masks}
        assert shown <= own[part]
        assert not shown & only[other]
        assert shown & only[part]


def cut(mask):
    """The mask without its empty margins, as something that can be compared."""
    rows, columns = mask.any(1).nonzero().ravel(), mask.any(0).nonzero().ravel()
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return tuple(map(tuple, part.int().tolist()))


def test_the_same_seed_gives_the_same_scenes_and_the_number_of_training_scenes_changes_no_test_scene(scenes):
    again, other, fewer = make_digits_scene(0, 150, 60), make_digits_scene(1, 150, 60), make_digits_scene(0, 10, 60)
    assert again.sha256 == scenes.sha256
    assert torch.equal(again.train_images, scenes.train_images)
    assert not torch.equal(other.train_images, scenes.train_images)
    assert torch.equal(fewer.test_images, scenes.test_images)


def test_scenes_may_be_grey_and_of_another_size():
    dataset = make_digits_scene(0, 3, 2, size=64, channels=1, digit_sizes=(10, 64))
    assert dataset.train_images.shape == (3, 1, 64, 64)
    assert dataset.train_objects[0].masks.shape[1:] == (64, 64)


def test_most_digits_are_small_as_coco_has_it_and_areas_are_those_of_masks(scenes):
    areas = torch.cat([one.areas for one in everything(scenes)])
    assert (areas < SMALL).all()  # 40 × 40 pixels hold less than 1,024 of ink


def test_hold_out_keeps_images_and_objects_together(scenes):
    held = scenes.hold_out(0.2)
    assert (len(held.train_images), len(held.test_images), len(held.test_objects)) == (120, 30, 30)
    place = {one.image: i for i, one in enumerate(scenes.train_objects)}
    for image, one in zip(held.test_images, held.test_objects, strict=True):
        assert torch.equal(image, scenes.train_images[place[one.image]])


@pytest.mark.parametrize(
    "options",
    [
        {"seed": -1},
        {"num_train": 0},
        {"digit_sizes": (4, 9)},
        {"digit_sizes": (12, 97)},
        {"channels": 2},
        {"max_hidden": 2},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(SettingsError):
        make_digits_scene(**{"seed": 0, "num_train": 1, "num_test": 1, **options})


def test_the_catalogue_knows_the_scenes():
    assert data.entry("digits-scene").task == "detection"
    (row,) = [row for row in data.status() if row["name"] == "digits-scene"]
    assert row["state"] == "made"
