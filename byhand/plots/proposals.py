"""What a detector starts from: its anchors, its proposals before and after suppression, and what both stages learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from byhand.ops.boxes import box_iou
from byhand.plots.canvas import GREY, as_array, blank_figure, draw_image, finished
from byhand.plots.detections import COLOURS, outline
from byhand.plots.language import word, writable_language
from byhand.plots.seen import Level, Proposed, Taught

MOST_BOXES = 50  # of proposals in one picture
MOST_POINTS = 48  # of a map along its longer side
COVERED = 0.5  # IoU


def anchors_figure(image: Any, levels: Sequence[Level], lang: str = "en") -> Figure:
    """For each map the points that anchors lie around, and those of one point, a colour for each ratio.

    What of these boxes lies beyond the image is drawn too; the image in each panel is its scale.
    """
    lang = writable_language(lang)
    pixels = as_array(image)
    height, width = pixels.shape[1:]
    spans = [reach(level, width, height) for level in levels]
    columns = min(len(levels), 3)
    rows = -(-len(levels) // columns)
    side = 4.6
    tall = side * max(min(max((span[3] - span[1]) / (span[2] - span[0]), 0.3), 2.5) for span in spans)
    figure = blank_figure(max(side * columns, 6.5), (tall + 0.5) * rows + 0.8)
    figure.suptitle(word("anchors_title", lang), fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(levels) :]:
        axes.remove()
    ratios: dict[str, str] = {}
    for axes, level, span in zip(grid.flat, levels, spans, strict=False):
        draw_image(axes, pixels)
        step = -(-max(level.grid) // MOST_POINTS)
        points = points_of(level, step)
        size = 2.2 if max(level.grid) <= 24 else 1.2
        axes.plot(points[:, 0] - 0.5, points[:, 1] - 0.5, ".", color="white", markersize=1.8 * size, zorder=2)
        axes.plot(points[:, 0] - 0.5, points[:, 1] - 0.5, ".", color="black", markersize=size, zorder=2)
        for box, measured in zip(level.around, level.ratios.tolist(), strict=True):
            ratio = nearest_ratio(measured)
            colour = ratios.setdefault(ratio, COLOURS[len(ratios) % len(COLOURS)])
            outline(axes, box, edgecolor=colour, linewidth=1.3, zorder=3)
        axes.set(xlim=(span[0] - 0.5, span[2] - 0.5), ylim=(span[3] - 0.5, span[1] - 0.5))
        title = word(
            "anchors_level",
            lang,
            size=f"{level.grid[0]} × {level.grid[1]}",
            count=f"{level.grid[0] * level.grid[1] * len(level.around):,}",
            each=len(level.around),
        )
        axes.set_title(title + (word("anchors_step", lang, step=step) if step > 1 else ""), fontsize=9)
    handles = [
        Line2D([], [], color=colour, label=word("anchors_ratio", lang, ratio=ratio)) for ratio, colour in ratios.items()
    ]
    handles.append(Line2D([], [], color="black", marker=".", linestyle="", label=word("anchors_point", lang)))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return finished(figure, lang)


def reach(level: Level, width: int, height: int) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 around the image and the boxes that are drawn of a level, with a little room."""
    boxes, room = as_array(level.around), 0.02 * max(height, width)
    x1, y1 = np.minimum(boxes[:, :2].min(0), 0) - room
    x2, y2 = np.maximum(boxes[:, 2:].max(0), [width, height]) + room
    return float(x1), float(y1), float(x2), float(y2)


def points_of(level: Level, step: int) -> np.ndarray:
    """The points of each ``step``-th row and column of a map, (N, 2); those in the padding are not among them."""
    points = as_array(level.points)
    columns, rows = np.unique(points[:, 0])[::step], np.unique(points[:, 1])[::step]
    return points[np.isin(points[:, 0], columns) & np.isin(points[:, 1], rows)]


def nearest_ratio(ratio: float) -> str:
    """Height / width in words: corners are rounded to pixels, so that a ratio of 2 may measure 1.94."""
    known = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0)
    best = min(known, key=lambda one: abs(np.log(ratio / one)))
    return f"{best:.2g}" if abs(np.log(ratio / best)) < 0.15 else f"{ratio:.1f}"


