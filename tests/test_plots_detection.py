"""The pictures of detectors: what stands in them is what the network does and what was measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from byhand import jobs, models, plots
from byhand.data.detection import make_objects
from byhand.data.digits_scene import make_digits_scene
from byhand.errors import DataError, SettingsError
from byhand.ops.average_precision import Detections, Objects
from byhand.ops.coco_precision import coco_average_precision
from byhand.ops.run_length import encode_mask
from byhand.plots import language
from byhand.plots.detections import Pair
from byhand.plots.seen import anchors_of, look, proposed, regions_of, taught
from byhand.recipes.own_detector import own_detector

TINY = {"num_classes": 11, "width": 8, "min_size": 64, "max_size": 64}
FIT = ["loss", "anchors", "proposals", "matches", "detections", "roi-grid", "precision-recall", "ap-iou"]

needs_chinese_font = pytest.mark.skipif(language.cjk_family() is None, reason="no font for Chinese installed")


@pytest.fixture(scope="module")
def scenes():
    return make_digits_scene(0, 4, 3, size=128, digit_sizes=(30, 60))


@pytest.fixture(scope="module")
def network():
    """A narrow detector that sees at 64 pixels, so that a scene of 128 is halved."""
    torch.manual_seed(0)
    return models.build("fasterrcnn_small", **TINY, box_score_thresh=0.0).eval()


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """A finished run of a narrow detector with masks, to be read only."""

    def narrow(*arguments):
        return replace(own_detector(*arguments), options=TINY)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("byhand.data.load_detection", lambda name, **options: scenes)
        patched.setattr("byhand.assembly.own_detector", narrow)
        return jobs.train(
            network="maskrcnn",
            dataset="digits-scene",
            epochs=1,
            batch_size=2,
            threads=1,
            runs_dir=tmp_path_factory.mktemp("runs"),
        )


@pytest.fixture
def run(finished, scenes, monkeypatch):
    monkeypatch.setattr("byhand.data.load_detection", lambda name, **options: scenes)
    return finished


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.full((40, 70, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def frames(axes):
    """(x1, y1, x2, y2) of each rectangle, in the image's pixels."""
    found = []
    for patch in axes.patches:
        (x, y), width, height = patch.get_xy(), patch.get_width(), patch.get_height()
        found.append((x + 0.5, y + 0.5, x + width + 0.5, y + height + 0.5))
    return np.array(found).reshape(-1, 4)


def has(rows, row):
    return bool((np.abs(rows - np.asarray(row)).max(1) < 1e-3).any())


