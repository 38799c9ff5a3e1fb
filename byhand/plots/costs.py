"""Accuracy against multiply-adds: what each trained network costs for one image, and what it gives for it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from byhand.errors import ShapeError
from byhand.plots.canvas import BLUE, GREEN, GREY, ORANGE, PINK, blank_figure, finished
from byhand.plots.language import word, writable_language

COLOURS = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#E69F00", "#000000")  # Okabe and Ito (2008)
MARKERS = "osD^v"  # another where the colours come round
NICE = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)


class Point(NamedTuple):
    """A trained network: its name, its data set's, multiply-adds for one image, test accuracy in 0..1.

    `published` where it is the mean of a record of results, not a run of one's own.
    """

    name: str
    dataset: str
    multiply_adds: int
    accuracy: float
    published: bool = True


def accuracy_against_cost(points: Sequence[Point], lang: str = "en") -> Figure:
    """Each point with its name, a colour and marker for each data set; single runs hollow.

    Multiply-adds are on a logarithmic axis, and so are the errors, 1 − accuracy, unless they span less than a factor of
    three or one is 0: otherwise all good networks would lie on one line.

    Raises:
        ShapeError: no points, an accuracy outside 0..1, or no multiply-adds.
    """
    lang = writable_language(lang)
    if not points:
        raise ShapeError("no points to draw; give at least one")
    for point in points:
        if not 0 <= point.accuracy <= 1 or point.multiply_adds < 1:
            raise ShapeError(f"{point}: expected an accuracy from 0 to 1 and at least one multiply-add")
    errors = np.array([1 - point.accuracy for point in points])
    logarithmic = bool(errors.min() > 0 and errors.max() > 3 * errors.min())

    figure = blank_figure(10, 6.4)
    axes = figure.add_subplot()
    axes.set_title(word("costs_title", lang))
    axes.set_xscale("log")
    axes.set_xlabel(word("costs_axis", lang))
    axes.set_ylabel(word("costs_accuracy_log" if logarithmic else "costs_accuracy", lang))
    datasets = list(dict.fromkeys(point.dataset for point in points))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(datasets)}
    markers = {name: MARKERS[index // len(COLOURS) % len(MARKERS)] for index, name in enumerate(datasets)}
    for point, error in zip(points, errors, strict=True):
        axes.plot(
            [point.multiply_adds],
            [error if logarithmic else point.accuracy],
            linestyle="",
            marker=markers[point.dataset],
            markersize=7,
            color=colours[point.dataset],
            markerfacecolor=colours[point.dataset] if point.published else "white",
            markeredgewidth=1.5,
        )
    costs = [point.multiply_adds for point in points]
    axes.set_xlim(min(costs) / 2.5, max(costs) * 6)  # room for names
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(errors.max() * 1.35, errors.min() / 1.35)
        axes.yaxis.set_major_locator(FixedLocator([1 - value for value in NICE]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{1 - value:.4g}"))
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: counted(value)))
    axes.grid(True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], linestyle="", marker=markers[name], color=colours[name], label=name) for name in datasets]
    if not all(point.published for point in points):
        single: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.5, "label": word("costs_runs", lang)}
        handles.append(Line2D([], [], linestyle="", marker="o", color=GREY, **single))
    legend = axes.legend(handles=handles, frameon=False, loc="best")
    finished(figure, lang)
    figure.canvas.draw()  # places are known only when the layout is
    beside = legend.get_window_extent()
    legend.set_loc(tuple(axes.transAxes.inverted().transform(beside.p0)))  # to stay when names have come
    name_points(axes, points, errors if logarithmic else 1 - errors, colours, [beside])
    return finished(figure, lang)


def name_points(
    axes: Any, points: Sequence[Point], heights: np.ndarray, colours: dict[str, str], taken: list[Bbox]
) -> None:
    """Write each point's name beside it, or further off with a line to it, where no other name, point or line is.

    Where that leaves no place, a line may cross a name, then a name a line.
    """
    costs = [point.multiply_adds for point in points]
    places = axes.transData.transform(np.column_stack([costs, heights]))
    frame, dots = axes.get_window_extent().extents, axes.figure.dpi / 72  # dots a point
    radius = 5.5 * dots
    boxes = np.array(
        [*(box.extents for box in taken), *((x - radius, y - radius, x + radius, y + radius) for x, y in places)]
    )
    lines = np.empty((0, 4))
    for index in np.argsort(-places[:, 1]):  # from the top, so that names of one cost hang under each other
        point, (x, y) = points[index], places[index]
        label = axes.annotate(
            point.name, (costs[index], heights[index]), (0, 0), textcoords="offset points", fontsize=8, va="bottom"
        )
        label.set_in_layout(False)
        extent = label.get_window_extent()
        tried = [placed(x, y, dx * dots, dy * dots, extent.width, extent.height) for dx, dy in offsets()]
        tried = [box for box in tried if (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()]
        ways = [line_to(box, x, y, 2 * radius) for box in tried]
        clear = [not overlap(box[None], boxes) for box in tried]
        aside = [not overlap(box[None], lines) for box in tried]
        open_way = [not overlap(way, boxes) for way in ways]
        ranks = [(not c, not a, not w) for c, a, w in zip(clear, aside, open_way, strict=True)]
        best = ranks.index(min(ranks))  # the nearest of the best
        box, way = tried[best], ways[best]
        boxes, lines = np.vstack([boxes, box]), np.vstack([lines, way])
        label.xyann = ((box[0] - x) / dots, (box[1] - y) / dots)
        if len(way):
            ends = axes.transData.inverted().transform([(x, y), nearest(box, x, y)])
            axes.plot(ends[:, 0], ends[:, 1], color=colours[point.dataset], linewidth=0.7, zorder=1)


def placed(x: float, y: float, dx: float, dy: float, width: float, height: float) -> np.ndarray:
    """The box of a text whose near side, or its middle where dx is 0, lies that far from (x, y)."""
    left = x + dx - (width if dx < 0 else width / 2 if dx == 0 else 0)
    bottom = y + dy - height / 2
    return np.array([left, bottom, left + width, bottom + height])


def overlap(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether any box of (n, 4) overlaps any of (m, 4), each x0, y0, x1, y1; a dot apart is not enough."""
    a, b = some[:, None], others[None]
    return bool(((a[..., :2] < b[..., 2:] + 1) & (a[..., 2:] > b[..., :2] - 1)).all(-1).any())


