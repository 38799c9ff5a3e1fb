"""The pictures: what stands in them is what was measured, in the language asked for, and no display is needed."""

import io
import logging
import math
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.text import Text
from PIL import Image
from sklearn import metrics
from torch import nn

from byhand import plots
from byhand.errors import RunError, SettingsError, ShapeError, UnknownName
from byhand.plots import figures, language

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FASHION_IN_CHINESE = ("T恤", "裤子", "套衫", "连衣裙", "外套", "凉鞋", "衬衫", "运动鞋", "包", "短靴")
HISTORY = [
    {"epoch": 1, "loss": 0.6215, "accuracy": 0.8208, "lr": 1e-3, "seconds": 2.0, "validation_loss": 0.2},
    {"epoch": 2, "loss": 0.1499, "accuracy": 0.9547, "lr": 1e-3, "seconds": 2.0, "validation_loss": 0.1},
    {"epoch": 3, "loss": 0.0924, "accuracy": 0.9718, "lr": 1e-3, "seconds": 2.0, "validation_loss": 0.08},
]

needs_chinese_font = pytest.mark.skipif(
    language.cjk_family() is None, reason="no font for Chinese installed (Debian: fonts-noto-cjk)"
)


class FakeRun:
    """What the pictures need of a run, around a model that was never trained."""

    def __init__(self, path, model, task="classification", reported=None, history=HISTORY, result=None):
        self.path, self.made, self.task, self.reported, self.records = path, model.eval(), task, reported, history
        self.numbers = result

    def result(self):
        return self.numbers

    def history(self):
        return self.records

    def model(self):
        return self.made

    def recipe(self):
        return {"recipe": "fake", "dataset": "mnist", "task": self.task, "reported": self.reported}

    def prepare(self, images):
        return images.float() if self.task == "regression" else images.float() / 255

    @torch.no_grad()
    def logits(self, images, batch_size=1000):
        return torch.cat([self.made(self.prepare(batch)) for batch in images.split(batch_size)])


def classification(path, model=None, count=40, channels=1, class_names=FASHION, **kwargs):
    """A run and a data set of random images of 8×8 pixels."""
    torch.manual_seed(0)
    model = model or nn.Sequential(
        nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(54, 10)
    )
    dataset = SimpleNamespace(
        test_images=torch.randint(256, (count, channels, 8, 8), dtype=torch.uint8),
        test_labels=torch.randint(10, (count,)),
        class_names=class_names,
    )
    return FakeRun(path, model, **kwargs), dataset


