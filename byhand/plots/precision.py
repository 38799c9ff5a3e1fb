"""COCO's measures as curves: precision over recall, and average precision over the IoU that is asked for."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from byhand.ops.coco_precision import IOU_THRESHOLDS, RECALLS, CocoPrecision
from byhand.plots.canvas import blank_figure, finished
from byhand.plots.detections import COLOURS
from byhand.plots.language import class_words, word, writable_language

MOST_CURVES = 12  # of single classes; more could not be told apart
DASHES = ("-", "--", ":")


def precision_recall(measures: Sequence[tuple[str, CocoPrecision]], iou_threshold: float = 0.5, lang: str = "en"):
    """Precision over recall at one IoU threshold, a curve for each class and the mean of all; the legend has their AP.

    ``measures``: "boxes" or "masks" with COCO's measures of them, one panel each. Of more than 12 classes those with
    the lowest AP are drawn. Precision at a recall is the highest at that recall or more.
    """
    lang = writable_language(lang)

    def values(found: CocoPrecision, name: str | None) -> Any:
        return found.curve(iou_threshold, name)

    figure, panels = _curves(measures, RECALLS, values, f"AP{round(100 * iou_threshold)}", lang, None)
    figure.suptitle(word("precision_title", lang, iou=f"{iou_threshold:g}"), fontsize=12)
    for axes in panels:
        axes.set(xlabel=word("recall_axis", lang), ylabel=word("precision_axis", lang), xlim=(0, 1.01))
    return finished(figure, lang)


def ap_by_iou(measures: Sequence[tuple[str, CocoPrecision]], lang: str = "en") -> Figure:
    """Average precision at each of COCO's ten IoU thresholds, a line for each class and the mean of all.

    The legend has the mean over the thresholds, COCO's AP. ``measures`` and what is drawn as in ``precision_recall``.
    """
    lang = writable_language(lang)

    def values(found: CocoPrecision, name: str | None) -> Any:
        return found.ap_by_threshold(name)

    figure, panels = _curves(measures, IOU_THRESHOLDS, values, "AP", lang, "o")
    figure.suptitle(word("ap_iou_title", lang), fontsize=12)
    for axes in panels:
        axes.set(xlabel=word("iou_axis", lang), ylabel=word("ap_axis", lang), xticks=[0.5, 0.6, 0.7, 0.8, 0.9])
    return finished(figure, lang)


def _curves(
    measures: Sequence[tuple[str, CocoPrecision]],
    x: Sequence[float],
    values: Callable[[CocoPrecision, str | None], Any],
    what: str,
    lang: str,
    marker: str | None,
) -> tuple[Figure, list[Any]]:
    """A panel for each kind of measure, with a line a class and the mean; the legend has the mean of each line."""
    figure = blank_figure(6.6 * len(measures), 4.8)
    panels = list(figure.subplots(1, len(measures), squeeze=False)[0])
    for axes, (kind, found) in zip(panels, measures, strict=True):
        names = [name for name in found.class_names if name not in found.absent]
        left_out = len(names) - MOST_CURVES
        if left_out > 0:
            names = sorted(names, key=lambda name: float(values(found, name).mean()))[:MOST_CURVES]
        said = dict(zip(found.class_names, class_words(found.class_names, len(found.class_names), lang), strict=True))
        for i, name in enumerate(names):
            y = values(found, name)
            style = DASHES[i // len(COLOURS) % len(DASHES)]
            label = f"{said[name]}: {float(y.mean()):.3f}"
            axes.plot(
                x, y, color=COLOURS[i % len(COLOURS)], linestyle=style, linewidth=1.3, label=label, marker=marker, ms=3
            )
        if names:
            mean = values(found, None)
            label = word("mean_of_classes", lang, value=f"{float(mean.mean()):.3f}")
            axes.plot(x, mean, color="black", linewidth=2.4, label=label, marker=marker, ms=4)
        notes = [word(f"precision_{kind}", lang)]
        if left_out > 0:
            notes.append(word("lowest_classes", lang, shown=len(names), count=len(names) + left_out))
        if found.absent:
            some = ", ".join(said[name] for name in found.absent[:6]) + (" …" if len(found.absent) > 6 else "")
            notes.append(word("absent_classes", lang, names=some))
        axes.set_title("\n".join(notes), fontsize=10)
        axes.set_ylim(0, 1.02)
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if names:
            axes.legend(
                title=what, fontsize=8, title_fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
            )
    return figure, panels