def iou(a, b):
    """Overlap over union of two boxes, in plain numbers."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return across * down / (sum(areas) - across * down)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


# What the network does


def test_anchors_are_those_of_the_network_in_the_pixels_of_the_image(network, scenes):
    fine, coarse = anchors_of(network, look(network, scenes.test_images[0]))
    assert (fine.grid, coarse.grid) == ((8, 8), (4, 4))  # strides 8 and 16 of 64 pixels
    every_16 = {(float(x), float(y)) for x in range(0, 128, 16) for y in range(0, 128, 16)}
    assert {tuple(point) for point in fine.points.tolist()} == every_16
    assert fine.point.tolist() == [64, 64]
    # size 11 at ratio 1: ±5.5 are rounded to ±6 (the even one), and twice that in the image
    assert has(fine.around.numpy(), [52, 52, 76, 76])
    # size 64 at ratio 2 (height / width): h = 64 √2 = 90.5, w = 45.3; halves ±45 and ±23
    assert has(coarse.around.numpy(), [64 - 46, 64 - 90, 64 + 46, 64 + 90])
    assert len(fine.around) == len(coarse.around) == 15


def test_points_in_the_padding_are_no_anchors_of_the_image(network):
    image = torch.zeros(3, 36, 64, dtype=torch.uint8)  # 64 × 36 is padded to 64 × 64
    fine, _ = anchors_of(network, look(network, image))
    assert fine.grid == (8, 8)
    assert float(fine.points[:, 1].max()) <= 36


def test_ratios_are_those_of_the_network_also_where_a_thin_image_is_bent(network):
    image = torch.zeros(3, 1, 2000, dtype=torch.uint8)  # becomes one row of 64 pixels
    levels = anchors_of(network, look(network, image))
    assert {round(ratio, 1) for ratio in levels[1].ratios.tolist()} == {0.5, 1.0, 2.0}
    labels = texts(plots.anchors_figure(image, levels))
    assert [text for text in labels if text.startswith("height")] == [
        f"height / width = {r}" for r in ("0.5", "1", "2")
    ]


def test_the_picture_of_anchors_draws_the_boxes_of_one_point_by_ratio(network, scenes):
    levels = anchors_of(network, look(network, scenes.test_images[0]))
    figure = plots.anchors_figure(scenes.test_images[0], levels)
    for axes, level in zip(figure.axes, levels, strict=True):
        drawn = frames(axes)
        assert len(drawn) == 15
        assert all(has(drawn, box) for box in level.around.tolist())
        colours = {}
        for patch in axes.patches:
            ratio = patch.get_height() / patch.get_width()
            kind = min((0.5, 1.0, 2.0), key=lambda one: abs(np.log(ratio / one)))
            colours.setdefault(kind, set()).add(to_hex(patch.get_edgecolor()))
        assert [len(one) for one in colours.values()] == [1, 1, 1]
        assert len(set.union(*colours.values())) == 3
        low, high = axes.get_xlim()
        assert low < drawn[:, 0].min() - 0.5
        assert drawn[:, 2].max() - 0.5 < high
    assert "8 × 8: 960 anchors, 15 at each point" in figure.axes[0].get_title()


def test_proposals_before_and_after_suppression_are_those_of_the_network(network, scenes):
    seen = look(network, scenes.test_images[1])
    found = proposed(network, seen)
    (passed_on,), _ = network.rpn(seen.batch, seen.maps)
    assert torch.allclose(found.boxes[found.left], passed_on * 2)
    assert len(found.left) < len(found.boxes)
    assert bool((found.scores.diff() <= 0).all())
    figure = plots.proposals_figure(scenes.test_images[1], found, None)
    before, after = figure.axes[:2]
    assert len(before.patches) == len(after.patches) == 50
    assert all(has(frames(after), box) for box in passed_on[:50].mul(2).tolist())
    assert all(has(frames(before), box) for box in found.boxes[:50].tolist())
    assert f"of {len(passed_on)}" in after.get_title()


def test_the_picture_counts_the_objects_that_the_drawn_proposals_cover(network, scenes):
    found = proposed(network, look(network, scenes.test_images[1]))
    there = found.boxes[found.left[0]]
    nowhere = torch.tensor([0.0, 0.0, 0.5, 0.5])
    figure = plots.proposals_figure(scenes.test_images[1], found, torch.stack([there, nowhere]))
    assert "they cover 1 of 2 objects" in figure.axes[1].get_title()


def test_what_learns_objects_overlaps_them_as_the_rules_say(network, scenes):
    image, objects = scenes.test_images[0], scenes.test_objects[0]
    generator = torch.Generator().manual_seed(0)
    anchors, proposals = taught(network, look(network, image), objects.boxes, objects.labels + 1, generator)
    assert anchors.counts[0] == 15 * (64 + 16) == sum(anchors.counts[1:])
    assert proposals.counts[0] == sum(proposals.counts[1:])
    truth = objects.boxes.tolist()
    for box, k in zip(anchors.boxes.tolist(), anchors.matched.tolist(), strict=True):
        overlaps = [iou(box, one) for one in truth]
        if k < 0:
            assert max(overlaps) < 0.3
        else:
            assert overlaps[k] == pytest.approx(max(overlaps), abs=1e-4)
    for box, k in zip(proposals.boxes.tolist(), proposals.matched.tolist(), strict=True):
        overlaps = [iou(box, one) for one in truth]
        assert max(overlaps) < 0.5 if k < 0 else overlaps[k] >= 0.5
    # the objects themselves are proposals too
    assert {k for k in proposals.matched.tolist() if k >= 0} == set(range(len(truth)))
    figure = plots.matches_figure(image, (anchors, proposals), objects.boxes)
    positive = frames(figure.axes[0])
    assert len(positive) == int((anchors.matched >= 0).sum()) + 2 * len(truth)  # objects have a rim
    assert f"{anchors.counts[1]} of 1,200, {int((anchors.matched >= 0).sum())} drawn" in figure.axes[0].get_title()


def test_the_bins_and_samples_are_those_that_pooling_and_align_take(network, scenes):
    seen = look(network, scenes.test_images[0])
    box = torch.tensor([21.0, 30.0, 68.0, 95.0])  # halved and on stride 8: (1.3125, 1.875, 4.25, 5.9375)
    found = regions_of(network, seen, box)
    assert found.stride == 8
    assert found.box.tolist() == [1.3125, 1.875, 4.25, 5.9375]
    # pooling rounds to columns 1..4 and rows 2..6: four columns in seven bins, the first of ⌊0⌋ to ⌈4 / 7⌉
    assert found.bins[0].tolist() == [0.5, 1.5, 1.5, 2.5]
    assert found.bins[-1].tolist() == [3.5, 5.5, 4.5, 6.5]
    # align: samples at ¼ and ¾ of each of seven bins of 2.9375 / 7
    step = 2.9375 / 7
    assert found.x[0].tolist() == pytest.approx([1.3125 + step / 4, 1.3125 + 3 * step / 4])
    ramp = torch.arange(8.0).expand(1, 1, 8, 8).contiguous()
    moved = seen.there(box[None])
    pooled = network.roi_heads.box_roi_pool({"0": ramp}, [moved], (64, 64))[0, 0]
    assert torch.allclose(pooled[0], found.x.mean(1), atol=1e-5)  # on a ramp the mean sample is the mean place
    from byhand.ops.roi_pool import roi_pool

    largest = roi_pool(ramp, [moved], 7, 1 / 8)[0, 0].flatten()
    assert torch.equal(largest, found.bins[:, 2] - 0.5)


def test_the_picture_of_regions_draws_every_bin_and_sample(network, scenes):
    seen = look(network, scenes.test_images[0])
    box = torch.tensor([21.0, 30.0, 68.0, 95.0])
    found = regions_of(network, seen, box)
    figure = plots.regions_figure(scenes.test_images[0], box, "seven", found)
    whole, pooling, align = figure.axes
    assert has(frames(whole), box.tolist())
    assert len(pooling.patches) == 49 + 1  # and the box
    samples = next(line for line in align.lines if line.get_marker() == ".")
    assert len(samples.get_xdata()) == 49 * 4
    assert set(np.round(samples.get_xdata(), 4)) == set(np.round(found.x.flatten().numpy(), 4))
    assert "2.94 pixels wide and 4.06 high on its map (8 × 8, stride 8)" in figure.get_suptitle()
    assert "whole pixels, 5 × 4" in pooling.get_title()


# What was measured


def measured(truth, found, names):
    return coco_average_precision(truth, found, names)


def test_the_curve_of_precision_is_that_of_a_hand_calculation():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    truth = [Objects(boxes, torch.tensor([0, 0]))]
    found = torch.cat([boxes[:1], torch.tensor([[50.0, 50, 60, 60]]), boxes[1:]])
    detections = [Detections(found, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 0]))]
    figure = plots.precision_recall([("boxes", measured(truth, detections, ["cat", "dog"]))])
    (axes,) = figure.axes
    lines = {line.get_label().partition(":")[0]: line for line in axes.lines}
    assert set(lines) == {"cat", "mean"}
    x, y = lines["cat"].get_xdata(), np.asarray(lines["cat"].get_ydata())
    assert y == pytest.approx([1.0 if recall <= 0.5 else 2 / 3 for recall in x])
    assert lines["cat"].get_label() == f"cat: {(51 + 50 * 2 / 3) / 101:.3f}"
    assert "no objects, not in the mean: dog" in axes.get_title()
    assert axes.get_legend().get_title().get_text() == "AP50"


def test_ap_falls_where_the_iou_that_is_asked_for_is_no_longer_reached():
    truth = [Objects(torch.tensor([[0.0, 0, 100, 10]]), torch.tensor([0]))]
    found = [Detections(torch.tensor([[0.0, 0, 72, 10]]), torch.tensor([0.9]), torch.tensor([0]))]  # IoU 0.72
    figure = plots.ap_by_iou([("boxes", measured(truth, found, ["cat"]))])
    line = figure.axes[0].lines[0]
    assert np.round(line.get_xdata(), 2).tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert np.asarray(line.get_ydata()) == pytest.approx([1.0] * 5 + [0.0] * 5)
    assert line.get_label() == "cat: 0.500"


def test_of_many_classes_the_lowest_are_drawn_and_masks_have_a_panel_of_their_own():
    names = [f"class {k}" for k in range(20)]
    boxes = torch.tensor([[20.0 * k, 0, 20 * k + 10, 10] for k in range(20)])
    truth = [Objects(boxes, torch.arange(20))]
    found = [Detections(boxes[:15], torch.ones(15), torch.arange(15))]  # the last five classes are not found
    one = measured(truth, found, names)
    figure = plots.precision_recall([("boxes", one), ("masks", one)])
    assert len(figure.axes) == 2
    drawn = [line.get_label().partition(":")[0] for line in figure.axes[0].lines]
    assert len(drawn) == 13
    assert set(names[15:]) <= set(drawn)
    assert "the lowest 12 of 20 classes" in figure.axes[0].get_title()
    assert figure.axes[1].get_title().startswith("masks")
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 13  # no two alike


def test_nothing_to_find_at_all_is_said_and_not_drawn():
    nothing, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    one = measured([Objects(nothing, none)], [Detections(nothing, torch.zeros(0), none)], ["cat"])
    figure = plots.precision_recall([("boxes", one)])
    assert not figure.axes[0].lines
    assert "no objects, not in the mean: cat" in figure.axes[0].get_title()


def test_names_of_boxes_that_lie_on_each_other_do_not(scenes):
    boxes = torch.tensor([[30.0, 40, 70, 90], [32, 41, 72, 92], [31, 39, 69, 88]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 4, 5]))
    figure = plots.detections_figure(scenes.test_images[0], found, scenes.class_names, [0, 1, 2])
    figure.canvas.draw()
    areas = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(areas) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(areas) for b in areas[:i])


def test_detections_stand_below_the_truth_of_the_same_image(scenes):
    image, objects = scenes.test_images[0], scenes.test_objects[0]
    found = Detections(torch.tensor([[5.0, 6, 50, 70], [1, 1, 9, 9]]), torch.tensor([0.9, 0.2]), torch.tensor([3, 4]))
    pair = Pair(image, "test image 0", objects, found, [0])
    unknown = Pair(image[:, :40], "photo.png", None, found, [])
    figure = plots.detections_beside_truth([pair, unknown], scenes.class_names, 0.5)
    above, above_unknown, below, below_unknown = figure.axes
    assert all(has(frames(above), box) for box in objects.boxes.tolist())
    assert len(above.patches) == len(objects)
    assert len(above.images) == 1  # without masks, as none were found
    assert frames(below).tolist() == [[5, 6, 50, 70]]
    assert [text.get_text() for text in below.texts] == ["3 0.90"]
    assert not above_unknown.patches
    assert not below_unknown.patches
    assert "objects unknown" in above_unknown.get_title()
    masks = [encode_mask(mask) for mask in objects.masks[:1]]
    one = Detections(objects.boxes[:1], torch.tensor([0.9]), objects.labels[:1], masks)
    above, below = plots.detections_beside_truth([pair._replace(found=one)], scenes.class_names, 0.5).axes
    assert len(above.images) == 1 + len(objects)
    assert len(below.images) == 2


# Runs


def test_all_that_fits_a_detector_is_drawn_of_one_measurement(run, scenes, monkeypatch):
    times = []

    def counting(*arguments):
        times.append(1)
        from byhand.training.detection_measures import precision

        return precision(*arguments)

    monkeypatch.setattr("byhand.plots.detector.precision", counting)
    figures = plots.figures_of(run, scenes)
    assert list(figures) == FIT
    assert len(times) == 1
    assert len(figures["precision-recall"].axes) == 2  # boxes and masks


def test_measures_that_are_known_are_not_computed_again(run, scenes, monkeypatch):
    def never(*arguments):
        raise AssertionError("the test set was measured again")

    from byhand.training.detection_measures import detections, precision
    from byhand.training.settings import Settings

    settings = Settings.of(run.recipe()["settings"])
    found = list(detections(run.model(), scenes.test_images, settings))
    known = precision(scenes.test_objects, found, scenes.class_names)
    monkeypatch.setattr("byhand.plots.detector.precision", never)
    figure = plots.figures_of(run, scenes, only="ap-iou", measured=known)["ap-iou"]
    line = next(line for line in figure.axes[0].lines if line.get_label().startswith("mean"))
    assert np.asarray(line.get_ydata()) == pytest.approx(known.boxes.ap_by_threshold().numpy())
    assert run.result()["AP"] == pytest.approx(float(np.mean(line.get_ydata())))


@needs_chinese_font
def test_every_picture_of_a_detector_can_be_in_chinese(run, scenes):
    for name, figure in plots.figures_of(run, scenes, "zh").items():
        words = "".join(texts(figure))
        assert any("\u4e00" <= letter <= "\u9fff" for letter in words), name
        english = {"box", "object", "proposal", "recall", "found", "map", "suppression", "pixels"}
        assert not english & set(words.lower().split()), name


def test_images_are_chosen_by_number_and_by_file(run, scenes, photo):
    by_number = plots.figures_of(run, scenes, only="detections", focus=plots.Focus(images=(2, 0)))["detections"]
    assert [axes.get_title() for axes in by_number.axes[:2]] == [
        f"test image {i}, objects: {len(scenes.test_objects[i])}" for i in (2, 0)
    ]
    by_file = plots.figures_of(run, scenes, only="anchors", focus=plots.Focus(images=(photo,)))["anchors"]
    assert by_file.axes[0].images[0].get_array().shape == (40, 70, 3)
    with pytest.raises(DataError, match="no test image 7; there are 3"):
        plots.figures_of(run, scenes, only="proposals", focus=plots.Focus(images=(7,)))
    with pytest.raises(SettingsError, match="give one"):
        plots.figures_of(run, scenes, only="anchors", focus=plots.Focus(images=(0, 1)))
    with pytest.raises(SettingsError, match=r"photo\.png is a file"):
        plots.figures_of(run, scenes, only="matches", focus=plots.Focus(images=(photo,)))
    with pytest.warns(UserWarning, match=r"left out: matches .*photo\.png is a file"):
        found = plots.figures_of(run, scenes, focus=plots.Focus(images=(photo,)))
    assert set(found) == {"anchors", "proposals", "detections", "roi-grid"}


def test_the_first_image_with_an_object_is_drawn_where_none_is_asked_for(run, scenes):
    empty = replace(scenes, test_objects=[make_objects([], []), *list(scenes.test_objects)[1:]])
    figure = plots.figures_of(run, empty, only="proposals")["proposals"]
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(drawn, scenes.test_images[1].permute(1, 2, 0) / 255)


class Plain(torch.nn.Module):
    """A detector without a region proposal network, which finds nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.generator, self.roi_heads = None, None

    def forward(self, images):
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
        return [nothing for _ in images]


