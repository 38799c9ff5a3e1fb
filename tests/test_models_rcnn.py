"""R-CNN: warped windows, fine-tuning, support vector machines with hard negatives, box regression, detections."""

import copy
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from byhand import jobs, models
from byhand.data.detection import DetectionDataset, make_objects
from byhand.data.digits_scene import make_digits_scene
from byhand.errors import ByhandError, SettingsError, ShapeError
from byhand.models.detector_layers import CropLayers
from byhand.models.proposals import SelectiveSearch
from byhand.models.rcnn_fits import HardNegatives, ridge, to_norm
from byhand.models.weights import heads_of, take_weights
from byhand.nn import by_hand
from byhand.ops.boxes import box_iou
from byhand.ops.roi_align import roi_align
from byhand.ops.warping import warp_boxes
from byhand.proof import prove
from byhand.recipes.own_detector import own_detector
from byhand.training.detection import complete
from byhand.training.settings import Settings

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Given(nn.Module):
    """Proposes the same boxes in every image."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def forward(self, image):
        return self.boxes


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def small(seed=0, **options):
    """A narrow R-CNN for images as they are."""
    plain = {"num_classes": 3, "width": 2, "size": 16, "min_size": 40, "max_size": 60}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.build("rcnn", **plain | options)


OBJECTS = [[4, 6, 20, 22], [30, 5, 55, 35]]
WINDOWS = [
    [4, 6, 20, 20], [5, 6, 20, 22], [28, 5, 50, 35], [30, 8, 55, 35], [0, 0, 60, 40], [0, 24, 12, 40],
    [20, 20, 30, 30], [40, 25, 60, 40], [2, 2, 12, 12], [8, 24, 30, 39], [22, 0, 30, 20], [0, 0, 5, 5],
]  # fmt: skip


def target(boxes=OBJECTS, labels=(1, 2)):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels).long()}


def normalized(image):
    return (image - MEAN[:, None, None]) / STD[:, None, None]


# Warping


def warped_slowly(image, box, size, context, fill):
    """One crop, sample by sample."""
    C, H, W = image.shape
    x1, y1, x2, y2 = box
    crop = torch.full((C, size, size), fill)
    for i in range(size):
        for j in range(size):
            y = y1 + (i + 0.5 - context) * (y2 - y1) / (size - 2 * context)
            x = x1 + (j + 0.5 - context) * (x2 - x1) / (size - 2 * context)
            if not (0 <= y <= H and 0 <= x <= W):
                continue
            value = torch.zeros(C)
            middle_y, middle_x = min(max(y, 0.5), H - 0.5), min(max(x, 0.5), W - 0.5)
            for row in range(max(0, int(middle_y) - 2), min(H, int(middle_y) + 2)):
                for column in range(max(0, int(middle_x) - 2), min(W, int(middle_x) + 2)):
                    share = max(0, 1 - abs(middle_y - row - 0.5)) * max(0, 1 - abs(middle_x - column - 0.5))
                    if share:
                        value += share * image[:, row, column]
            crop[:, i, j] = value
    return crop


def test_a_warped_box_is_its_bilinear_samples_and_the_fill_beyond_the_image():
    image = random(2, 7, 9)
    boxes = [[1.3, 0.6, 5.1, 6.2], [-2.0, 3.0, 4.0, 9.0], [0, 0, 9, 7], [8.5, 6.5, 9.0, 7.0], [20, 20, 30, 25]]
    found = warp_boxes(image, torch.tensor(boxes), 6, 1, fill=-3.0)
    for crop, box in zip(found, boxes, strict=True):
        torch.testing.assert_close(crop, warped_slowly(image, box, 6, 1, -3.0))
    assert bool((found[4] == -3).all())


def test_the_context_is_exactly_so_many_pixels_of_the_crop():
    image = random(3, 60, 70)
    (crop,) = warp_boxes(image, torch.tensor([[10.0, 12.0, 38.0, 40.0]]), 32, 2)
    torch.testing.assert_close(crop, image[:, 10:42, 8:40])
    (half,) = warp_boxes(image, torch.tensor([[10.0, 12.0, 24.0, 40.0]]), 32, 2)  # wide by 14: each pixel becomes two
    even = image[:, 10:42, 9:25]  # 2 pixels of the crop are one of the image
    torch.testing.assert_close(half[:, :, 1:-1:2], 0.75 * even[:, :, :-1] + 0.25 * even[:, :, 1:])


def test_inside_of_the_image_a_crop_is_roi_align_of_the_enlarged_box():
    image = random(3, 50, 40)
    boxes = torch.tensor([[10.0, 12.0, 30.5, 33.0], [8.2, 20.1, 15.7, 44.4]])
    margin = (boxes[:, 2:] - boxes[:, :2]) * 3 / 18
    enlarged = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)
    expected = roi_align(image[None], [enlarged], 24, sampling_ratio=1, aligned=True)
    torch.testing.assert_close(warp_boxes(image, boxes, 24, 3), expected, rtol=1e-4, atol=1e-5)


def test_a_preset_leaves_sixteen_of_227_pixels_around_the_box():
    assert small(size=32).features.context == 2
    assert small(size=48).features.context == 3
    assert small(size=48, context=0).features.context == 0
    with torch.device("meta"):
        alexnet = models.build("rcnn_alexnet", proposals=nn.Identity())
    assert (alexnet.features.context, alexnet.features.size, alexnet.num_classes) == (16, 224, 21)
    assert alexnet.roi_heads.regression.weight.shape == (84, 9216)
    assert alexnet.roi_heads.svm.weight.shape == (21, 4096)


def test_what_cannot_be_warped_is_refused_in_one_line():
    for image, boxes, size, context in (
        (random(3, 5), torch.zeros(1, 4), 8, 1),
        (random(3, 5, 5), torch.zeros(4), 8, 1),
        (random(3, 5, 5), torch.zeros(1, 4), 8, 4),
        (random(3, 5, 5), torch.tensor([[0, 0, math.nan, 1]]), 8, 1),
    ):
        with pytest.raises((ShapeError, SettingsError)) as told:
            warp_boxes(image, boxes, size, context)
        assert "\n" not in str(told.value)


# Fine-tuning


def test_the_loss_is_the_mean_cross_entropy_of_the_warped_windows_and_objects():
    model = small(proposals=Given(WINDOWS), box_batch_size_per_image=100, box_positive_fraction=1.0)
    images = [random(3, 40, 60), random(3, 40, 60, seed=1)]
    losses = model.train()(images, [target(), target([], [])])
    crops, labels = [], []
    for image, objects in zip(images, (OBJECTS, []), strict=True):
        for box in WINDOWS + objects:
            crops.append(warped_slowly(normalized(image), box, 16, 1, 0.0))
            overlaps = [float(box_iou(torch.tensor([box]).float(), torch.tensor([one]).float())) for one in objects]
            best = int(np.argmax(overlaps)) if overlaps else 0
            labels.append(best + 1 if overlaps and overlaps[best] >= 0.5 else 0)
    assert labels[:14] == [1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    again = small().train()
    again.load_state_dict(small().state_dict())
    hidden = again.features.cnn(torch.stack(crops))[1]
    logits = hidden @ again.roi_heads.cls_score.weight.T + again.roi_heads.cls_score.bias
    expected = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(labels)), torch.tensor(labels)].mean()
    assert list(losses) == ["loss_classifier"]
    torch.testing.assert_close(losses["loss_classifier"], expected, rtol=1e-4, atol=1e-5)


def test_of_the_windows_drawn_at_most_a_quarter_show_objects(monkeypatch):
    model = small(proposals=Given(WINDOWS), box_batch_size_per_image=8, generator=torch.Generator().manual_seed(0))
    seen = []
    monkeypatch.setattr(nn.functional, "cross_entropy", lambda logits, labels: seen.append(labels) or logits.sum())
    model.train()([random(3, 40, 60)], [target()])
    assert sorted(seen[0].tolist(), reverse=True)[2:] == [0] * 6
    assert (seen[0] > 0).sum() == 2


def test_every_layer_that_learns_by_steps_is_proven():
    proof = prove(CropLayers(small().double()), random(4, 3, 16, 16).double())
    assert proof.passed, proof.verdict
    assert {"cnn.body.0", "cnn.top.0", "cls_score"} <= {check.name for check in proof.layers}


def test_both_hands_learn_complete_and_detect_alike():
    scenes = make_digits_scene(0, 2, 1, size=48, digit_sizes=(16, 30))
    images = [image / 255 for image in scenes.train_images]
    targets = [{"boxes": one.boxes, "labels": one.labels % 2 + 1} for one in scenes.train_objects]
    library = small(min_size=48, max_size=48).double()
    images = [image.double() for image in images]
    hand = by_hand(copy.deepcopy(library))
    sides = []
    for model in (hand, library):
        model.generator = torch.Generator().manual_seed(3)
        model.train()(images, targets)["loss_classifier"].backward()
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        with torch.no_grad():
            model.eval().complete(images, targets)
            sides.append((grads, model.state_dict(), model(images)))
    for mine, theirs in zip(sides[0][:2], sides[1][:2], strict=True):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-5, atol=1e-7, msg=lambda text, key=key: key)
    for mine, theirs in zip(sides[0][2], sides[1][2], strict=True):
        assert len(theirs["boxes"])
        torch.testing.assert_close(mine["boxes"], theirs["boxes"], rtol=1e-5, atol=1e-5)


# Machines and regression


def clouds(seed=0):
    """Features of 40 objects, and of 900 windows of which some look like them."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randn(40, 5, generator=generator) + torch.tensor([3.0, 1, 0, 0, 0])
    return objects, 1.5 * torch.randn(900, 5, generator=generator)


