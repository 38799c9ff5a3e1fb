"""Detectors: trained with the loop of all trainings, resumed bit for bit, measured, and asked about pictures."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from byhand import detect, jobs, models
from byhand.data.detection import DetectionDataset, make_objects
from byhand.data.digits_scene import make_digits_scene
from byhand.data.voc_folder import load_voc_folder
from byhand.errors import NonFiniteLoss, SettingsError
from byhand.ops.average_precision import Detections
from byhand.ops.run_length import decode_mask, encode_mask
from byhand.recipes import recipe
from byhand.recipes.own_detector import own_detector
from byhand.training.detection import Boxed, detection_loss, target_of
from byhand.training.detection_measures import detections, precision
from byhand.training.fit import fit
from byhand.training.settings import Settings
from byhand.training.state import State

TINY = {"num_classes": 11, "width": 8, "min_size": 64, "max_size": 64}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes():
    return make_digits_scene(0, 6, 3, size=64, digit_sizes=(20, 40))


@pytest.fixture
def tiny(monkeypatch, scenes, tmp_path):
    """jobs.start(...) with six scenes, a narrow detector, two epochs of three batches."""

    def narrow(*arguments):
        chosen = own_detector(*arguments)
        return replace(chosen, options=TINY)

    monkeypatch.setattr("byhand.data.load_detection", lambda name, **options: scenes)
    monkeypatch.setattr("byhand.assembly.own_detector", narrow)

    def start(network="fasterrcnn", **settings):
        given = {"epochs": 2, "batch_size": 2, "threads": 1, "runs_dir": tmp_path / "runs"}
        return jobs.start(network=network, dataset="digits-scene", **given | settings)

    return start


def state_of(settings, network="fasterrcnn_small", **options):
    return State.new(lambda: models.build(network, **TINY | options), settings, CPU)


def settings(**changes):
    plain = Settings(epochs=1, batch_size=3, lr=1e-3, optimizer="adamw", by_hand=False)
    return plain.replace(**changes)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Learning


def test_a_few_steps_lower_the_loss_on_images_that_the_detector_sees(scenes):
    state = state_of(settings(epochs=8))
    before = detection_loss(state.kept, scenes.train_images, scenes.train_objects, state.settings)
    for _ in fit(state, scenes, "detection"):
        pass
    after = detection_loss(state.kept, scenes.train_images, scenes.train_objects, state.settings)
    assert after < 0.8 * before


def test_a_step_by_hand_moves_the_weights_as_one_by_library(scenes):
    moved = {}
    for hand in (False, True):
        state = state_of(settings(by_hand=hand, optimizer="sgd", batch_size=2))
        examples = Boxed(state, scenes)
        state.train()
        examples.step(*examples.batch(torch.tensor([0, 1])), 0.01)
        moved[hand] = {name: value.detach().clone() for name, value in state.library.named_parameters()}
    start = dict(state_of(settings()).library.named_parameters())
    largest = max(float((moved[False][name] - start[name].detach()).abs().max()) for name in start)
    apart = max(float((moved[False][name] - moved[True][name]).abs().max()) for name in start)
    assert largest > 1e-3
    assert apart < 1e-3 * largest


@pytest.mark.parametrize("network", ["fasterrcnn_small", "maskrcnn_small"])
def test_a_step_in_bfloat16_gives_nearly_the_losses_and_gradients_of_float32(scenes, network):
    found = []
    for mixed in (False, True):
        state = state_of(settings(mixed_precision=mixed), network)
        examples = Boxed(state, scenes)
        state.train()
        kinds = []
        state.library.backbone.body.conv1.register_forward_hook(lambda *call, kinds=kinds: kinds.append(call[2].dtype))
        examples.step(*examples.batch(torch.arange(3)), 0.0)
        assert kinds == [torch.bfloat16 if mixed else torch.float32]
        grads = torch.cat([one.grad.flatten() for one in state.trained])
        assert grads.dtype == torch.float32
        found.append((state.loss_sum, grads))
    (loss, grads), (rounded, its_grads) = found
    assert rounded == pytest.approx(loss, rel=0.02)
    assert torch.cosine_similarity(grads, its_grads, 0) > 0.95


def test_the_background_is_label_zero_for_the_network_alone(scenes):
    objects = scenes.train_objects[0]
    target = target_of(objects, masks=True)
    assert torch.equal(target["labels"], objects.labels + 1)
    assert torch.equal(target["masks"], objects.masks)


def test_crowds_and_difficult_objects_are_not_learned():
    boxes = [[0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 4, 4]]
    objects = make_objects(boxes, [0, 1, 2], crowd=[True, False, False], difficult=[False, False, True])
    target = target_of(objects, masks=False)
    assert target["boxes"].tolist() == [[5, 5, 20, 20]]
    assert target["labels"].tolist() == [2]


def test_a_loss_that_is_no_number_names_the_images_and_boxes_of_its_batch(scenes):
    state = state_of(settings(batch_size=2))
    with torch.no_grad():
        state.library.roi_heads.box_predictor.cls_score.bias.fill_(torch.inf)
    examples = Boxed(state, scenes)
    batch = examples.batch(torch.tensor([4, 1]))
    state.train()
    with pytest.raises(NonFiniteLoss) as told:
        examples.step(*batch, 0.01)
    said = str(told.value)
    assert "train scene 4 with boxes" in said
    assert "train scene 1 with boxes" in said
    first = [round(x) for x in scenes.train_objects[4].boxes[0].tolist()]
    assert str(first) in said
    assert "\n" not in said


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("vertical_flip", 1)])
def test_flipping_moves_boxes_with_the_image(scenes, name, axis):
    examples = Boxed(state_of(settings(**{name: True})), scenes)
    mirrored, first, last = 0, 2 - axis, 4 - axis
    for _ in range(8):
        (image,), (target,) = examples.batch(torch.tensor([2]))
        plain = scenes.train_images[2] / 255
        old = scenes.train_objects[2].boxes
        if torch.equal(image, plain):
            assert torch.equal(target["boxes"], old)
        else:
            mirrored += 1
            assert torch.equal(image, plain.flip(axis))
            assert torch.equal(target["boxes"][:, first], 64 - old[:, last])
    assert 0 < mirrored < 8


@pytest.mark.parametrize("name", ["mixup", "rotate", "label_smoothing"])
def test_a_setting_that_would_leave_boxes_behind_is_refused(tiny, name):
    with pytest.raises(SettingsError, match=f"{name}=0.1 is not for detection"):
        tiny(**{name: 0.1})


# Runs


def test_a_training_that_stopped_within_an_epoch_goes_on_bit_for_bit(tiny):
    whole = tiny(crop=0.5, ema=0.9)
    for _ in whole:
        pass
    result = whole.finish()

    stopped = tiny(crop=0.5, ema=0.9)
    step = 0

    def stop():
        nonlocal step
        step += 1
        stopped.state.stop = step == 4  # of six
        type(stopped.state).average(stopped.state)

    stopped.state.average = stop
    for _ in stopped:
        pass
    assert (stopped.state.epoch, stopped.state.position) == (1, 1)
    stopped.save()
    resumed = jobs.resume(stopped.run)
    for _ in resumed:
        pass
    again = resumed.finish()
    assert same(whole.run.weights(), stopped.run.weights())
    assert again["loss"] == result["loss"]
    assert again["train_loss"] == result["train_loss"]


def test_a_run_has_the_measures_of_coco_and_a_loss_of_what_was_held_out(tiny):
    training = tiny("maskrcnn", epochs=1, hold_out=0.34)
    (epoch,) = training
    assert epoch.validation_loss > 0
    assert epoch.accuracy is None
    result = training.finish()
    record = training.run.recipe()
    assert record["task"] == "detection"
    assert record["network"]["name"] == "maskrcnn_small"
    assert record["category_ids"] == list(range(1, 11))
    assert {"AP", "AP50", "mask_AP", "mask_AP50"} <= result.keys()
    assert list(result["classes"]) == record["class_names"]
    assert result["loss"] == pytest.approx(epoch.validation_loss)
    measured = jobs.measure(training.run)
    assert {key: measured[key] for key in ("AP", "mask_AP", "loss")} == {
        key: result[key] for key in ("AP", "mask_AP", "loss")
    }


def test_without_images_held_out_the_loss_of_the_first_test_images_is_told(scenes, monkeypatch):
    monkeypatch.setattr("byhand.training.detection.LOOKED_AT", 2)
    state = state_of(settings(epochs=2))
    told = []
    for epoch in fit(state, scenes, "detection"):
        two = detection_loss(state.kept, scenes.test_images[:2], scenes.test_objects[:2], state.settings)
        assert epoch.validation_loss == pytest.approx(two)
        told.append(epoch)
    assert len(told) == 2
    assert told[0].validation_loss != told[1].validation_loss


def test_evaluating_does_not_disturb_the_draws_of_a_training(scenes):
    state = state_of(settings())
    examples = Boxed(state, scenes)
    before = state.changes.get_state()
    examples.measured()
    assert torch.equal(before, state.changes.get_state())
    assert state.model.generator is state.changes


# Measures


def test_perfect_detections_have_an_average_precision_of_one(scenes):
    perfect = [
        Detections(one.boxes, torch.ones(len(one)), one.labels, [encode_mask(mask) for mask in one.masks])
        for one in scenes.test_objects
    ]
    found = precision(scenes.test_objects, perfect, scenes.class_names).record()
    assert found["AP"] == found["AP50"] == found["mask_AP"] == pytest.approx(1)
    there = {scenes.class_names[k] for one in scenes.test_objects for k in one.labels.tolist()}
    assert {name for name, values in found["classes"].items() if values["AP"] is not None} == there
    assert set(found["absent"]) == set(scenes.class_names) - there


def test_boxes_without_masks_are_measured_as_boxes_alone():
    objects = [make_objects([[2, 2, 12, 12]], [0])]
    found = [Detections(objects[0].boxes, torch.tensor([0.9]), torch.tensor([0]))]
    record = precision(objects, found, ["cell"]).record()
    assert record["AP"] == pytest.approx(1)
    assert "mask_AP" not in record


class Seeing(torch.nn.Module):
    """Stands where a detector does: it finds the bright rectangle of an image, and says it is of class 2."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.generator = None

    def forward(self, images):
        found = []
        for image in images:
            rows, columns = (image[0] > 0.5).nonzero().unbind(1)
            box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
            masks = (image[:1] > 0.5)[None].float()
            found.append({"boxes": box, "labels": torch.tensor([2]), "scores": torch.tensor([0.9]), "masks": masks})
        return found


