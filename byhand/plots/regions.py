"""How the second stage looks a box up on its map: the bins of RoI pooling beside the samples of RoI align."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from byhand.plots.canvas import BLUE, ORANGE, as_array, blank_figure, draw_image, finished
from byhand.plots.detections import outline
from byhand.plots.language import word, writable_language
from byhand.plots.seen import Regions

MARGIN = 1.6  # pixels of the map around the box


def regions_figure(image: Any, box: Tensor, name: str, found: Regions, lang: str = "en") -> Figure:
    """The image with the box, and its map twice: with the whole pixels of each bin, and with the samples of each bin.

    The map is the mean over the channels of its values without their sign. The value of a pixel stands in its middle.
    """
    lang = writable_language(lang)
    pixels = as_array(image)
    strength = as_array(found.strength)
    x1, y1, x2, y2 = (float(x) for x in found.box)
    bins = as_array(found.bins)
    left, top = np.minimum([x1, y1], bins[:, :2].min(0)) - MARGIN
    right, bottom = np.maximum([x2, y2], bins[:, 2:].max(0)) + MARGIN
    tall = min(max((bottom - top) / (right - left), 0.4), 2.0)
    figure = blank_figure(13.5, 4.5 * tall + 1.3)
    figure.suptitle(
        word(
            "regions_title",
            lang,
            size=f"{strength.shape[0]} × {strength.shape[1]}",
            stride=found.stride,
            wide=f"{x2 - x1:.2f}",
            high=f"{y2 - y1:.2f}",
        ),
        fontsize=12,
    )
    whole, pooling, align = figure.subplots(1, 3)
    draw_image(whole, pixels)
    outline(whole, box, edgecolor="white", linewidth=3)
    outline(whole, box, edgecolor=ORANGE, linewidth=1.6)
    whole.set_title(name, fontsize=10)
    for axes in (pooling, align):
        axes.imshow(strength, cmap="gray", interpolation="nearest")
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.set_xticks(np.arange(np.ceil(left), np.floor(right) + 1)[:: max(1, int((right - left) / 12))])
        axes.set_yticks(np.arange(np.ceil(top), np.floor(bottom) + 1)[:: max(1, int((bottom - top) / 12))])
        axes.tick_params(labelsize=7)
        axes.set_xlabel(word("map_column", lang), fontsize=9)
        axes.set_ylabel(word("map_row", lang), fontsize=9)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=ORANGE, lw=2, ls="--", zorder=5))
    for row in bins:  # where there are fewer pixels than bins, these share some, and their veils lie on each other
        wide, high = row[2] - row[0], row[3] - row[1]
        pooling.add_patch(Rectangle(row[:2], wide, high, fc=(0, 0.45, 0.7, 0.12), ec=BLUE, lw=1.3))
    count = round(len(bins) ** 0.5)
    across, down = bins[:, 2:].max(0) - bins[:, :2].min(0)
    covered = f"{down:.0f} × {across:.0f}"
    pooling.set_title(word("regions_pool", lang, pixels=covered, bins=f"{count} × {count}"), fontsize=10)
    x, y = as_array(found.x), as_array(found.y)
    for edge in np.linspace(x1, max(x2, x1 + 1), count + 1):
        align.plot([edge, edge], [y1, max(y2, y1 + 1)], color=BLUE, lw=1.3)
    for edge in np.linspace(y1, max(y2, y1 + 1), count + 1):
        align.plot([x1, max(x2, x1 + 1)], [edge, edge], color=BLUE, lw=1.3)
    columns, rows = np.meshgrid(x.ravel(), y.ravel())
    align.plot(columns.ravel(), rows.ravel(), ".", color=ORANGE, ms=4, mec="white", mew=0.3, zorder=4)
    align.set_title(
        word("regions_align", lang, bins=f"{count} × {count}", samples=x.shape[1] * y.shape[1]), fontsize=10
    )
    handles = [
        Line2D([], [], color=ORANGE, ls="--", lw=2, label=word("regions_box", lang)),
        Line2D([], [], color=BLUE, lw=1.3, label=word("regions_bin", lang)),
        Line2D([], [], color=ORANGE, marker=".", ls="", label=word("regions_sample", lang)),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return finished(figure, lang)