def machine_of(objects, windows, cost):
    from sklearn.svm import LinearSVC

    X, y = torch.cat([objects, windows]).numpy(), np.r_[np.ones(len(objects)), np.zeros(len(windows))]
    options = {"class_weight": {1: 2.0}, "random_state": 1, "tol": 1e-6, "max_iter": 1_000_000}
    return LinearSVC(C=cost, loss="hinge", dual=True, intercept_scaling=10.0, **options).fit(X, y)


def test_only_windows_beyond_the_margin_are_added_and_in_the_end_the_machine_is_that_of_all_windows():
    objects, windows = clouds()
    machine = HardNegatives(objects, cost=0.02, refit=30)
    assert machine.add(windows[:100], torch.arange(100)) == 100  # before the first fit all
    rounds, taken = 0, 1
    while taken:
        rounds, taken = rounds + 1, 0
        for first in range(0, 900, 100):
            some, numbers = windows[first : first + 100], torch.arange(first, first + 100)
            hard = {k for k in numbers.tolist() if windows[k] @ machine.weight + machine.bias > -1}
            expected = len(hard - set(machine.negative))
            assert machine.add(some, numbers) == expected
            taken += expected
        machine.fit()
        assert rounds < 20
    left = [k for k in range(900) if k not in machine.negative]
    assert len(left) > 400
    assert float((windows[left] @ machine.weight + machine.bias).max()) <= -1
    whole = machine_of(objects, windows, 0.02)
    np.testing.assert_allclose(machine.weight.numpy(), whole.coef_[0], rtol=0.02, atol=0.01)
    np.testing.assert_allclose(float(machine.bias), whole.intercept_[0], rtol=0.02)


