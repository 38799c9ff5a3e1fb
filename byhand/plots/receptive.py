"""How far a layer sees: the input's part in a unit, as measured, beside all that the unit can see.

Luo, Li, Urtasun & Zemel, Understanding the Effective Receptive Field in Deep Convolutional Neural Networks (NIPS 2016).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from byhand.errors import ShapeError
from byhand.models.receptive import Field
from byhand.plots.canvas import GREEN, GREY, ORANGE, blank_figure, finished
from byhand.plots.inside import named_layer, not_called, taped
from byhand.plots.language import layer_word, word, writable_language

MOST_FIELDS = 6
OUTSIDE = 1.0  # of the image's sides, at most this much of a field beyond them is drawn


class Effective(NamedTuple):
    """What one unit takes from each pixel (H, W), and the unit: its row and column, or None for a vector's sum."""

    share: np.ndarray
    unit: tuple[int, int] | None


def effective_fields(model: nn.Module, batch: Tensor, names: Sequence[str]) -> list[Effective]:
    """Mean over the images and sum over their channels of |∂u/∂x|, u the sum over a layer's maps at their middle unit.

    Of a layer that gives vectors u is the sum of the vector. `batch`: (N, C, H, W) as the network takes it. The network
    runs once, as it stands; no parameter gets a gradient.

    Raises:
        UnknownName: no such layer.
        SettingsError: a layer that puts out no tensor.
    """
    batch = batch.detach().clone().requires_grad_()
    found = []
    with torch.enable_grad():
        with taped(model, names) as outputs:
            model(batch * 1)  # an in-place first layer may not write into a leaf
        for name in names:
            if name not in outputs:
                raise not_called(name, named_layer(model, name))
            output, unit = outputs[name], None
            if output.ndim == 4:
                unit = (output.shape[2] // 2, output.shape[3] // 2)
                output = output[:, :, unit[0], unit[1]]
            (gradient,) = torch.autograd.grad(output.sum(), batch, retain_graph=True)
            found.append(Effective(gradient.abs().mean(0).sum(0).cpu().numpy(), unit))
    return found


def chosen_fields(fields: Sequence[Field], layer: str | None = None) -> list[Field]:
    """At most six layers to draw, spread over those whose field grows; or the one that is asked for."""
    if layer is not None:
        return [field for field in fields if field.name == layer][:1]
    growing: list[Field] = []
    for field in fields:
        if field.size is not None and (not growing or field.size != growing[-1].size or field.jump != growing[-1].jump):
            growing.append(field)
    if len(growing) <= MOST_FIELDS:
        return growing
    places = np.linspace(0, len(growing) - 1, MOST_FIELDS).round().astype(int)
    return [growing[place] for place in places]


def receptive_fields_figure(fields: Sequence[Field], effective: Sequence[Effective], lang: str = "en") -> Figure:
    """For each layer what its middle unit takes from the pixels, in a frame around all that it can see.

    Shares are of each picture's greatest, in shades of their square root: the edges of a field are faint. A frame that
    reaches far beyond the image is cut, its size stands above.

    Raises:
        ShapeError: different numbers of fields and measured ones, or none.
    """
    lang = writable_language(lang)
    if not fields or len(fields) != len(effective):
        raise ShapeError(f"{len(fields)} fields and {len(effective)} measured ones; give one for each, at least one")
    columns = 2 if len(fields) == 4 else min(len(fields), 3)
    rows = -(-len(fields) // columns)
    figure = blank_figure(max(3.0 * columns + 1.2, 5.5), 3.45 * rows + 0.9)
    figure.suptitle(word("field_title", lang), fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(fields) :]:
        axes.remove()
    for axes, field, measured in zip(grid.flat, fields, effective, strict=False):
        draw_field(axes, field, measured, lang)
    shown = list(grid.flat)[: len(fields)]
    handles = [
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.8, label=word("field_frame", lang)),
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=GREEN, linewidth=1.2, label=word("field_image", lang), ls="--"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    bar = figure.colorbar(ScalarMappable(PowerNorm(0.5, 0, 1), "viridis"), ax=shown, shrink=0.7, pad=0.02)
    bar.set_ticks([0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.set_label(word("field_scale", lang), fontsize=9)
    return finished(figure, lang)


def draw_field(axes: Any, field: Field, measured: Effective, lang: str) -> None:
    """Draw one layer's measured field on the image's pixels, the frame around it, and their sizes above."""
    height, width = measured.share.shape
    share = measured.share / max(float(measured.share.max()), 1e-30)
    axes.set_facecolor("#DDDDDD")
    axes.imshow(share, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    frame = (0, 0, height - 1, width - 1) if measured.unit is None else field.of_unit(*measured.unit)
    name = f"{field.name} {layer_word(field.kind, lang)}"
    if frame is None or field.size is None or field.jump is None:
        frame = (0, 0, height - 1, width - 1)
        axes.set_title(word("field_whole", lang, name=name), fontsize=9)
    else:
        size = f"{field.size[0]}×{field.size[1]}"
        down, across = field.jump
        jump = str(down) if down == across else f"{down}×{across}"
        axes.set_title(word("field_of", lang, name=name, size=size, jump=jump), fontsize=9)
    top, left, bottom, right = frame
    axes.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=GREEN, linewidth=1.2, linestyle="--"))
    axes.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False, edgecolor=ORANGE, linewidth=1.8
        )
    )
    reach = OUTSIDE * max(height, width)
    margin = 0.04 * max(height, width)
    axes.set_xlim(max(min(left, 0), -reach) - 0.5 - margin, min(max(right, width - 1), width + reach) + 0.5 + margin)
    axes.set_ylim(min(max(bottom, height - 1), height + reach) + 0.5 + margin, max(min(top, 0), -reach) - 0.5 - margin)
    axes.tick_params(labelsize=8, colors=GREY)