def nearest(box: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """The place of the box that is nearest to (x, y)."""
    return float(min(max(x, box[0]), box[2])), float(min(max(y, box[1]), box[3]))


def line_to(box: np.ndarray, x: float, y: float, near: float) -> np.ndarray:
    """Small boxes along the line from (x, y) to the box, but for its ends; none where the box is near enough."""
    end = np.array(nearest(box, x, y))
    length = math.hypot(*(end - (x, y)))
    if length <= near:
        return np.empty((0, 4))
    shares = np.linspace(near / length, 1, max(int(length / 4), 2))[:-1, None]
    middles = (x, y) + shares * (end - (x, y))
    return np.hstack([middles - 1, middles + 1])


def offsets() -> Iterator[tuple[float, float]]:
    """Where a name may start, in points from its point, nearest first: right, left, above, below, then round about."""
    yield from ((8, 0), (-8, 0), (0, 11), (0, -11))
    for distance in range(14, 320, 8):
        for angle in (0, 180, 25, -25, 155, -155, 50, -50, 130, -130, 80, -80, 100, -100):
            turn = math.radians(angle)
            yield distance * math.cos(turn), distance * math.sin(turn)


def counted(value: float) -> str:
    """1000 as 1 K, 10⁶ as 1 M, 10⁹ as 1 G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