def test_windows_that_became_easy_are_let_go():
    objects, windows = clouds()
    machine = HardNegatives(objects, cost=0.02)
    machine.add(windows, torch.arange(900))
    margins = windows @ machine.weight + machine.bias
    assert set(machine.negative) == {k for k in range(900) if margins[k] >= -1.2}


def test_ridge_is_its_closed_form():
    x, t = random(30, 6).double(), random(30, 4, seed=1).double()
    W, b = ridge(x, t, penalty=2.5)
    centred, moved = x - x.mean(0), t - t.mean(0)
    expected = torch.linalg.solve(centred.T @ centred + 2.5 * torch.eye(6).double(), centred.T @ moved).T
    torch.testing.assert_close(W, expected)
    torch.testing.assert_close(b, t.mean(0) - expected @ x.mean(0))


def features_of(model, image, boxes):
    """Pooled maps and features, straight from the slow crops."""
    crops = torch.stack([warped_slowly(normalized(image), box, 16, 1, 0.0) for box in boxes])
    with torch.no_grad():
        return model.features.cnn(crops)


@pytest.fixture(scope="module")
def completed():
    """A network completed on one image, and the image."""
    model, image = small(proposals=Given(WINDOWS)).eval(), random(3, 40, 60)
    assert model.complete([image], [target()]) == []
    return model, image