def test_what_a_network_finds_is_counted_from_zero_and_its_masks_are_run_lengths():
    image = torch.zeros(1, 20, 30, dtype=torch.uint8)  # grey, as a data set may be
    image[:, 4:9, 10:22] = 255
    (found,) = detections(Seeing(), image[None], settings())
    assert found.labels.tolist() == [1]
    assert found.boxes.tolist() == [[10, 4, 22, 9]]
    assert torch.equal(decode_mask(found.masks[0]), image[0] > 0)


# Pictures


@pytest.fixture
def seeing(tiny, monkeypatch):
    """A finished run whose network finds the bright rectangle."""
    training = tiny(epochs=1)
    list(training)
    training.finish()
    monkeypatch.setattr("byhand.runs.run.Run.model", lambda run: Seeing())
    return training.run


def picture(path, size=(300, 200), box=(40, 30, 170, 90)):
    image = Image.new("RGB", size, "black")
    image.paste("white", box)
    image.save(path)
    return path


def test_detect_writes_boxes_in_the_pixels_of_the_picture_and_cocos_format(seeing, tmp_path):
    paths = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", (90, 640), (10, 500, 80, 600))]
    answers = detect.detect_files(seeing, paths)
    results = json.loads((seeing.path / "detections" / "detections.json").read_text())
    assert [one["bbox"] for one in results] == [[40, 30, 130, 60], [10, 500, 70, 100]]
    assert [one["image_id"] for one in results] == [1, 2]
    assert [one["category_id"] for one in results] == [2, 2]  # of class "1", the second
    assert results[0]["segmentation"]["size"] == [200, 300]
    assert [one["objects"][0]["name"] for one in answers] == ["1", "1"]
    for answer in answers:
        with Image.open(answer["picture"]) as drawn:
            assert drawn.format == "PNG"


