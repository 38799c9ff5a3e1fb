"""An image with what was found in it: boxes, names, scores and masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from byhand.data.segments import decompress, runs_mask
from byhand.plots.canvas import BLUE, GREEN, ORANGE, PINK, as_array, blank_figure, draw_image, finished
from byhand.plots.language import writable_language

COLOURS = (ORANGE, BLUE, GREEN, PINK, "#F0E442", "#56B4E9", "#E69F00")  # Okabe and Ito (2008)
VEIL = 0.45  # of a mask's colour over the image


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
    for k in reversed(shown):  # the surest last, on top
        colour = COLOURS[int(found.labels[k]) % len(COLOURS)]
        if found.masks is not None:
            axes.imshow(veil(found.masks[k], colour), interpolation="nearest")
        x1, y1, x2, y2 = (float(x) - 0.5 for x in found.boxes[k])  # a pixel's middle lies on a whole number
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
        text = f"{class_names[int(found.labels[k])]} {float(found.scores[k]):.2f}"
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        axes.text(x1, y1, text, fontsize=8, color="white", va="bottom", bbox=box, clip_on=False)
    return finished(figure, lang)


def veil(mask: Any, colour: str) -> np.ndarray:
    """The run lengths of a mask as colours (H, W, 4), transparent outside of it."""
    height, width = mask["size"]
    painted = np.zeros((height, width, 4))
    painted[runs_mask(decompress(mask["counts"]), height, width)] = to_rgba(colour, VEIL)
    return painted
