"""Grad-CAM: which places of an image speak for a class.

Selvaraju, Cogswell, Das, Vedantam, Parikh & Batra, Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization (ICCV 2017), section 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from byhand.errors import SettingsError, ShapeError
from byhand.plots.canvas import as_array, blank_figure, draw_image, finished, hide_ticks
from byhand.plots.inside import convolutions, named_layer, not_called, taped
from byhand.plots.language import class_words, word, writable_language

HEAT = "inferno"


class Activation(NamedTuple):
    """The maps of `grad_cam` (N, h, w), from 0 on; each image's class (N,) and the network's probability of it (N,).

    `layer`: the path of that whose maps they are.
    """

    maps: Tensor
    classes: Tensor
    probabilities: Tensor
    layer: str = ""


def grad_cam(model: nn.Module, batch: Tensor, layer: str | None = None, label: int | None = None) -> Activation:
    """Where the layer's maps A speak for a class: L = ReLU(Σ_k α_k A^k), α_k = mean over places of ∂y/∂A^k.

    Equations 1 and 2 of the paper; y is the class's logit, before the softmax. `batch`: (N, C, H, W) as the network
    takes it; `layer`: by default the last convolution with more than one place, or the largest block around it that has
    as many: all branches of an Inception block, a stage with its shortcuts; `label`: the class for all images, by
    default each image's most probable one. The network runs as it stands, in evaluation or training mode; no parameter
    gets a gradient.

    Raises:
        UnknownName: no such layer.
        SettingsError: a layer that puts out no maps, a network without convolutions, a label outside the classes.
    """
    if layer is None:
        found = convolutions(model)
        if not found:
            raise SettingsError(f"this {type(model).__name__} has no convolution; name another layer that gives maps")
        names = [name for name, _ in model.named_modules() if name and any(_within(one, name) for one in found)]
    else:
        names = [layer]
    with torch.enable_grad():
        with taped(model, names) as outputs:
            images = batch.detach().clone().requires_grad_()
            logits = model(images * 1)  # an in-place first layer may not write into a leaf
        if layer is None:
            layer = _last_maps(outputs, found)
        if layer not in outputs:
            raise not_called(layer, named_layer(model, layer))
        A = outputs[layer]  # (N, K, h, w)
        if A.ndim != 4:
            raise SettingsError(
                f"layer {layer!r} gives {tuple(A.shape[1:])} for an image, no maps (K, h, w); Grad-CAM needs a layer "
                "before the flattening, such as the last convolution"
            )
        if label is not None and not 0 <= label < logits.shape[1]:
            raise SettingsError(
                f"label={label} must be one of the {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}"
            )
        classes = logits.argmax(1) if label is None else torch.full_like(logits[:, 0], label, dtype=torch.long)
        y = logits.gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(y.sum(), A, allow_unused=True)  # in evaluation images do not mix
    if gradient is None:
        raise SettingsError(f"layer {layer!r} has no part in the logits; choose a layer on the way to them")
    alpha = gradient.mean((2, 3))  # (N, K), equation 1
    maps = torch.einsum("nk,nkhw->nhw", alpha, A).clamp(min=0)  # equation 2
    probabilities = logits.softmax(1).gather(1, classes[:, None])[:, 0]
    return Activation(maps.detach().cpu(), classes.cpu(), probabilities.detach().cpu(), layer)


def _last_maps(outputs: Mapping[str, Tensor], convolutions: Sequence[str]) -> str:
    """The layer that `grad_cam` looks at by default, of outputs in the order in which they came."""
    called = [name for name in outputs if name in convolutions]
    last = ([name for name in called if outputs[name].shape[2:].numel() > 1] or called or convolutions)[-1]
    same = [name for name in outputs if _within(last, name) and outputs[name].shape[2:] == outputs[last].shape[2:]]
    return (same or [last])[-1]


def _within(name: str, block: str) -> bool:
    """Whether a layer is the block of that path, or stands within it."""
    return f"{name}.".startswith(f"{block}.")


def heat_over_images(
    images: Any,
    found: Activation,
    layer: str,
    class_names: Sequence[str] = (),
    titles: Sequence[str] = (),
    lang: str = "en",
) -> Figure:
    """Each image, and under it the same in grey with its map over it: dark where nothing speaks for the class.

    `images`: (N, C, H, W) as the network takes them, over whose pixels the maps are stretched (bilinear); each map is
    drawn as shares of its greatest value. `titles` stand over the images.

    Raises:
        ShapeError: different numbers of images and maps.
    """
    lang = writable_language(lang)
    images = as_array(images)
    if len(images) != len(found.maps):
        raise ShapeError(f"{len(images)} images for {len(found.maps)} maps; give one for each")
    height, width = images.shape[2:]
    names = class_words(class_names, int(found.classes.max()) + 1, lang)
    columns = min(len(images), 5)
    rows = -(-len(images) // columns)
    figure = blank_figure(max(1.75 * columns + 1.1, 6.5), 4.2 * rows + 0.6)
    figure.suptitle(word("cam_title", lang, layer=layer), fontsize=12)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.flat[:]:
        axes.axis("off")
    stretched = nn.functional.interpolate(
        found.maps[:, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        for axes in (above, below):
            axes.axis("on")
        draw_image(above, image)
        if titles:
            above.set_title(titles[place], fontsize=9)
        greatest = float(found.maps[place].max())
        share = f"{float(found.probabilities[place]):.1%}"
        key = "cam_class" if greatest > 0 else "cam_nothing"
        below.imshow(blended(image, stretched[place].numpy() / max(greatest, 1e-30)), interpolation="nearest")
        hide_ticks(below)
        below.set_title(word(key, lang, name=names[int(found.classes[place])], share=share), fontsize=9)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), ax=grid, shrink=0.6, pad=0.02, fraction=0.04)
    bar.set_label(word("cam_scale", lang))
    return finished(figure, lang)


def blended(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(C, H, W) and (H, W) in 0..1 -> (H, W, 3): the image in grey under the heat's colours."""
    grey = image.mean(0).astype(np.float64)
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-12)
    return np.clip(0.4 * grey[..., None] + 0.6 * colormaps[HEAT](heat.clip(0, 1))[..., :3], 0, 1)