def test_the_picture_shows_the_box_where_the_object_is(seeing, tmp_path):
    from byhand.plots import detections_figure

    image = detect.read_whole(picture(tmp_path / "a.png"))
    (found,) = detections(seeing.model(), image[None], settings())
    axes = detections_figure(image, found, [str(i) for i in range(10)], [0]).axes[0]
    (box,) = axes.patches
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (39.5, 29.5, 130, 60)
    assert axes.texts[0].get_text() == "1 0.90"
    veil = axes.images[1].get_array()
    assert bool((veil[30:90, 40:170, 3] > 0).all())
    assert int((veil[..., 3] > 0).sum()) == 130 * 60


def test_a_real_detector_finds_boxes_within_a_picture_larger_than_it_sees(scenes):
    state = state_of(settings(), box_score_thresh=0.0)
    image = torch.randint(0, 256, (3, 90, 210), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (found,) = detections(state.kept, [image], state.settings)
    assert len(found.boxes)
    assert float(found.boxes[:, 2].max()) > 64  # beyond the 64 pixels that the network sees
    assert float(found.boxes.min()) >= 0
    assert float(found.boxes[:, 2].max()) <= 210
    assert float(found.boxes[:, 3].max()) <= 90


# The command line


def test_train_evaluate_and_detect_from_the_command_line(tiny, byhand, tmp_path):
    runs = tmp_path / "runs"
    said = byhand(
        "train", "--network", "fasterrcnn", "--dataset", "digits-scene", "--epochs", 1, "--batch-size", 3,
        "--threads", 1, "--runs-dir", runs, "--json",
    )  # fmt: skip
    assert said.code == 0, said
    (result,) = said.records
    assert {"AP", "AP50", "loss"} <= result.keys()
    drawn = sorted(path.stem for path in (runs / result["run"].rpartition("/")[2] / "figures").iterdir())
    assert drawn == [
        "anchors", "ap-iou", "detections", "loss", "matches", "precision-recall", "proposals", "roi-grid"
    ]  # fmt: skip
    table = byhand("evaluate", result["run"])
    assert table.code == 0, table
    assert "AP50" in table.out
    assert "AR, 100 detections" in table.out
    (again,) = byhand("evaluate", result["run"], "--json").records
    assert again["AP"] == result["AP"]
    found = byhand("detect", result["run"], picture(tmp_path / "one.png"), "--output", tmp_path / "out", "--json")
    assert found.code == 0, found
    assert found.records[0]["image"] == str(tmp_path / "one.png")
    assert isinstance(json.loads((tmp_path / "out" / "detections.json").read_text()), list)


def test_what_does_not_go_together_is_told_in_one_line(refused, tmp_path):
    assert "has no boxes around any" in refused("train", "--network", "fasterrcnn", "--dataset", "digits")
    assert "gives one label an image" in refused("train", "--network", "lenet5", "--dataset", "digits-scene")
    assert "needs a data set" in refused("train", "--network", "maskrcnn")
    assert "did you mean 'fasterrcnn'" in refused("train", "--network", "fasterrcn", "--dataset", "digits-scene")
    gone = f"voc-folder:{tmp_path / 'none'}"
    assert "does not exist" in refused("train", "--network", "fasterrcnn", "--dataset", gone)


# A user's own images


VOC = """<annotation><filename>{name}.png</filename><size><width>60</width><height>48</height><depth>3</depth></size>
{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>
<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


@pytest.fixture
def voc(tmp_path):
    """Five pictures in the layout of Pascal VOC, one box of which has no width, and one picture without objects."""
    root = tmp_path / "cells"
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    boxes = [(5, 5, 25, 30), (20, 8, 50, 40), (7, 7, 7, 30), (10, 10, 40, 40), None]
    for i, box in enumerate(boxes):
        picture(root / "JPEGImages" / f"{i}.png", (60, 48), box if box and box[0] < box[2] else (1, 1, 9, 9))
        objects = "" if box is None else OBJECT.format(name="cell", box=box)
        (root / "Annotations" / f"{i}.xml").write_text(VOC.format(name=i, objects=objects))
    return root


@pytest.mark.filterwarnings("ignore")  # which says what was left out
def test_a_training_on_ones_own_boxes_does_not_stop_for_a_bad_one(voc, tmp_path, monkeypatch):
    whole = load_voc_folder(voc)
    assert whole.class_names == ("cell",)
    assert len(whole.skipped) >= 1

    def narrow(*arguments):
        chosen = own_detector(*arguments)
        return replace(chosen, options={**TINY, "num_classes": 2})

    monkeypatch.setattr("byhand.assembly.own_detector", narrow)
    run = jobs.train(
        network="fasterrcnn", dataset=f"voc-folder:{voc}", epochs=1, batch_size=2, threads=1, runs_dir=tmp_path / "runs"
    )
    result = run.result()
    assert result["loss"] > 0
    assert run.recipe()["class_names"] == ["cell"]
    with pytest.raises(SettingsError, match="maskrcnn_small learns masks"):
        jobs.start(network="maskrcnn", dataset=f"voc-folder:{voc}", runs_dir=tmp_path / "runs")


def test_the_own_recipe_follows_the_number_and_the_size_of_the_images(scenes):
    chosen = own_detector("fasterrcnn", scenes)
    assert chosen.network == "fasterrcnn_small"
    assert chosen.options == {"num_classes": 11, "min_size": 85, "max_size": 113}
    assert not chosen.plan("fast").settings.flip  # of digits
    images = [torch.zeros(3, 480, 640, dtype=torch.uint8)] * 205
    cells = DetectionDataset(
        "voc-folder:/a/bccd", images, [make_objects([], [])] * 205, images[:2], [make_objects([], [])] * 2, ("RBC",)
    )
    assert own_detector("fasterrcnn", cells).options == {"num_classes": 2, "min_size": 240, "max_size": 320}
    assert own_detector("fasterrcnn", cells, 120).options["min_size"] == 120
    assert own_detector("fasterrcnn", cells).name == "fasterrcnn-on-bccd"
    assert own_detector("fasterrcnn", cells).plan("fast").settings.flip


def test_detectors_that_search_see_images_as_they_are_and_mirrored(scenes):
    chosen = own_detector("fastrcnn", scenes)
    assert chosen.network == "fastrcnn_small"
    assert chosen.options == own_detector("fasterrcnn", scenes).options
    for asked in [*(plan.settings for plan in chosen.plans.values()), recipe("fastrcnn-scenes").plan("fast").settings]:
        assert (asked.crop, asked.colour, asked.flip) == (0, 0, False)


@pytest.mark.parametrize("name", ["fastrcnn-scenes", "fasterrcnn-scenes", "maskrcnn-scenes"])
def test_the_recipes_of_scenes_train_to_their_end(name, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("byhand.data.load_detection", lambda name, **options: scenes)
    monkeypatch.setattr("byhand.jobs.models.build", lambda name, **options: models.detector(name).build(**TINY))
    monkeypatch.setattr("byhand.models.build", lambda name, **options: models.detector(name).build(**TINY))
    run = jobs.train(name, epochs=1, batch_size=3, threads=1, runs_dir=tmp_path)
    result = run.result()
    assert result["reached"] is None  # fewer epochs than planned
    assert set(recipe(name).plan("fast").goal) <= result.keys()