def test_a_detector_without_a_region_proposal_network_says_what_does_not_suit_it(run, scenes, monkeypatch):
    monkeypatch.setattr("byhand.runs.run.Run.model", lambda run: Plain())
    for name in ("anchors", "proposals", "matches", "roi-grid"):
        with pytest.raises(SettingsError, match=f"picture '{name}' does not suit maskrcnn_small: it .*has: loss, det"):
            plots.figures_of(run, scenes, only=name)
    assert list(plots.figures_of(run, scenes)) == ["loss", "detections", "precision-recall", "ap-iou"]


def test_a_detector_that_finds_nothing_has_a_picture_that_says_so(run, scenes, monkeypatch):
    model = run.model()
    model.roi_heads.rules = replace(model.roi_heads.rules, score_thresh=1.0)
    monkeypatch.setattr("byhand.runs.run.Run.model", lambda run: model)
    figures = plots.figures_of(run, scenes)
    assert texts(figures["roi-grid"]) == ["No regions to draw: nothing was detected in test image 0."]
    assert "found: 0" in texts(figures["detections"])
    assert any(text.startswith("mean: 0.000") for text in texts(figures["ap-iou"]))


def test_a_data_set_without_test_images_has_a_loss_alone(run, scenes):
    none = replace(scenes, test_images=scenes.test_images[:0], test_objects=[])
    assert list(plots.figures_of(run, none)) == ["loss"]
    with pytest.raises(SettingsError, match="'anchors' does not suit"):
        plots.figures_of(run, none, only="anchors")


def test_the_command_line_draws_them_and_refuses_what_does_not_suit(run, byhand, refused):
    said = byhand("plot", run.path, "anchors", "roi-grid", "--image", 1)
    assert said.code == 0, said
    assert [line.rpartition("/")[2] for line in said.out.splitlines()] == ["anchors-1.png", "roi-grid-1.png"]
    assert "'confusion' does not suit this detection run" in refused("plot", run.path, "confusion")
    assert "give one" in refused("plot", run.path, "matches", "--image", 0, "--image", 1)
