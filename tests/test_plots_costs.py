"""Accuracy against multiply-adds: every trained network once, at its place, its name where no other is."""

import json

import numpy as np
import pytest
from test_plots import pixels, texts

from byhand import plots
from byhand.errors import DataError, RunError, SettingsError, ShapeError
from byhand.plots import Point
from byhand.runs.run import Run
from byhand.trained import multiply_adds, trained_networks

LENET5 = 25 * 6 * 28**2 + 25 * 6 * 16 * 10**2 + 400 * 120 + 120 * 84 + 84 * 10  # 416,520
MLP = 784 * 256 + 256 * 128 + 128 * 10


def record_of(folder, recipe, plan, dataset, accuracy, size):
    means = {} if accuracy is None else {"accuracy": {"mean": accuracy}}
    record = {
        "recipe": recipe,
        "plan": plan,
        "dataset": dataset,
        "command": "",
        "seeds": [0],
        "epochs": 1,
        "source": {},
        "goal": {},
    }
    record |= {"means": means, "environment": {}, "settings": {"preparation": {"size": size, "fit": size and "pad"}}}
    folder.mkdir(exist_ok=True)
    (folder / f"{recipe}-{plan}.json").write_text(json.dumps(record))


def run_of(folder, accuracy, plan="fast", seed=0, **result):
    recipe = {"recipe": "lenet5-mnist", "plan": plan, "seed": seed, "dataset": "mnist", "input_shape": [1, 28, 28]}
    recipe |= {
        "network": {"name": "lenet5", "options": {"activation": "tanh"}},
        "preparation": {"size": 32, "fit": "pad"},
    }
    run = Run.create(folder, recipe, {})
    run.log({"epoch": 1, "loss": 1.0})
    run.finish({"accuracy": accuracy, "measured_on": "test set", **result})
    return run.path


def test_records_and_runs_become_points_with_the_cost_counted_by_hand(tmp_path):
    record_of(tmp_path / "results", "lenet5-mnist", "best", "mnist", 0.9957, 32)
    record_of(tmp_path / "results", "mlp-fashion", "fast", "fashion-mnist", 0.88, None)
    record_of(tmp_path / "results", "linear-regression", "fast", "synthetic-linear", None, None)
    for seed, accuracy in enumerate((0.98, 0.99)):
        run_of(tmp_path / "runs", accuracy, seed=seed)
    run_of(tmp_path / "runs", 0.999, measured_on="held-out training examples")
    Run.create(tmp_path / "runs", {"recipe": "unfinished"}, {})
    assert trained_networks(tmp_path / "results", tmp_path / "runs") == [
        Point("lenet5-mnist best", "mnist", LENET5, 0.9957),
        Point("mlp-fashion fast", "fashion-mnist", MLP, 0.88),
        Point("lenet5-mnist fast", "mnist", LENET5, 0.985, published=False),
    ]


def test_only_the_runs_that_are_named_are_drawn(tmp_path):
    run_of(tmp_path / "runs", 0.98)
    named = run_of(tmp_path / "runs", 0.97, plan="book", seed=1)
    (point,) = trained_networks(tmp_path / "none", tmp_path / "runs", [named])
    assert (point.name, point.accuracy) == ("lenet5-mnist book", 0.97)
    held_out = run_of(tmp_path / "runs", 0.9, seed=2, measured_on="held-out training examples")
    with pytest.raises(RunError, match="no accuracy on a test set"):
        trained_networks(tmp_path / "none", tmp_path / "runs", [held_out])
    with pytest.raises(RunError, match="no run directory"):
        trained_networks(runs=[tmp_path / "nothing"])


def test_nothing_to_draw_and_records_of_unknown_recipes_are_errors(tmp_path):
    with pytest.raises(SettingsError, match="no trained network"):
        trained_networks(tmp_path / "results", tmp_path / "runs")
    record_of(tmp_path / "results", "lenet7", "fast", "mnist", 0.99, 32)
    with pytest.raises(DataError, match=r"lenet7-fast\.json: unknown recipe 'lenet7'"):
        trained_networks(tmp_path / "results", tmp_path / "runs")