def test_the_machines_are_those_that_scikit_learn_fits_to_the_scaled_features(completed):
    model, image = completed
    _, of_windows = features_of(model, image, WINDOWS)
    _, of_objects = features_of(model, image, OBJECTS)
    tasted = torch.cat([of_objects, of_windows[::2]]).norm(dim=1)  # 12 windows: every second
    scale = 20 / float(tasted.mean())
    iou = box_iou(torch.tensor(OBJECTS).float(), torch.tensor(WINDOWS).float())
    for label in (1, 2):
        beside = of_windows[iou[label - 1] < 0.3]
        assert 8 <= len(beside) <= 10
        fitted = machine_of(of_objects[label - 1 : label] * scale, beside * scale, 1e-3)
        found = model.roi_heads.svm
        np.testing.assert_allclose(found.weight[label].numpy(), fitted.coef_[0] * scale, rtol=0.01, atol=1e-3)
        np.testing.assert_allclose(float(found.bias[label]), fitted.intercept_[0], atol=0.01)


def test_the_regression_is_a_ridge_on_the_offsets_of_appendix_c_of_windows_near_an_object(completed):
    model, image = completed
    pooled, _ = features_of(model, image, WINDOWS)
    of_objects, _ = features_of(model, image, OBJECTS)
    scale = 20 / float(torch.cat([of_objects, pooled[::2]]).norm(dim=1).mean())
    for label, near, (x1, y1, x2, y2) in ((1, [0, 1], OBJECTS[0]), (2, [2, 3], OBJECTS[1])):
        offsets = []
        for k in near:
            a1, b1, a2, b2 = WINDOWS[k]
            width, height = a2 - a1, b2 - b1
            offsets.append([
                ((x1 + x2) / 2 - (a1 + a2) / 2) / width, ((y1 + y2) / 2 - (b1 + b2) / 2) / height,
                math.log((x2 - x1) / width), math.log((y2 - y1) / height),
            ])  # fmt: skip
        x, t = (pooled[near] * scale).double(), torch.tensor(offsets).double()
        centred = x - x.mean(0)
        W = torch.linalg.solve(centred.T @ centred + 1000 * torch.eye(x.shape[1]).double(), centred.T @ (t - t.mean(0)))
        found = model.roi_heads.regression
        rows = slice(4 * label, 4 * label + 4)
        torch.testing.assert_close(found.weight[rows].double(), W.T * scale, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.bias[rows].double(), t.mean(0) - x.mean(0) @ W, rtol=1e-3, atol=1e-4)


def test_one_window_near_an_object_is_moved_onto_it():
    model = small(num_classes=2, proposals=Given([WINDOWS[0], *WINDOWS[5:]]), box_score_thresh=0.0).eval()
    image = random(3, 40, 60)
    model.complete([image], [target(OBJECTS[:1], [1])])
    (found,) = model([image])
    nearest = (found["boxes"] - torch.tensor(OBJECTS[0])).abs().amax(1).min()
    assert float(nearest) < 1e-3
    assert WINDOWS[0][3] != OBJECTS[0][3]  # where it was not before


# Detections