def proposals_figure(image: Any, found: Proposed, objects: Tensor | None, lang: str = "en") -> Figure:
    """The best proposals before and after suppression, coloured by objectness, over the objects where they are known.

    ``objects``: boxes (M, 4) of the image. Above each panel stands how many of them those that are drawn cover.
    """
    lang = writable_language(lang)
    pixels = as_array(image)
    height, width = pixels.shape[1:]
    side = 5.0
    figure = blank_figure(2 * side + 1.2, side * min(max(height / width, 0.3), 2) + 1.3)
    figure.suptitle(word("proposals_title", lang), fontsize=12)
    panels = figure.subplots(1, 2)
    shades = ScalarMappable(Normalize(0, 1), "plasma")
    for axes, key, places in zip(
        panels, ("proposals_before", "proposals_after"), (range(len(found.boxes)), found.left.tolist()), strict=True
    ):
        draw_image(axes, pixels)
        shown = list(places)[:MOST_BOXES]
        for k in reversed(shown):  # the best last, on top
            outline(axes, found.boxes[k], edgecolor=colormaps["plasma"](float(found.scores[k])), linewidth=1.1)
        title = word(key, lang, shown=len(shown), count=f"{len(places):,}")
        if objects is not None and len(objects):
            for box in objects:
                outline(axes, box, edgecolor="white", linewidth=2.4, zorder=3)
                outline(axes, box, edgecolor="black", linewidth=1.2, linestyle="--", zorder=4)
            covered = 0
            if shown:
                covered = int((box_iou(objects, found.boxes[shown]).amax(1) >= COVERED).sum())
            title += "\n" + word("proposals_cover", lang, covered=covered, count=len(objects), iou=COVERED)
        axes.set_title(title, fontsize=10)
    if objects is not None and len(objects):
        handle = Line2D([], [], color="black", linestyle="--", label=word("an_object", lang))
        figure.legend(handles=[handle], loc="outside lower center", frameon=False, fontsize=9)
    bar = figure.colorbar(shades, ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label(word("objectness", lang), fontsize=9)
    return finished(figure, lang)


def matches_figure(image: Any, stages: Sequence[Taught], objects: Tensor, lang: str = "en") -> Figure:
    """What each stage learns of the image: on the left the drawn boxes with an object, on the right the background's.

    ``stages``: of anchors, then of proposals. An object and the boxes that learn it have one colour.
    """
    lang = writable_language(lang)
    pixels = as_array(image)
    height, width = pixels.shape[1:]
    side = 4.6
    tall = side * min(max(height / width, 0.3), 2) + 0.6
    figure = blank_figure(2 * side + 0.4, 2 * tall + 0.8)
    figure.suptitle(word("matches_title", lang), fontsize=12)
    grid = figure.subplots(2, 2)
    ground = "#F0F0F0" if pixels.mean() < 128 else "#202020"  # to be seen on the image
    names = (("anchors_positive", "anchors_negative"), ("proposals_positive", "proposals_negative"))
    for row, stage, keys in zip(grid, stages, names, strict=True):
        everything, positive, negative, neither = stage.counts
        learns = stage.matched >= 0
        drawn = {True: int(learns.sum()), False: int((~learns).sum())}
        for axes, wanted, key in zip(row, (True, False), keys, strict=True):
            draw_image(axes, pixels)
            for box, k in zip(stage.boxes[learns == wanted], stage.matched[learns == wanted].tolist(), strict=True):
                colour = COLOURS[k % len(COLOURS)] if wanted else ground
                outline(axes, box, edgecolor=colour, linewidth=1.3 if wanted else 0.9, alpha=0.95 if wanted else 0.45)
            for k, box in enumerate(objects):
                outline(axes, box, edgecolor="black", linewidth=3.4, zorder=3)
                outline(axes, box, edgecolor=COLOURS[k % len(COLOURS)], linewidth=2.2, zorder=4)
            count = positive if wanted else negative
            numbers = {"drawn": f"{drawn[wanted]:,}", "count": f"{count:,}", "all": f"{everything:,}"}
            axes.set_title(word(key, lang, **numbers, neither=f"{neither:,}"), fontsize=9)
    handles = [Line2D([], [], color=GREY, linewidth=2.6, label=word("an_object", lang))]
    handles.append(Line2D([], [], color=GREY, linewidth=0.9, label=word("a_drawn_box", lang)))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return finished(figure, lang)
