"""Measuring on mirror images: that what is found in them stands where it is, and that all views count alike."""

import pytest
import torch

from byhand import models
from byhand.data.detection_changes import flip
from byhand.data.digits_scene import make_digits_scene
from byhand.training.detection_measures import detections
from byhand.training.settings import Settings
from byhand.training.views import ACROSS, DOWN, found_in, mean_logits, mirrored, views_of

PLAIN = Settings(epochs=1, batch_size=8, lr=0.1, by_hand=False)
TWO = PLAIN.replace(test_flip=True)
FOUR = TWO.replace(vertical_flip=True)


@pytest.fixture(scope="module")
def scenes():
    return make_digits_scene(3, 4, 2)


class Sees:
    """A detector that finds the objects of a scene where they are, told which view it is shown by the image alone."""

    def __init__(self, image, objects, blind=()):
        self.known = []
        for axes in ((), (ACROSS,), (DOWN,), (ACROSS, DOWN)):
            shown, moved = image, objects
            for axis in axes:
                shown, moved = flip(shown, moved, vertical=axis == DOWN)
            self.known.append((shown, moved, axes in blind))

    def __call__(self, images):
        ((moved, blind),) = [one[1:] for one in self.known if torch.equal(one[0], images[0])]
        places = slice(0, 0) if blind else slice(None)
        boxes, masks = moved.boxes[places].float(), moved.masks[places, None].float()
        scores = torch.linspace(0.9, 0.5, len(moved))[places]
        return [{"boxes": boxes, "labels": moved.labels[places] + 1, "scores": scores, "masks": masks}]


def test_an_image_is_seen_as_often_as_the_settings_say():
    assert views_of(PLAIN) == views_of(PLAIN.replace(vertical_flip=True)) == [()]
    assert views_of(TWO) == [(), (-1,)]
    assert views_of(FOUR) == [(), (-1,), (-2,), (-1, -2)]


@pytest.mark.parametrize("settings", [PLAIN, TWO, FOUR])
def test_what_mirror_images_show_stands_where_it_is(scenes, settings):
    for image, objects in zip(scenes.train_images, scenes.train_objects, strict=True):
        found = found_in(Sees(image, objects), image, settings)
        torch.testing.assert_close(found["boxes"], objects.boxes.float())
        assert torch.equal(found["labels"], objects.labels + 1)
        torch.testing.assert_close(found["scores"], torch.linspace(0.9, 0.5, len(objects)))
        torch.testing.assert_close(found["masks"][:, 0], objects.masks.float())


def test_an_object_that_one_view_of_four_misses_keeps_three_quarters_of_its_score(scenes):
    image, objects = scenes.train_images[0], scenes.train_objects[0]
    found = found_in(Sees(image, objects, blind=[(DOWN,)]), image, FOUR)
    torch.testing.assert_close(found["scores"], torch.linspace(0.9, 0.5, len(objects)) * 0.75)
    torch.testing.assert_close(found["boxes"], objects.boxes.float())


def test_nothing_found_in_any_view_is_nothing(scenes):
    image, objects = scenes.train_images[0], scenes.train_objects[0]
    blind = [(), (ACROSS,), (DOWN,), (ACROSS, DOWN)]
    found = found_in(Sees(image, objects, blind), image, FOUR)
    assert [len(found[name]) for name in ("boxes", "scores", "labels", "masks")] == [0, 0, 0, 0]


def test_a_mirrored_box_is_counted_by_hand():
    found = {"boxes": torch.tensor([[1.0, 2, 5, 9]]), "scores": torch.ones(1)}
    assert mirrored(found, (ACROSS,), torch.Size((3, 10, 20)))["boxes"].tolist() == [[15, 2, 19, 9]]
    assert mirrored(found, (ACROSS, DOWN), torch.Size((3, 10, 20)))["boxes"].tolist() == [[15, 1, 19, 8]]


def test_logits_of_four_views_are_their_mean():
    model = models.build("mlp").eval()
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        each = [model(images), model(images.flip(3)), model(images.flip(2)), model(images.flip(2, 3))]
        torch.testing.assert_close(mean_logits(model, images, FOUR), torch.stack(each).mean(0))
        assert torch.equal(mean_logits(model, images, PLAIN), each[0])


def test_a_detector_of_masks_answers_of_all_views(scenes):
    torch.manual_seed(0)
    model = models.build("maskrcnn_small", num_classes=11, min_size=64, max_size=64)
    (plain,) = detections(model, scenes.train_images[:1], PLAIN)
    (found,) = detections(model, scenes.train_images[:1], FOUR)
    assert len(found.masks) == len(found.scores) > 0
    assert float(found.scores[0]) <= 1
    assert not torch.equal(found.boxes[:5], plain.boxes[:5])
