"""Blank figures that need no display, and the colours and fonts that all pictures share."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from byhand.plots.language import font_families

# Okabe and Ito (2008): told apart also by the colour-blind
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn in memory and unknown to pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def finished(figure: Figure, lang: str) -> Figure:
    """The same figure with every text in a font that can write the language.

    Set on the artists and not through rcParams, which are global and would have to be set again to save the figure.
    """
    families = font_families(lang)
    for text in figure.findobj(Text):
        text.set_fontfamily(families)
    return figure


def message_figure(text: str, lang: str) -> Figure:
    """A figure that says one sentence, where axes would be empty."""
    figure = blank_figure(6, 2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=GREY)
    return finished(figure, lang)


def as_array(values: Any) -> np.ndarray:
    """The values as a NumPy array on the CPU, from a tensor of any device, an array or a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)


def draw_image(axes: Any, image: np.ndarray) -> None:
    """Draw one image (C, H, W) without ticks: grey for one channel, colour for three, the channels' mean otherwise.

    uint8 is 0..255; a float image is stretched from its least to its largest value.
    """
    if image.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = float(image.min()), float(image.max())
    if image.shape[0] == 3:
        pixels = np.moveaxis((image - low) / max(high - low, 1e-12), 0, -1)  # (H, W, 3) in 0..1
        axes.imshow(pixels, interpolation="nearest")
    else:
        axes.imshow(image.mean(0), cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
    hide_ticks(axes)


def hide_ticks(axes: Any) -> None:
    """Leave only the frame; axes without ticks are measured all the same, which takes a second for 64 of them."""
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
