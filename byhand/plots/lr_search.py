"""How the loss went while the learning rate rose, and the rate that follows from it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from byhand.plots.canvas import BLUE, GREEN, GREY, blank_figure, finished
from byhand.plots.language import word, writable_language

HEAD_ROOM = 1.5  # times the first smoothed loss; what lies above is the explosion, which would press the rest flat


def lr_curve(
    lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float, lang: str = "en"
) -> Figure:
    """The loss of each step and the smoothed loss against the learning rate (logarithmic), with the suggestion marked.

    One value a step each. The vertical axis ends above the losses from which the search began; an explosion leaves it.
    """
    lang = writable_language(lang)
    figure = blank_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.set_title(word("lr_title", lang))
    axes.set_xscale("log")
    axes.set_xlabel(word("lr_axis", lang))
    axes.set_ylabel(word("batch_loss_axis", lang))
    axes.plot(lrs, losses, color=GREY, alpha=0.5, linewidth=1, label=word("batch_loss", lang))
    axes.plot(lrs, smoothed, color=BLUE, linewidth=2, label=word("smoothed_loss", lang))
    label = word("suggested_lr", lang, value=f"{suggestion:.2g}")
    at = float(np.interp(np.log(suggestion), np.log(lrs), smoothed))
    axes.axvline(suggestion, color=GREEN, linestyle="--", linewidth=1.2)
    axes.plot([suggestion], [at], linestyle="", marker="o", markersize=8, color=GREEN, label=label)
    low, high = min(min(losses), min(smoothed)), max(smoothed[0], losses[0])
    top = min(max(max(losses), max(smoothed)), HEAD_ROOM * high - 0.5 * low)
    margin = 0.05 * (top - low) or 0.5
    axes.set_ylim(low - margin, top + margin)
    axes.grid(True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best")
    return finished(figure, lang)
