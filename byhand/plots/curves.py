"""How training went: loss and accuracy, epoch by epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from byhand.plots.canvas import BLUE, GREEN, GREY, ORANGE, PINK, blank_figure, finished, message_figure
from byhand.plots.language import word, writable_language

History = Sequence[Mapping[str, Any]]

LOG_FROM = 10.0  # largest over least loss from which a linear axis would press the later epochs flat
MOST_MARKERS = 60  # more markers than this would run together


def loss_curve(history: History, lang: str = "en") -> Figure:
    """The loss of every epoch: training, and held-out images where there are any.

    `history`: the records of metrics.jsonl with `epoch`, `loss` and maybe `validation_loss`. The axis is logarithmic
    where the losses span more than a factor of ten. Epochs whose loss is NaN or infinite are marked.
    """
    lang = writable_language(lang)
    lines = [("training", "loss", BLUE), ("validation", "validation_loss", ORANGE)]
    values = np.concatenate([column(history, key) for _, key, _ in lines])
    values = values[np.isfinite(values)]
    if not len(values):
        return message_figure(word("no_loss", lang), lang)

    figure = blank_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.set_title(word("loss_title", lang))
    logarithmic = values.min() > 0 and values.max() / values.min() > LOG_FROM
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() / values.min() < 1e3 else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel(word("loss_axis_log" if logarithmic else "loss_axis", lang))
    draw_lines(axes, history, lines, lang)
    axes.legend(frameon=False)
    return finished(figure, lang)


def accuracy_curve(
    history: History, lang: str = "en", reported: float | None = None, reached: float | None = None
) -> Figure:
    """The accuracy of every epoch, in 0..1, with a dashed line at the test accuracy that the source reports.

    `history`: the records of metrics.jsonl with `epoch`, `accuracy` and maybe `validation_accuracy`; `reached`: this
    run's own test accuracy, a star at the last epoch, to compare with the dashed line.
    """
    lang = writable_language(lang)
    lines = [("training", "accuracy", BLUE), ("validation", "validation_accuracy", ORANGE)]
    values = np.concatenate([column(history, key) for _, key, _ in lines])
    if not np.isfinite(values).any():
        return message_figure(word("no_accuracy", lang), lang)

    figure = blank_figure(7, 4.2)
    axes = figure.add_subplot()
    axes.set_title(word("accuracy_title", lang))
    axes.set_ylabel(word("accuracy_axis", lang))
    draw_lines(axes, history, lines, lang)
    if reported is not None:
        label = word("reported", lang, value=f"{reported:.4f}")
        axes.axhline(reported, color=GREY, linestyle="--", linewidth=1.2, label=label)
    if reached is not None:
        label = word("reached", lang, value=f"{reached:.4f}")
        axes.plot(
            [column(history, "epoch")[-1]], [reached], linestyle="", marker="*", markersize=13, color=GREEN, label=label
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 1 + 0.03 * (1 - low)))  # no ticks for accuracies above 1
    axes.legend(frameon=False, loc="best")
    return finished(figure, lang)


def draw_lines(axes: Axes, history: History, lines: Sequence[tuple[str, str, str]], lang: str) -> None:
    """Draw one line for each (word, key, colour) that the history has, and the epoch axis under them."""
    epochs = column(history, "epoch")
    marker = "o" if len(epochs) <= MOST_MARKERS else ""
    broken: set[float] = set()
    for name, key, colour in lines:
        values = column(history, key)
        finite = np.isfinite(values)
        if not finite.any():
            continue
        label = word(name, lang, last=f"{values[finite][-1]:.4g}")
        axes.plot(epochs, np.where(finite, values, np.nan), color=colour, marker=marker, markersize=4.5, label=label)
        broken |= {epoch for epoch, record in zip(epochs, history, strict=True) if key in record} - set(epochs[finite])
    for index, epoch in enumerate(sorted(broken)):
        label = word("not_finite", lang) if index == 0 else "_"  # one entry in the legend for all of them
        axes.axvline(epoch, color=PINK, linestyle=":", linewidth=1.5, label=label)
    first, last = epochs.min(), epochs.max()
    margin = max(0.5 if first == last else 0.0, 0.03 * (last - first))
    axes.set_xlim(first - min(margin, 0.5), last + margin)  # no tick for an epoch before the first
    if last - first <= 12:
        axes.set_xticks(np.arange(math.ceil(first), math.floor(last) + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.set_xlabel(word("epoch", lang))
    axes.grid(True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def column(history: History, key: str) -> np.ndarray:
    """That value of every record as float64, NaN where a record has none."""
    found = (record.get(key) for record in history)
    return np.array([math.nan if value is None else float(value) for value in found], dtype=float)
