"""What is inside a model: the weights of a layer, and what layers make of one image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from byhand.errors import ShapeError
from byhand.plots.canvas import BLUE, GREY, ORANGE, as_array, blank_figure, draw_image, finished, hide_ticks
from byhand.plots.language import class_words, word, writable_language

MOST_TILES = 64
MOST_MAPS = 16  # of one layer; more would be too small to see


def filters(
    weight: Any,
    lang: str = "en",
    class_names: Sequence[str] = (),
    image_shape: tuple[int, int, int] | None = None,
    layer: str | None = None,
) -> Figure:
    """A layer's weights as small pictures: blue negative, red positive, one scale for all.

    `weight`: a convolution's (O, C, k, k), or a linear layer's (O, D) whose rows are made images again: of
    `image_shape` (C, H, W), by default the square that D pixels fill. The first 64 of many; three channels are drawn as
    one colour picture about grey. What is no picture is drawn as one matrix: rows of no square, 1×1 convolutions.
    `class_names` name the templates of a softmax regression; `layer` stands in the title, by default "First layer".

    Raises:
        ShapeError: a weight that is neither (O, C, k, k) nor (O, D), or rows that do not fill `image_shape`.
    """
    lang = writable_language(lang)
    weight = as_array(weight).astype(np.float64)
    if weight.ndim not in (2, 4) or not weight.size:
        raise ShapeError(f"weight of shape {tuple(weight.shape)}; expected (O, C, k, k) or (O, D), none of them 0")
    layer = layer or word("first_layer", lang)
    convolution = weight.ndim == 4
    if convolution and weight.shape[2:] == (1, 1):
        return weight_matrix(weight[:, :, 0, 0], lang, layer)
    if not convolution:
        units, inputs = weight.shape
        shape = image_shape or square_shape(inputs)
        if shape is None:
            return weight_matrix(weight, lang, layer)
        if math.prod(shape) != inputs:
            raise ShapeError(f"rows of {inputs} weights do not fill image_shape={shape}; give the shape of the images")
        weight = weight.reshape(units, *shape)

    count, channels, height, width = weight.shape
    colour = channels == 3
    if colour or channels == 1:
        shown = min(count, MOST_TILES)
        tiles = weight[:shown]
        columns = min(shown, 5 if shown == 10 else 8)
    else:
        columns = min(channels, MOST_MAPS)
        shown = min(count, max(MOST_TILES // columns, 1))
        tiles = weight[:shown, :columns].reshape(-1, 1, height, width)
    rows = -(-len(tiles) // columns)
    scale = max(float(np.abs(tiles).max()), 1e-12)
    names = class_words(class_names, count, lang) if len(class_names) == count else None

    tile = 1.3 if shown <= 16 else 0.95
    figure = blank_figure(max(tile * columns + 1.2, 6), max((tile + 0.12) * rows + 0.7, 2.2))
    key = ("some_" if shown < count else "") + ("filters_title" if convolution else "templates_title")
    size = f"{height}×{width}" + (f"×{channels}" if channels > 1 else "")
    title = word(key, lang, layer=layer, shown=shown, count=count, size=size)
    if not colour and channels > 1:
        rows_key = "some_filter_rows" if columns < channels else "filter_rows"
        title += "\n" + word(rows_key, lang, shown=columns, count=channels)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    picture = None
    for place, axes in enumerate(grid.flat):
        if place >= len(tiles):
            axes.remove()
            continue
        if colour:
            axes.imshow(np.moveaxis(0.5 + tiles[place] / (2 * scale), 0, -1), interpolation="nearest")
        else:
            picture = axes.imshow(tiles[place, 0], cmap="RdBu_r", vmin=-scale, vmax=scale, interpolation="nearest")
        hide_ticks(axes)
        if colour or channels == 1:
            axes.set_title(names[place] if names else str(place + 1), fontsize=9 if shown <= 16 else 7, pad=2)
    if picture is None:
        figure.supxlabel(word("rgb_weights", lang, value=f"{scale:.3g}"), fontsize=9)
    else:
        bar = figure.colorbar(picture, ax=figure.axes, shrink=0.8)
        bar.set_label(word("weight", lang))
    return finished(figure, lang)


def weight_matrix(weight: np.ndarray, lang: str, layer: str) -> Figure:
    """One picture of all weights (O, D), for inputs that are no image."""
    scale = max(float(np.abs(weight).max()), 1e-12)
    figure = blank_figure(7, 3.5)
    axes = figure.add_subplot()
    picture = axes.imshow(weight, cmap="RdBu_r", vmin=-scale, vmax=scale, aspect="auto", interpolation="nearest")
    axes.set_title(word("matrix_title", lang, layer=layer, count=weight.shape[0], size=weight.shape[1]))
    axes.set_xlabel(word("input", lang))
    axes.set_ylabel(word("unit", lang))
    for axis, length in ((axes.xaxis, weight.shape[1]), (axes.yaxis, weight.shape[0])):
        axis.set_ticks(range(0, length, -(-length // 10)))
    figure.colorbar(picture, ax=axes).set_label(word("weight", lang))
    return finished(figure, lang)


def square_shape(inputs: int) -> tuple[int, int, int] | None:
    """(C, H, W) of the square image with that many values: grey, else of three channels, else None."""
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if side > 1 and channels * side * side == inputs:
            return channels, side, side
    return None


def feature_maps(
    image: Any,
    maps: Sequence[tuple[str, Any]],
    lang: str = "en",
    class_names: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """What each layer makes of one image, layer under layer: maps as small pictures, vectors as bars.

    `image`: (C, H, W), or a batch of one; `maps`: (name of the layer, its output (C, H, W) or (n,)), also as batches of
    one. Maps of one layer share their shades, from the layer's least value (dark) to its largest (bright); of more than
    16 the first 16 are shown. `class_names` name the bars of the last layer, whose highest one is marked.
    """
    lang = writable_language(lang)
    image = as_array(image)
    image = image[0] if image.ndim == 4 else image
    layers = [(name, one_example(as_array(values).astype(np.float64))) for name, values in maps]
    slots = max([min(len(values), MOST_MAPS) for _, values in layers if values.ndim == 3] or [8])

    tile = min(8.6 / slots, 1.1)
    heights = [1.5] + [(tile if values.ndim == 3 else 0.6) + 0.3 for _, values in layers]
    heights[-1] += 0.25 if class_names else 0
    figure = blank_figure(9, sum(heights) + 0.5)
    figure.suptitle(title or word("features_title", lang), fontsize=12)
    grid = GridSpec(len(heights), 1, figure=figure, height_ratios=heights)
    axes = figure.add_subplot(grid[0], anchor="W")
    draw_image(axes, image)
    axes.set_title(word("input_image", lang), loc="left", fontsize=9)
    for row, (name, values) in enumerate(layers, start=1):
        axes = figure.add_subplot(grid[row], anchor="W")
        last = row == len(layers)
        if values.ndim == 3:
            draw_maps(axes, name, values, slots, lang)
        else:
            draw_bars(axes, name, values, class_names if last else (), last, lang)
    return finished(figure, lang)


def layer_maps(
    image: Any, name: str, values: Any, lang: str = "en", class_names: Sequence[str] = (), title: str | None = None
) -> Figure:
    """One layer's maps of one image, the first 64 of them with their numbers from 1; a vector as bars.

    `image` and `values` as in `feature_maps`; all maps share their shades.
    """
    lang = writable_language(lang)
    image = as_array(image)
    image = image[0] if image.ndim == 4 else image
    values = one_example(as_array(values).astype(np.float64))
    if values.ndim == 1:
        return feature_maps(image, [(name, values)], lang, class_names, title)
    count, height, width = values.shape
    shown = min(count, MOST_TILES)
    columns = min(shown, 8)
    rows = -(-shown // columns)
    low, high = float(values.min()), float(values.max())
    figure = blank_figure(max(1.05 * columns + 2.2, 7.5), max(1.2 * rows + 0.9, 2.8))
    key = "layer_maps_title" if shown == count else "some_layer_maps_title"
    text = word(
        key, lang, name=name, count=count, shown=shown, size=f"{height}×{width}", low=short(low), high=short(high)
    )
    figure.suptitle(f"{title}\n{text}" if title else text, fontsize=11)
    grid = GridSpec(rows, columns + 2, figure=figure)
    axes = figure.add_subplot(grid[: min(rows, 2), :2], anchor="N")
    draw_image(axes, image)
    axes.set_title(word("input_image", lang), fontsize=9)
    for index in range(shown):
        axes = figure.add_subplot(grid[index // columns, 2 + index % columns])
        axes.imshow(values[index], cmap="viridis", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
        hide_ticks(axes)
        axes.set_title(str(index + 1), fontsize=8, pad=2)
    return finished(figure, lang)


def short(value: float) -> str:
    """Three digits, with a true minus."""
    return f"{value:.3g}".replace("-", "−")


def one_example(values: np.ndarray) -> np.ndarray:
    """(C, H, W) or (n,) of an output with or without a batch of one; C maps of one pixel are a vector."""
    if values.ndim in (2, 4) and len(values) == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    return values if values.ndim == 3 and values.shape[1:] != (1, 1) else values.ravel()


def draw_maps(axes: Any, name: str, values: np.ndarray, slots: int, lang: str) -> None:
    """Draw maps (C, H, W) side by side as one picture, in a row with room for `slots` of them."""
    count, height, width = values.shape
    shown = min(count, slots)
    gap = max(1, round(0.08 * width))
    row = np.full((height, shown * (width + gap) - gap), np.nan)
    for index in range(shown):
        left = index * (width + gap)
        row[:, left : left + width] = values[index]
    axes.imshow(row, cmap="viridis", interpolation="nearest")
    axes.set_xlim(-0.5, slots * (width + gap) - gap - 0.5)
    axes.axis("off")
    key = "one_map" if count == 1 else "maps" if shown == count else "some_maps"
    axes.set_title(
        word(key, lang, name=name, count=count, shown=shown, size=f"{height}×{width}"), loc="left", fontsize=9, pad=3
    )


def draw_bars(axes: Any, name: str, values: np.ndarray, class_names: Sequence[str], last: bool, lang: str) -> None:
    """Draw a vector as bars about a line at 0; of the last layer the highest bar stands out, and each has its name."""
    colours = [BLUE] * len(values)
    if last:
        colours[int(values.argmax())] = ORANGE
    axes.bar(range(len(values)), values, color=colours, width=0.8)
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if class_names and len(class_names) == len(values) <= 20:
        axes.set_xticks(range(len(values)), class_words(class_names, len(values), lang), fontsize=8)
        axes.tick_params(length=0)
    else:
        axes.set_xticks([])
    text = word("values", lang, name=name, count=len(values), low=short(values.min()), high=short(values.max()))
    axes.set_title(text, loc="left", fontsize=9, pad=3)
