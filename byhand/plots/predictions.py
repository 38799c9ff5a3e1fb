"""What a model makes of the test set: values against the truth, which classes it confuses, and its worst mistakes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from byhand.errors import ShapeError
from byhand.plots.canvas import BLUE, GREY, ORANGE, as_array, blank_figure, draw_image, finished, message_figure
from byhand.plots.language import class_words, word, writable_language

MOST_CLASSES_WITH_NUMBERS = 20  # in more cells than 20 × 20 a number could not be read


def predicted_against_true(predicted: Any, true: Any, lang: str = "en") -> Figure:
    """Predicted over true values with the ideal line y = x, and beside it what is left over: predicted − true.

    `predicted`, `true`: as many numbers each, of any shape, in the target's unit. Pairs that are not finite are not
    drawn.

    Raises:
        ShapeError: different numbers of values.
    """
    lang = writable_language(lang)
    predicted, true = as_array(predicted).astype(float).ravel(), as_array(true).astype(float).ravel()
    if len(predicted) != len(true):
        raise ShapeError(f"{len(predicted)} predicted values for {len(true)} true ones; give one for each")
    finite = np.isfinite(predicted) & np.isfinite(true)
    predicted, true = predicted[finite], true[finite]
    if not len(true):
        return message_figure(word("no_values", lang), lang)

    figure = blank_figure(9, 4.4)
    left, right = figure.subplots(1, 2)
    label = word("examples", lang, count=f"{len(true):,}")
    dots: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4, "markeredgewidth": 0, "color": BLUE}
    dots["alpha"] = 0.45 if len(true) > 100 else 0.9  # a cloud shows where it is dense, a few dots show at all

    ends = np.array([min(true.min(), predicted.min()), max(true.max(), predicted.max())])
    span = ends[1] - ends[0]
    ends += np.array([-1, 1]) * (0.04 * span if span > 1e-9 * abs(ends).max() else max(abs(ends).max(), 1))
    left.plot(true, predicted, label=label, **dots)
    left.plot(ends, ends, color=ORANGE, linewidth=1.2, label=word("ideal", lang))
    left.set(xlim=ends, ylim=ends, aspect="equal")
    left.set(xlabel=word("true_value", lang), ylabel=word("predicted_value", lang))
    left.set_title(word("predicted_title", lang))
    left.legend(frameon=False, loc="upper left")

    errors = predicted - true
    spread = float(np.sqrt(np.mean(errors**2)))
    right.plot(true, errors, **dots)
    right.axhline(0, color=ORANGE, linewidth=1.2)
    right.axhline(spread, color=GREY, linestyle="--", label=word("root_mean_square", lang, value=f"{spread:.3g}"))
    right.axhline(-spread, color=GREY, linestyle="--")
    reach = 1.35 * np.abs(errors).max() or 1.0  # room above the dots for the legend
    right.set(xlim=ends, ylim=(-reach, reach), xlabel=word("true_value", lang), ylabel=word("error_axis", lang))
    right.set_title(word("errors_title", lang))
    right.legend(frameon=False, loc="upper left")
    for axes in (left, right):
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return finished(figure, lang)


def confusion_matrix(predicted: Any, labels: Any, class_names: Sequence[str], lang: str = "en") -> Figure:
    """Rows: true classes, columns: predicted ones; each cell the count and its share of the row, coloured by the share.

    `predicted`, `labels`: (N,) class indices from 0. Classes without a name are called by their number.

    Raises:
        ShapeError: different numbers of predictions and labels.
    """
    lang = writable_language(lang)
    predicted, labels = as_array(predicted).ravel().astype(np.int64), as_array(labels).ravel().astype(np.int64)
    if len(predicted) != len(labels):
        raise ShapeError(f"{len(predicted)} predicted classes for {len(labels)} labels; give one for each")
    if not len(labels):
        return message_figure(word("no_images", lang), lang)
    classes = max(len(class_names), int(predicted.max()) + 1, int(labels.max()) + 1)
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # a class without images has shares of 0
    names = class_words(class_names, classes, lang)

    side = min(max(3.2, 0.68 * classes), 12)
    figure = blank_figure(side + 2.2, side + 1.2)
    axes = figure.add_subplot()
    # Linear shades would leave the mistakes, a few percent, all white.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    step = -(-classes // 40)  # at most 40 names fit along an axis
    long_names = max(map(len, names)) > 3
    axes.set_xticks(range(0, classes, step), names[::step], rotation=45 if long_names else 0)
    if long_names:
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(0, classes, step), names[::step])
    axes.set_xlabel(word("predicted_class", lang))
    axes.set_ylabel(word("true_class", lang))
    if classes <= MOST_CLASSES_WITH_NUMBERS:
        for row, col in np.ndindex(classes, classes):
            count, share = counts[row, col], shares[row, col]
            text = f"{count}\n{share:.1%}" if count else "0"
            colour = "white" if share > 0.4 else ("black" if count else "#999999")
            axes.text(col, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    right = int(counts.trace())
    total = len(labels)
    title = word("confusion_title", lang, right=f"{right:,}", total=f"{total:,}", share=f"{right / total:.2%}")
    figure.suptitle(title, fontsize=12)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0%", "1%", "5%", "20%", "50%", "100%"])
    bar.set_label(word("row_share", lang))
    return finished(figure, lang)


def worst_mistakes(
    images: Any, logits: Any, labels: Any, class_names: Sequence[str], lang: str = "en", count: int = 25
) -> Figure:
    """The `count` wrongly classified images with the highest probability for the wrong class, the surest first.

    `images`: (N, C, H, W), `logits`: (N, classes), `labels`: (N,). Over each image: true → predicted class and the
    probability softmax(logits) of the predicted one; equal probabilities in the order of the images. Fewer mistakes
    than `count`: all of them; none: a figure that says so.

    Raises:
        ShapeError: different numbers of images, logits and labels.
    """
    lang = writable_language(lang)
    logits, labels = as_array(logits).astype(np.float64), as_array(labels).ravel().astype(np.int64)
    if not len(images) == len(logits) == len(labels):
        raise ShapeError(
            f"{len(images)} images, {len(logits)} rows of logits and {len(labels)} labels; give one for each"
        )
    if not len(labels):
        return message_figure(word("no_images", lang), lang)
    predicted, confidence = sure_of(logits)
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    total = f"{len(labels):,}"
    if not len(chosen):
        return message_figure(word("no_mistakes", lang, total=total), lang)

    names = class_words(class_names, max(logits.shape[1], int(labels.max()) + 1), lang)
    columns = min(len(chosen), max(5, round(len(chosen) ** 0.5)))
    rows = -(-len(chosen) // columns)
    figure = blank_figure(max(1.65 * columns, 7), 1.95 * rows + 0.5)
    key = "mistakes_title" if len(chosen) < len(wrong) else "all_mistakes_title"
    figure.suptitle(word(key, lang, count=f"{len(wrong):,}", total=total, shown=len(chosen)), fontsize=11)
    titles = [f"{names[labels[index]]} → {names[predicted[index]]}" for index in chosen]
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        draw_image(axes, as_array(images[int(index)]))
        axes.set_title(f"{titles[place]}\n{confidence[index]:.1%}", fontsize=9 if max(map(len, titles)) < 16 else 7.5)
    return finished(figure, lang)


def sure_of(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predicted class of each row and its softmax probability, (N, classes) -> (N,), (N,)."""
    shifted = logits - logits.max(1, keepdims=True)  # exp() of a large logit would overflow
    return logits.argmax(1), np.exp(shifted).max(1) / np.exp(shifted).sum(1)