def test_multiply_adds_are_those_at_the_prepared_size_and_with_the_options():
    lenet = {"name": "lenet5", "options": {"num_classes": 47}}
    assert multiply_adds(lenet, (1, 28, 28), {"size": 32, "fit": "pad"}) == LENET5 + 84 * 37
    # He et al.'s ResNet-20 costs 0.041 · 10⁹ at 32 px; the convolutions of 28 px a share of (28 / 32)²
    big = multiply_adds({"name": "resnet20", "options": {}}, (3, 32, 32), None)
    small = multiply_adds({"name": "resnet20", "options": {}}, (3, 28, 28), None)
    assert 40e6 < big < 42e6
    assert (small - 640) / (big - 640) == (28 / 32) ** 2


MANY = [
    Point(f"network-{index} plan", f"data-{index % 3}", cost, accuracy)
    for index, (cost, accuracy) in enumerate(
        [(416520, 0.999 - 0.0007 * i) for i in range(8)]
        + [(235000, 0.9 + 0.001 * i) for i in range(8)]
        + [(7840, 0.84)]
        + [(40_000_000 + 1000 * i, 0.95) for i in range(6)]
    )
]


# Nine data sets, whose long legend has no room at the upper left.
LEFT = [Point(f"network-{k} plan", f"image-folder:data-{k}", 8000 * 2**k, 0.9 - 0.05 * k) for k in range(9)]


@pytest.mark.parametrize("points", [MANY, MANY[:1], [point._replace(accuracy=1.0) for point in MANY], LEFT])
def test_names_overlap_neither_each_other_nor_points_and_stay_in_the_picture(points):
    figure = plots.accuracy_against_cost(points)
    figure.canvas.draw()
    axes = figure.axes[0]
    names = [text for text in axes.texts if text.get_text().startswith("network")]
    assert sorted(text.get_text() for text in names) == sorted(point.name for point in points)
    boxes = [text.get_window_extent() for text in names]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    dots = [axes.transData.transform(line.get_xydata()[0]) for line in axes.lines if line.get_marker() != "None"]
    assert len(dots) == len(points)
    legend = axes.get_legend().get_window_extent()
    assert not any(box.contains(*dot) for box in [*boxes, legend] for dot in dots)
    assert not any(box.overlaps(legend) for box in boxes)
    frame = figure.bbox
    assert all(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1 for box in boxes)


def test_more_data_sets_than_colours_have_other_markers():
    axes = plots.accuracy_against_cost(LEFT).axes[0]
    dots = {(line.get_color(), line.get_marker()) for line in axes.lines if line.get_marker() != "None"}
    assert len(dots) == len(LEFT)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_points_lie_at_their_cost_and_accuracy_in_the_colour_of_their_data(lang):
    points = [
        Point("a", "mnist", 1000, 0.99),
        Point("b", "fashion", 100_000, 0.9),
        Point("c", "mnist", 1_000_000, 0.97, published=False),
    ]
    figure = plots.accuracy_against_cost(points, lang)
    axes = figure.axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], [1000, 100_000, 1_000_000])
    np.testing.assert_allclose([dot.get_ydata()[0] for dot in dots], [0.01, 0.1, 0.03])  # errors
    low, high = axes.get_ylim()
    assert low > high  # the better the higher
    ticks = {label.get_text() for label in axes.get_yticklabels()}
    assert "0.99" in ticks
    assert dots[0].get_color() == dots[2].get_color() != dots[1].get_color()
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, False, True]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[:2] == ["mnist", "fashion"]
    assert len(legend) == 3
    assert {"a", "b", "c"} <= set(texts(figure))
    pixels(figure)


@pytest.mark.parametrize("point", [Point("a", "b", 0, 0.5), Point("a", "b", 10, 1.5)])
def test_points_that_cannot_be_are_refused(point):
    with pytest.raises(ShapeError, match="expected"):
        plots.accuracy_against_cost([point])
    with pytest.raises(ShapeError, match="at least one"):
        plots.accuracy_against_cost([])
