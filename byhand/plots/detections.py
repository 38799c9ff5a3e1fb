"""Images with objects on them, those that are known and those that were found: boxes, names, scores and masks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from byhand.data.segments import decompress, runs_mask
from byhand.plots.canvas import BLUE, GREEN, ORANGE, PINK, as_array, blank_figure, draw_image, finished
from byhand.plots.language import class_words, word, writable_language

COLOURS = (ORANGE, BLUE, GREEN, PINK, "#F0E442", "#56B4E9", "#E69F00")  # Okabe and Ito (2008)
VEIL = 0.45  # of a mask's colour over the image
IN_A_ROW = 4  # images


class Pair(NamedTuple):
    """An image uint8 (C, H, W), what it is called, its objects (None where nobody knows them), and what was found.

    ``truth`` has ``boxes``, ``labels`` and ``masks`` of ``byhand.data.detection.Objects``, ``found`` those and
    ``scores`` of ``byhand.ops.average_precision.Detections``; ``shown`` are the places of those to draw.
    """

    image: Any
    name: str
    truth: Any
    found: Any
    shown: Sequence[int]


def detections_figure(
    image: Any, found: Any, class_names: Sequence[str], shown: Sequence[int], lang: str = "en"
) -> Figure:
    """The uint8 image (C, H, W) with the detections at the places ``shown``, a colour for each class.

    ``found`` has ``boxes`` (N, 4), (x1, y1, x2, y2) in pixels from the upper left corner, ``labels``, ``scores`` and
    ``masks``, run lengths or None: ``byhand.ops.average_precision.Detections``.
    """
    lang = writable_language(lang)
    pixels = as_array(image)
    height, width = pixels.shape[1:]
    inches = min(max(width / 60, 4), 12)
    figure = blank_figure(inches, min(max(inches * height / width, 1), 24))
    axes = figure.add_subplot()
    draw_image(axes, pixels)
    draw_objects(axes, found, shown, class_words(class_names, len(class_names), lang), found.scores)
    return finished(figure, lang)


def detections_beside_truth(
    pairs: Sequence[Pair], class_names: Sequence[str], threshold: float, lang: str = "en"
) -> Figure:
    """Each image twice, above with its objects and below with what was found, of scores of ``threshold`` or more."""
    lang = writable_language(lang)
    names = class_words(class_names, len(class_names), lang)
    columns = min(len(pairs), IN_A_ROW)
    rows = -(-len(pairs) // columns)
    tallest = max(as_array(one.image).shape[1] / as_array(one.image).shape[2] for one in pairs)
    side = 3.3 if columns > 1 else 5.0
    figure = blank_figure(side * columns, 2 * rows * (side * min(max(tallest, 0.2), 3) + 0.35) + 0.4)
    figure.suptitle(word("beside_title", lang, threshold=f"{threshold:g}"), fontsize=12)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, one in enumerate(pairs):
        above, below = (grid[2 * (i // columns) + k, i % columns] for k in (0, 1))
        for axes in (above, below):
            axes.set_visible(True)
            draw_image(axes, as_array(one.image))
        if one.truth is None:
            above.set_title(word("beside_unknown", lang, name=one.name), fontsize=9)
        else:
            # masks only where there are some to compare with
            draw_objects(above, one.truth, range(len(one.truth.labels)), names, masks=one.found.masks is not None)
            above.set_title(word("beside_truth", lang, name=one.name, count=len(one.truth.labels)), fontsize=9)
        draw_objects(below, one.found, one.shown, names, one.found.scores)
        below.set_title(word("beside_found", lang, count=len(one.shown)), fontsize=9)
    return finished(figure, lang)


def draw_objects(
    axes: Any, objects: Any, shown: Sequence[int], class_names: Sequence[str], scores: Any = None, masks: bool = True
) -> None:
    """Draw the objects at the places ``shown`` with their names, a colour for each class, the first of them on top.

    Their masks too, where they have some, unless ``masks`` is False.
    """
    for k in reversed(list(shown)):
        colour = COLOURS[int(objects.labels[k]) % len(COLOURS)]
        if masks and objects.masks is not None:
            axes.imshow(veil(objects.masks[k], colour), interpolation="nearest")
        outline(axes, objects.boxes[k], edgecolor=colour, linewidth=1.5)
    taken: list[tuple[float, float]] = []
    for k in shown:
        label = int(objects.labels[k])
        text = class_names[label] if scores is None else f"{class_names[label]} {float(scores[k]):.2f}"
        taken.append(tag(axes, objects.boxes[k], text, COLOURS[label % len(COLOURS)], taken))


def outline(axes: Any, box: Any, **look: Any) -> None:
    """Draw a box (x1, y1, x2, y2) of the image's pixels; the middle of a pixel lies on a whole number."""
    x1, y1, x2, y2 = (float(x) - 0.5 for x in box)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **look))


def tag(axes: Any, box: Any, text: str, colour: str, taken: Sequence[tuple[float, float]] = ()) -> tuple[float, float]:
    """Where the text was written: above the box, or below or within it, the first of these that is free, if any is.

    Not above where the image ends there, and at the box's right edge where it ends at the right. ``taken`` are the
    places of other texts.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x1, y1, x2, y2 = (float(x) - 0.5 for x in box)
    wide, high = right - left, bottom - top
    far = x1 > left + 0.75 * wide
    x = x2 if far else x1
    places = [(y1, "bottom")] if y1 >= top + 0.07 * high else []
    places += [(y2, "top")] if y2 <= bottom - 0.07 * high else []
    places += [(max(y1, top), "top"), (min(y2, bottom), "bottom")]

    def middle(place: tuple[float, str]) -> tuple[float, float]:
        return x, place[0] + (0.03 if place[1] == "top" else -0.03) * high

    def free(place: tuple[float, str]) -> bool:
        mine = middle(place)
        return all(abs(mine[0] - a) > 0.2 * wide or abs(mine[1] - b) > 0.08 * high for a, b in taken)

    chosen = next((place for place in places if free(place)), places[0])
    ink = "white" if sum(c * w for c, w in zip(to_rgb(colour), (0.3, 0.59, 0.11), strict=True)) < 0.6 else "black"
    axes.text(
        x,
        chosen[0],
        text,
        fontsize=8,
        color=ink,
        ha="right" if far else "left",
        va=chosen[1],
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        clip_on=False,
    )
    return middle(chosen)


def veil(mask: Any, colour: str) -> np.ndarray:
    """A mask, bool (H, W) or run lengths, as colours (H, W, 4), transparent outside of it."""
    if isinstance(mask, dict):
        inside = runs_mask(decompress(mask["counts"]), *mask["size"])
    else:
        inside = as_array(mask).astype(bool)
    painted = np.zeros((*inside.shape, 4))
    painted[inside] = to_rgba(colour, VEIL)
    return painted