def test_detections_of_a_completed_network_are_those_of_a_plain_loop(completed):
    model, _ = completed
    image = random(3, 40, 60, seed=5)
    pooled, features = features_of(model, image, WINDOWS)
    heads, expected = model.roi_heads, []
    for label in (1, 2):
        candidates = []
        for k, (x1, y1, x2, y2) in enumerate(WINDOWS):
            margin = float(heads.svm.weight[label] @ features[k] + heads.svm.bias[label])
            score = 1 / (1 + math.exp(-margin))
            dx, dy, dw, dh = (heads.regression.weight @ pooled[k] + heads.regression.bias)[4 * label :][:4].tolist()
            x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
            w, h = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
            box = [max(x - w / 2, 0), max(y - h / 2, 0), min(x + w / 2, 60), min(y + h / 2, 40)]
            if score > heads.rules.score_thresh and box[2] - box[0] > 0.01 and box[3] - box[1] > 0.01:
                candidates.append((score, label, box))
        kept = []
        for one in sorted(candidates, reverse=True):
            if all(float(box_iou(torch.tensor([one[2]]), torch.tensor([other[2]]))) <= 0.3 for other in kept):
                kept.append(one)
        expected += kept
    expected.sort(reverse=True)
    (found,) = model([image])
    assert 4 <= len(expected) < 24
    assert found["labels"].tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found["scores"].numpy(), [score for score, _, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(found["boxes"].numpy(), [box for _, _, box in expected], rtol=1e-4, atol=1e-3)


def test_before_completion_scores_are_the_softmax_and_windows_stay_where_they_are():
    model = small(proposals=Given(WINDOWS[:1]), box_score_thresh=0.0).eval()
    image = random(3, 40, 60)
    (found,) = model([image])
    _, features = features_of(model, image, WINDOWS[:1])
    logits = features @ model.roi_heads.cls_score.weight.T + model.roi_heads.cls_score.bias
    expected = torch.softmax(logits, 1)[0, 1:].sort(descending=True)[0]
    torch.testing.assert_close(found["scores"], expected, rtol=1e-4, atol=1e-6)
    assert found["boxes"].tolist() == [WINDOWS[0]] * 2


def test_the_state_dict_keeps_the_answers_and_a_step_of_training_returns_to_the_softmax(completed):
    model, image = completed
    again = small(seed=9, proposals=Given(WINDOWS)).eval()
    again.load_state_dict(model.state_dict())
    for key, value in model([image])[0].items():
        assert torch.equal(value, again([image])[0][key])
    assert bool(again.roi_heads.completed)
    with torch.no_grad():
        again([image], [target()], losses=True)
        assert bool(again.roi_heads.completed)  # a loss alone changes nothing
        again.train()([image], [target()])
    assert not bool(again.roi_heads.completed)


def test_every_stage_is_a_part_that_is_called():
    model, called = small(proposals=Given(WINDOWS)).eval(), []
    for part, name in model.parts.items():
        model.get_submodule(name).register_forward_hook(lambda *_, part=part: called.append(part))
    model([random(3, 40, 60)])
    assert called == ["proposals", "features", "heads"]


def test_weights_of_other_classes_leave_all_that_knows_them_new(completed):
    model, _ = completed
    other = small(seed=4, num_classes=5)
    before = other.roi_heads.cls_score.weight.clone()
    loaded = take_weights(other, model.state_dict())
    assert set(loaded.head) == {"roi_heads.cls_score", "roi_heads.svm", "roi_heads.regression"} == set(heads_of(other))
    assert torch.equal(other.roi_heads.cls_score.weight, before)
    assert torch.equal(other.features.cnn.top[0].weight, model.features.cnn.top[0].weight)


# What may come


def test_images_without_objects_or_proposals_and_of_one_pixel_are_learned_from_and_looked_at():
    model = small(proposals=SelectiveSearch())
    images = [torch.full((3, 40, 40), 0.5), random(3, 1, 1), random(3, 1, 70), random(3, 40, 60)]
    targets = [target([], []), target([], []), target([[0, 0, 30, 1]], [1]), target()]
    loss = model.train()(images, targets)["loss_classifier"]
    loss.backward()
    assert bool(torch.isfinite(loss))
    model.eval().complete(images, targets)
    for image, found in zip(images, model(images), strict=True):
        assert bool((found["boxes"] >= 0).all())
        assert bool((found["boxes"][:, 2:] <= torch.tensor([image.shape[2], image.shape[1]])).all())


def test_without_a_single_window_the_loss_is_zero_and_nothing_is_found():
    model = small(proposals=Given([]))
    loss = model.train()([random(3, 40, 60)], [target([], [])])["loss_classifier"]
    loss.backward()
    assert loss.item() == 0
    assert len(model.eval()([random(3, 40, 60)])[0]["boxes"]) == 0
    assert model.complete([random(3, 40, 60)], [target([], [])]) == [1, 2]
    assert len(model([random(3, 40, 60)])[0]["boxes"]) == 0


def test_a_class_without_an_example_is_never_answered_and_said():
    model = small(proposals=Given(WINDOWS), box_score_thresh=0.0).eval()
    images = torch.randint(0, 256, (2, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    objects = [make_objects(OBJECTS[:1], [0])] * 2
    data = DetectionDataset("two", images, objects, images, objects, ("cat", "dog"))
    with pytest.warns(UserWarning, match="nothing to learn of dog; never to be found"):
        complete(model, data, Settings(epochs=1, batch_size=1, lr=0.1, by_hand=False))
    (found,) = model([images[0] / 255])
    assert set(found["labels"].tolist()) == {1}


def test_without_scikit_learn_no_training_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    model = small(proposals=Given(WINDOWS))
    with pytest.raises(ByhandError, match=r'pip install "byhand\[detection\]"') as told:
        model.train()([random(3, 40, 60)], [target()])
    assert "\n" not in str(told.value)
    assert model.eval()([random(3, 40, 60)])  # to detect it is not needed


def test_arguments_that_there_are_not_are_refused_in_one_line():
    for options, said in (
        ({"num_classes": 1}, "the background is class 0"),
        ({"context": 8}, "at least one pixel of size=16"),
        ({"size": 20}, "multiple of 8"),
        ({"rpn_nms_thresh": 0.5}, "no argument 'rpn_nms_thresh'"),
        ({"box_nms_thresh": 2.0}, "box_nms_thresh"),
    ):
        with pytest.raises(SettingsError, match=said) as told:
            small(**options)
        assert "\n" not in str(told.value)


def test_features_are_scaled_to_a_mean_length_of_twenty():
    assert to_norm(torch.tensor([3.0, 5.0])) == 5
    assert to_norm(torch.zeros(4)) == to_norm(torch.zeros(0)) == 1


# Runs


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """jobs.start(...) of a narrow R-CNN on six scenes."""
    scenes = make_digits_scene(0, 6, 2, size=48, digit_sizes=(16, 30))

    def narrow(*arguments):
        chosen = own_detector(*arguments)
        return replace(chosen, options={**chosen.options, "width": 2, "size": 16})

    monkeypatch.setattr("byhand.data.load_detection", lambda name, **options: scenes)
    monkeypatch.setattr("byhand.assembly.own_detector", narrow)

    def start(**settings):
        given = {"epochs": 2, "batch_size": 3, "threads": 1, "runs_dir": tmp_path / "runs"}
        return jobs.start(network="rcnn", dataset="digits-scene", **given | settings)

    return start


@pytest.mark.filterwarnings("ignore:the training images show nothing")
def test_a_run_keeps_the_machines_and_a_resumed_one_the_same_to_the_last_bit(tiny):
    whole = tiny(ema=0.9)
    list(whole)
    result = whole.finish()
    weights = whole.run.weights()
    assert bool(weights["roi_heads.completed"])
    assert bool((weights["roi_heads.svm.weight"][1:].abs().sum(1) > 0).any())
    measured = jobs.measure(whole.run)
    assert {key: measured[key] for key in ("AP", "AP50", "loss")} == {
        key: result[key] for key in ("AP", "AP50", "loss")
    }
    stopped = tiny(ema=0.9)
    for _ in stopped:
        stopped.state.stop = True
    resumed = jobs.resume(stopped.run)
    list(resumed)
    assert resumed.finish()["loss"] == result["loss"]
    again = resumed.run.weights()
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_the_own_recipe_cuts_no_image_and_takes_them_at_their_size(tiny):
    scenes = make_digits_scene(0, 2, 1)
    chosen = own_detector("rcnn", scenes)
    assert chosen.network == "rcnn_small"
    assert chosen.options == {"num_classes": 11, "min_size": 96, "max_size": 128}
    settings = chosen.plan("fast").settings
    assert (settings.crop, settings.colour, settings.flip) == (0, 0, False)  # digits are not mirrored
    images = [torch.zeros(3, 480, 640, dtype=torch.uint8)] * 20
    cells = DetectionDataset("voc-folder:/a/bccd", images, [make_objects([], [])] * 20, [], [], ("RBC",))
    assert own_detector("rcnn", cells).options["min_size"] == 240
    assert not own_detector("rcnn", cells).plan("fast").settings.crop