def regression(path):
    torch.manual_seed(0)
    model, features = nn.Linear(3, 1), torch.randn(50, 3)
    dataset = SimpleNamespace(test_images=features, test_labels=torch.randn(50, 1), class_names=())
    history = [{"epoch": 1, "loss": 10.0, "lr": 0.03, "seconds": 0.1}]
    return FakeRun(path, model, "regression", {"accuracy": None}, history), dataset


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def pixels(figure):
    """The figure as it would be saved, (H, W, 3), with every warning an error."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(buffer, format="png", dpi=60)
    return np.asarray(Image.open(buffer).convert("RGB"))


def lines(figure):
    """label -> (x, y) of every line in the first axes; without those that only mark a place."""
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in figure.axes[0].lines}


def starting(found, beginning):
    (value,) = (value for label, value in found.items() if label.startswith(beginning))
    return value


def take_chinese_fonts_away(monkeypatch):
    found = [font for font in font_manager.fontManager.ttflist if font.name not in language.CJK_FAMILIES]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", found)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    monkeypatch.setattr(language, "noticed", False)


# curves


def test_loss_curve_draws_every_record_of_the_history():
    found = lines(plots.loss_curve(HISTORY))
    for beginning, key in (("training", "loss"), ("validation", "validation_loss")):
        x, y = starting(found, beginning)
        assert list(x) == [1, 2, 3]
        assert list(y) == [record[key] for record in HISTORY]


def test_accuracy_curve_draws_every_record_and_the_reported_line_and_nothing_for_what_was_not_recorded():
    figure = plots.accuracy_curve(HISTORY, reported=0.9904)
    found = lines(figure)
    assert list(starting(found, "training")[1]) == [0.8208, 0.9547, 0.9718]
    assert list(starting(found, "source")[1]) == [0.9904, 0.9904]
    assert len(found) == 2
    (dashed,) = (line for line in figure.axes[0].lines if line.get_label().startswith("source"))
    assert dashed.get_linestyle() == "--"
    assert figure.axes[0].get_ylim()[1] >= 0.9904  # the line lies inside the picture
    assert len(lines(plots.accuracy_curve(HISTORY))) == 1


@pytest.mark.parametrize(("last", "scale"), [(0.3, "linear"), (0.0134, "log")])
def test_loss_axis_is_logarithmic_where_the_loss_spans_decades(last, scale):
    history = [{"epoch": 1, "loss": 0.6215}, {"epoch": 20, "loss": last}]
    assert plots.loss_curve(history).axes[0].get_yscale() == scale


def test_loss_of_zero_stays_on_a_linear_axis():
    figure = plots.loss_curve([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.0}])
    assert figure.axes[0].get_yscale() == "linear"
    assert list(starting(lines(figure), "training")[1]) == [1.0, 0.0]


@pytest.mark.parametrize("epochs", [1, 2, 7, 30, 300])
def test_epoch_ticks_are_whole_numbers(epochs):
    figure = plots.loss_curve([{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, epochs + 1)])
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) and 1 <= tick <= epochs for tick in ticks)


def test_single_epoch_is_visible_as_a_marker():
    (line,) = plots.loss_curve(HISTORY[:1], "en").axes[0].lines[:1]
    assert line.get_marker() == "o"
    blue = [0x00, 0x72, 0xB2]
    drawn = pixels(plots.accuracy_curve(HISTORY[:1]))
    axes_only = drawn[: drawn.shape[0] // 2 + 40, drawn.shape[1] // 3 : drawn.shape[1] * 2 // 3]
    assert (np.abs(axes_only.astype(int) - blue).sum(2) < 30).any()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_epochs_with_a_loss_that_is_not_finite_are_marked_and_not_drawn(broken):
    history = [*HISTORY[:2], {"epoch": 3, "loss": broken}]
    figure = plots.loss_curve(history)
    found = lines(figure)
    assert list(starting(found, "training")[1][:2]) == [0.6215, 0.1499]
    assert math.isnan(starting(found, "training")[1][2])
    assert list(starting(found, "not a finite")[0]) == [3, 3]
    pixels(figure)


@pytest.mark.parametrize("history", [[], [{"epoch": 1, "loss": math.nan}], [{"epoch": 1, "loss": None}]])
def test_nothing_to_draw_is_said_instead_of_empty_axes(history):
    for figure, said in ((plots.loss_curve(history), "No loss"), (plots.accuracy_curve(history), "No accuracy")):
        assert figure.axes == []
        (text,) = texts(figure)
        assert text.startswith(said)


# predictions


def test_regression_dots_are_the_values_and_the_ideal_line_is_y_equal_x():
    true = torch.tensor([[1.0], [2.0], [4.0]])
    figure = plots.predicted_against_true(torch.tensor([1.5, 2.0, 3.0]), true)
    found = lines(figure)
    x, y = starting(found, "examples")
    assert (list(x), list(y)) == ([1, 2, 4], [1.5, 2, 3])
    x, y = starting(found, "ideal")
    assert list(x) == list(y)
    assert x[0] < 1
    assert x[1] > 4
    assert list(figure.axes[1].lines[0].get_ydata()) == [0.5, 0.0, -1.0]
    # by hand: sqrt((0.25 + 0 + 1) / 3) = 0.6455
    assert any("0.645" in text for text in texts(figure))


def test_regression_values_that_are_not_finite_are_not_drawn():
    figure = plots.predicted_against_true([1.0, math.nan, 3.0], [1.0, 2.0, math.inf])
    assert list(lines(figure)["examples: 1"][0]) == [1.0]
    pixels(figure)
    assert plots.predicted_against_true([math.nan], [1.0]).axes == []


def test_different_numbers_of_predictions_and_truths_are_an_error():
    for draw in (
        lambda: plots.predicted_against_true([1.0, 2.0], [1.0]),
        lambda: plots.confusion_matrix([1, 2], [1], []),
        lambda: plots.worst_mistakes(torch.zeros(2, 1, 4, 4), torch.zeros(1, 3), [0], []),
    ):
        with pytest.raises(ShapeError, match="2"):
            draw()


def test_confusion_matrix_has_the_counts_of_scikit_learn_and_their_shares():
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 9, 500), generator.integers(0, 10, 500)  # class 9 never occurs
    figure = plots.confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(labels), FASHION)
    counts = metrics.confusion_matrix(labels, predicted, labels=range(10))
    axes = figure.axes[0]
    cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert len(cells) == 100
    for (row, column), text in cells.items():
        assert int(text.split("\n")[0]) == counts[row, column]
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), counts / totals)
    assert cells[0, 0] == f"{counts[0, 0]}\n{100 * counts[0, 0] / counts[0].sum():.1f}%"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(FASHION)
    assert f"{metrics.accuracy_score(labels, predicted):.2%}" in figure.get_suptitle()


def test_confusion_matrix_without_class_names_numbers_the_classes_that_occur():
    axes = plots.confusion_matrix([0, 3], [0, 1], []).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1", "2", "3"]


def test_labels_of_the_confusion_matrix_do_not_overlap():
    figure = plots.confusion_matrix(torch.arange(10), torch.arange(10), FASHION)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    cells = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(cells) for b in cells[:i])
    many = plots.confusion_matrix(torch.arange(100), torch.arange(100), [])
    many.canvas.draw()
    boxes = [label.get_window_extent() for label in many.axes[0].get_xticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def slow_worst_mistakes(logits, labels):
    """[(index, predicted, probability)], surest first, one image after another with plain Python numbers."""
    mistakes = []
    for index, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        total = sum(math.exp(value) for value in row)
        shares = [math.exp(value) / total for value in row]
        guess = shares.index(max(shares))
        if guess != label:
            mistakes.append((index, guess, shares[guess]))
    return sorted(mistakes, key=lambda mistake: (-mistake[2], mistake[0]))


@pytest.mark.parametrize(("images", "count"), [(200, 25), (12, 25), (200, 7)])
def test_worst_mistakes_are_those_of_a_slow_computation_in_its_order(images, count):
    torch.manual_seed(1)
    pictures = torch.randint(256, (images, 1, 8, 8), dtype=torch.uint8)
    logits, labels = 3 * torch.randn(images, 10, dtype=torch.float64), torch.randint(10, (images,))
    expected = slow_worst_mistakes(logits, labels)
    figure = plots.worst_mistakes(pictures, logits, labels, FASHION, count=count)
    assert len(figure.axes) == min(count, len(expected))
    for axes, (index, guess, share) in zip(figure.axes, expected, strict=False):
        assert axes.get_title() == f"{FASHION[labels[index]]} → {FASHION[guess]}\n{100 * share:.1f}%"
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), pictures[index, 0])
    assert str(len(expected)) in figure.get_suptitle()


def test_logits_of_ten_thousand_give_a_probability_and_no_warning():
    figure = plots.worst_mistakes(torch.zeros(1, 1, 4, 4), torch.tensor([[1e4, -1e4]]), torch.tensor([1]), [])
    assert figure.axes[0].get_title() == "1 → 0\n100.0%"
    pixels(figure)


def test_no_mistakes_and_no_images_are_said():
    logits = torch.eye(3)
    right = plots.worst_mistakes(torch.zeros(3, 1, 4, 4), logits, torch.arange(3), [])
    assert right.axes == []
    assert texts(right) == ["No mistake: all 3 images right."]
    none = plots.worst_mistakes(torch.zeros(0, 1, 4, 4), torch.zeros(0, 3), torch.zeros(0), [])
    assert texts(none) == texts(plots.confusion_matrix([], [], FASHION)) == ["No images to draw."]


def test_images_of_three_channels_are_drawn_in_their_colours():
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    images[0, 0] = 255  # red
    figure = plots.worst_mistakes(images, torch.tensor([[1.0, 0.0]]), torch.tensor([1]), [])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (2, 2, 3)
    np.testing.assert_array_equal(shown, np.broadcast_to([1.0, 0.0, 0.0], (2, 2, 3)))


def test_class_names_with_dollars_are_text_and_no_formula():
    figure = plots.worst_mistakes(
        torch.zeros(1, 1, 4, 4), torch.tensor([[1.0, 0.0]]), torch.tensor([1]), ["$a_1$", "$"]
    )
    pixels(figure)  # as a formula, "$ → $a_1$" would not parse
    assert r"\$a_1\$" in figure.axes[0].get_title()


# layers


def tiles(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_filters_of_a_convolution_are_drawn_one_by_one_on_one_scale():
    weight = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    figure = plots.filters(weight)
    for tile, kernel in zip(tiles(figure), weight[:, 0], strict=True):
        np.testing.assert_allclose(tile, kernel)
    scales = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    greatest = float(weight.abs().max())
    assert scales == {(-greatest, greatest)}  # symmetric, so that white is 0


def test_templates_of_a_softmax_regression_are_images_under_their_class_names():
    weight = torch.randn(10, 784, generator=torch.Generator().manual_seed(0))
    figure = plots.filters(weight, class_names=FASHION)
    for tile, row in zip(tiles(figure), weight, strict=True):
        np.testing.assert_allclose(tile, row.reshape(28, 28))
    assert [axes.get_title() for axes in figure.axes if axes.images] == list(FASHION)


def test_of_many_units_the_first_64_are_drawn():
    weight = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    figure = plots.filters(weight)
    assert len(tiles(figure)) == 64
    np.testing.assert_allclose(tiles(figure)[63], weight[63].reshape(8, 8))
    assert "64 of 256" in figure.get_suptitle()


def test_filters_of_colour_images_are_colours_about_grey():
    weight = torch.zeros(2, 3, 3, 3)
    weight[0, 2] = 0.5  # blue, at full strength
    (first, second) = tiles(plots.filters(weight))
    np.testing.assert_allclose(first, np.broadcast_to([0.5, 0.5, 1.0], (3, 3, 3)))
    np.testing.assert_allclose(second, 0.5)


def test_filters_of_other_channels_are_a_table_of_filters_and_channels():
    weight = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    found = tiles(plots.filters(weight))
    assert len(found) == 24
    np.testing.assert_allclose(found[7], weight[1, 1])


def test_weights_of_inputs_that_are_no_image_are_one_matrix():
    weight = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(tiles(plots.filters(weight))[0], weight)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 1, 5, 5)])
def test_weights_of_another_shape_are_an_error(shape):
    with pytest.raises(ShapeError, match="expected"):
        plots.filters(torch.zeros(shape))


def test_image_shape_that_rows_do_not_fill_is_an_error():
    with pytest.raises(ShapeError, match="784"):
        plots.filters(torch.zeros(10, 784), image_shape=(1, 8, 8))


def test_feature_maps_show_the_image_the_maps_and_vectors_as_bars():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 8, 8), dtype=torch.uint8, generator=generator)
    maps, vector = torch.randn(3, 4, 4, generator=generator), torch.randn(10, generator=generator)
    figure = plots.feature_maps(image, [("conv", maps), ("out", vector)], class_names=FASHION)
    picture, row, bars = figure.axes
    np.testing.assert_array_equal(np.asarray(picture.images[0].get_array()), image[0])
    drawn = np.ma.filled(row.images[0].get_array(), np.nan)  # three maps of 4 columns with gaps of one
    for index in range(3):
        np.testing.assert_allclose(drawn[:, 5 * index : 5 * index + 4], maps[index])
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], vector)
    colours = [bar.get_facecolor() for bar in bars.patches]
    assert [colours.count(colour) for colour in colours].index(1) == int(vector.argmax())
    assert [tick.get_text() for tick in bars.get_xticklabels()] == list(FASHION)


def test_of_many_maps_the_first_16_are_drawn_and_maps_of_one_pixel_are_bars():
    maps = [("wide", torch.zeros(1, 64, 4, 4)), ("pooled", torch.ones(64, 1, 1))]
    figure = plots.feature_maps(torch.zeros(1, 8, 8), maps)
    assert figure.axes[1].get_title(loc="left") == "wide: 16 of 64 maps of 4×4"
    assert len(figure.axes[2].patches) == 64


def test_recorded_outputs_are_those_of_the_layers_called_by_hand():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)
    model = nn.Sequential(conv, nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(), linear).eval()
    batch = torch.randn(1, 1, 8, 8)
    maps, output = figures.layer_outputs(model, batch)
    expected = conv(batch)
    assert [name for name, _ in maps] == ["0 Conv2d", "1 ReLU", "4 Linear"]
    torch.testing.assert_close(maps[0][1], expected[0].detach())  # also under an in-place ReLU
    torch.testing.assert_close(maps[1][1], expected[0].clamp(min=0).detach())
    torch.testing.assert_close(maps[2][1], linear(expected.clamp(min=0).flatten(1))[0].detach())
    torch.testing.assert_close(output, model(batch).detach())
    assert not any(layer._forward_hooks for layer in model.modules())


# pictures of a run


def test_pictures_of_a_classification_and_of_a_regression(tmp_path):
    run, dataset = classification(tmp_path)
    of_all = {"loss", "accuracy", "confusion", "mistakes", "filters", "features", "gradcam", "receptive"}
    assert set(plots.figures_of(run, dataset)) == of_all
    run, dataset = regression(tmp_path)
    found = plots.figures_of(run, dataset)
    assert set(found) == {"loss", "predicted"}
    x, y = starting(lines(found["predicted"]), "examples")
    np.testing.assert_allclose(x, dataset.test_labels[:, 0])
    np.testing.assert_allclose(y, run.model()(dataset.test_images)[:, 0].detach(), rtol=1e-6)


def test_accuracy_of_a_run_shows_its_own_test_accuracy_beside_the_source(tmp_path):
    run, dataset = classification(tmp_path, reported={"accuracy": 0.9904}, result={"accuracy": 0.9876})
    found = lines(plots.figures_of(run, dataset, only=["accuracy"])["accuracy"])
    assert starting(found, "this run") == ([3], [0.9876])
    assert list(starting(found, "source")[1]) == [0.9904, 0.9904]


def test_curves_of_an_unfinished_run_need_no_weights(tmp_path):
    run, dataset = classification(tmp_path)

    def no_weights():
        raise RunError("no weights yet")

    run.model = no_weights
    assert set(plots.figures_of(run, dataset, only=["loss", "accuracy"])) == {"loss", "accuracy"}


def test_units_of_a_softmax_regression_bear_class_names_and_those_of_a_deeper_network_numbers(tmp_path):
    run, dataset = classification(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    axes = plots.figures_of(run, dataset, only="filters")["filters"].axes
    assert axes[0].get_title() == "T-shirt/top"
    run, dataset = classification(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10)))
    axes = plots.figures_of(run, dataset, only="filters")["filters"].axes
    assert axes[0].get_title() == "1"


@pytest.mark.parametrize(
    ("count", "channels", "names", "lang"),
    [(40, 1, FASHION, "en"), (1, 1, FASHION, "zh"), (5, 3, (), "zh"), (0, 1, (), "en")],
)
def test_saved_pictures_are_pngs_with_ink_and_nothing_else_is_left(tmp_path, count, channels, names, lang):
    run, dataset = classification(tmp_path / "run", count=count, channels=channels, class_names=names)
    paths = plots.save_figures(run, dataset, lang)
    assert [path.parent for path in paths] == [tmp_path / "run" / "figures"] * len(paths)
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {path.stem for path in paths} <= {picture.name for picture in plots.PICTURES}
    assert len(paths) == (8 if count else 2)
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.width >= 600
            assert np.asarray(picture.convert("L")).std() > 1


def test_saving_again_replaces_the_picture(tmp_path):
    run, dataset = classification(tmp_path)
    (path,) = plots.save_figures(run, dataset, only=["loss"])
    path.write_bytes(b"old")
    assert plots.save_figures(run, dataset, only=["loss"]) == [path]
    with Image.open(path) as picture:
        picture.load()


def test_failed_save_keeps_the_old_picture_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    run, dataset = classification(tmp_path)
    (path,) = plots.save_figures(run, dataset, only=["loss"])
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    run.records = HISTORY[:1]  # another picture
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"loss\.png: No space left") as raised:
        plots.save_figures(run, dataset, only=["loss"])
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_run_directory_that_cannot_hold_figures_is_an_error_of_one_line(tmp_path):
    run, dataset = classification(tmp_path)
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        plots.save_figures(run, dataset, only=["loss"])


@pytest.mark.parametrize("wrong", [{"lang": "de"}, {"only": ["confusio"]}, {"only": ["loss", "acuracy"]}])
def test_unknown_language_or_picture_is_an_error_before_anything_is_written(tmp_path, wrong):
    run, dataset = classification(tmp_path)
    with pytest.raises(UnknownName, match=r"did you mean|known:"):
        plots.save_figures(run, dataset, **wrong)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnknownName):
        plots.loss_curve(HISTORY, "de")


def test_picture_that_does_not_suit_the_run_is_an_error_that_names_those_that_do(tmp_path):
    with pytest.raises(SettingsError, match=r"'confusion'.*regression.*loss, predicted$"):
        plots.figures_of(*regression(tmp_path), only=["confusion"])
    others = "loss, accuracy, confusion, mistakes, filters, features, gradcam, receptive"
    with pytest.raises(SettingsError, match=f"'predicted'.*classification.*{others}$"):
        plots.figures_of(*classification(tmp_path), only=["predicted"])
    run, dataset = classification(tmp_path, nn.Flatten())
    with pytest.raises(SettingsError, match="'filters'"):
        plots.figures_of(run, dataset, only=["filters"])


# languages


def test_every_text_stands_in_both_languages_with_the_same_values():
    for key, (english, chinese) in language.WORDS.items():
        assert not any("\u4e00" <= letter <= "\u9fff" for letter in english), key
        assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese), key
        assert sorted(part.split("}")[0] for part in english.split("{")[1:]) == sorted(
            part.split("}")[0] for part in chinese.split("{")[1:]
        ), key


@needs_chinese_font
def test_chinese_pictures_are_in_chinese_without_a_missing_glyph(tmp_path):
    run, dataset = classification(tmp_path, reported={"accuracy": 0.99})
    run.records = [*HISTORY, {"epoch": 4, "loss": math.nan, "accuracy": 0.9}]
    found = plots.figures_of(run, dataset, "zh") | plots.figures_of(*regression(tmp_path), "zh", only="predicted")
    for name, figure in found.items():
        pixels(figure)  # a missing glyph is a warning, and every warning an error
        assert not {text for text in texts(figure) if "epoch" in text or "loss" in text or "image" in text}, name
        assert any("\u4e00" <= letter <= "\u9fff" for text in texts(figure) for letter in text), name
    ticks = found["confusion"].axes[0].get_yticklabels()
    assert tuple(tick.get_text() for tick in ticks) == FASHION_IN_CHINESE


@needs_chinese_font
def test_ticks_have_the_font_of_the_other_texts():
    figure = plots.loss_curve(HISTORY, "zh")
    figure.canvas.draw()
    ticks = [label for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for label in axis.get_ticklabels()]
    assert {tuple(label.get_fontfamily()) for label in ticks} == {tuple(figure.axes[0].title.get_fontfamily())}


@needs_chinese_font
def test_chinese_beside_a_formula_has_its_glyphs():
    figure = plots.loss_curve(HISTORY, "zh")
    text = figure.text(0.5, 0.5, "损失 $x^2$", fontfamily=language.font_families("zh"))
    pixels(figure)
    assert text.get_fontfamily()[0] in language.CJK_FAMILIES


@needs_chinese_font
def test_chinese_class_names_are_written_in_english_pictures_too():
    pixels(plots.confusion_matrix([0, 1], [0, 1], ["猫", "狗"], "en"))


def test_english_pictures_have_no_chinese(tmp_path):
    run, dataset = classification(tmp_path)
    for figure in plots.figures_of(run, dataset, "en").values():
        assert not any("\u4e00" <= letter <= "\u9fff" for text in texts(figure) for letter in text)


def test_without_a_chinese_font_the_pictures_are_english_and_one_notice_says_so(tmp_path, monkeypatch, caplog):
    take_chinese_fonts_away(monkeypatch)
    run, dataset = classification(tmp_path)
    with caplog.at_level(logging.WARNING, "byhand.plots"):
        chinese = plots.figures_of(run, dataset, "zh", ["loss", "confusion"])
        plots.loss_curve(HISTORY, "zh")
    (record,) = (record for record in caplog.records if record.name == "byhand.plots")
    assert "fonts-noto-cjk" in record.getMessage()
    assert "\n" not in record.getMessage()
    for name, figure in plots.figures_of(run, dataset, "en", ["loss", "confusion"]).items():
        assert texts(chinese[name]) == texts(figure), name
        pixels(chinese[name])


@needs_chinese_font
def test_font_installed_after_matplotlib_made_its_list_is_found(monkeypatch):
    family = language.cjk_family()
    without = [font for font in font_manager.fontManager.ttflist if font.name not in language.CJK_FAMILIES]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", without)
    assert language.cjk_family() == family


# no display


def test_importing_the_package_imports_neither_matplotlib_nor_torch():
    code = (
        "import sys; from byhand.plots import LANGUAGES, PICTURES;"
        "print(sorted({'torch', 'matplotlib', 'numpy'} & set(sys.modules)), len(PICTURES), LANGUAGES)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[] 16 ('en', 'zh')"


def test_pictures_are_drawn_without_a_display_and_without_pyplot(tmp_path):
    code = (
        "import sys, pathlib, torch\n"
        "from byhand import plots\n"
        "figure = plots.accuracy_curve([{'epoch': 1, 'loss': 1.0, 'accuracy': 0.5}], 'zh', 0.9)\n"
        "figure.savefig(sys.argv[1])\n"
        "plots.worst_mistakes(torch.zeros(1, 1, 4, 4), torch.eye(2)[:1], [1], []).savefig(sys.argv[1])\n"
        "plots.show(pathlib.Path(sys.argv[1]))\n"
        "plots.show([figure])\n"
        "print('matplotlib.pyplot' in sys.modules, 'tkinter' in sys.modules)\n"
    )
    path = tmp_path / "picture.png"
    # a backend that needs a display would fail here, if it were ever loaded
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"MPLBACKEND": "tkagg", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    assert answer.stdout.strip() == "False False"
    if sys.platform == "linux":
        said = [line for line in answer.stderr.splitlines() if "no display" in line]
        assert len(said) == 2
        assert said[0].endswith(str(path))
    assert Image.open(path).format == "PNG"


@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open is the viewer of Linux desktops")
def test_show_starts_the_viewer_once_for_each_file_and_does_not_wait_for_it(tmp_path, monkeypatch, capsys):
    started = []

    class Viewer:
        def __init__(self, command, **_):
            started.append(command)

        def wait(self):
            return 0

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(figures.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(figures.subprocess, "Popen", Viewer)
    plots.show([tmp_path / "loss.png", tmp_path / "accuracy.png"])
    assert started == [["xdg-open", str(tmp_path / "loss.png")], ["xdg-open", str(tmp_path / "accuracy.png")]]
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open is the viewer of Linux desktops")
def test_show_says_where_the_files_are_when_the_viewer_does_not_start(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("no such program")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(figures.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(figures.subprocess, "Popen", fail)
    plots.show([tmp_path / "loss.png", tmp_path / "accuracy.png"])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"no display to show the pictures on; they are in {tmp_path}\n"
    plots.show([])
    assert capsys.readouterr() == ("", "")


def test_unknown_names_of_the_module_are_attribute_errors():
    with pytest.raises(AttributeError, match="loss_curves"):
        plots.loss_curves  # noqa: B018
    assert all(callable(getattr(plots, name)) for name in plots.HOMES)


def test_of_a_deep_network_layers_from_the_first_to_the_last_are_shown():
    from byhand.plots.figures import spread

    assert spread([1, 2, 3], 3) == [1, 2, 3]
    assert spread(list(range(31)), 16) == list(range(0, 31, 2))
    found = spread(list(range(100)), 16)
    assert (len(found), found[0], found[-1]) == (16, 0, 99)
