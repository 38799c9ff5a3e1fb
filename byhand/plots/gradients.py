"""The gradient norm of each layer while a network trains, and what shortcuts and normalisation do to it.

Glorot & Bengio (2010), section 4.2.2, for the measure; He et al. (2016), section 4.1, for networks without shortcuts;
Ioffe & Szegedy (2015), section 3.3, for normalisation.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from byhand import models
from byhand.data.preparation import Preparation
from byhand.errors import NonFiniteLoss, SettingsError, ShapeError
from byhand.plots.canvas import blank_figure, finished
from byhand.plots.language import word, writable_language

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset

DEPTHS = (20, 32, 44, 56, 110)  # of the networks for CIFAR with and without shortcuts
MOST_IMAGES = 2000  # of a data set; a few dozen steps see no more
MOST_NAMES = 8  # of layers under an axis; more are numbered


class Norms(NamedTuple):
    """The layers with weights, from the input on, and the norms of their gradients (steps, layers)."""

    names: list[str]
    values: np.ndarray


def gradient_norms(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 30,
    batch_size: int = 32,
    lr: float = 0.1,
    momentum: float = 0.9,
    seed: int = 0,
) -> Norms:
    """|∂L/∂W| of each convolution's and linear layer's weight before each of `steps` steps, which train the model.

    L is the mean cross-entropy of a batch drawn from `images` (N, C, H, W), float as the network takes them, and
    `labels` (N,), with `seed`; the optimizer is SGD. The model is left trained, in training mode, its gradients those
    of the last step.

    Raises:
        SettingsError: steps or batch_size below 1, or a batch_size above N.
        NonFiniteLoss: the loss is no number any more; the error names the step.
    """
    if steps < 1:
        raise SettingsError(f"steps={steps} must be at least 1")
    if not 1 <= batch_size <= len(images):
        raise SettingsError(f"batch_size={batch_size} must be from 1 to the {len(images)} images")
    weights = [
        (name.removesuffix(".weight"), parameter)
        for name, parameter in model.named_parameters()
        if parameter.ndim in (2, 4)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    generator = torch.Generator().manual_seed(seed)
    values = np.zeros((steps, len(weights)))
    model.train()
    for step in range(steps):
        chosen = torch.randperm(len(images), generator=generator)[:batch_size].to(images.device)
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        if not torch.isfinite(loss):
            raise NonFiniteLoss(f"the loss is {loss.item()} in step {step + 1}; choose an lr below {lr:g}")
        optimizer.zero_grad()
        loss.backward()
        values[step] = [0.0 if weight.grad is None else float(weight.grad.norm()) for _, weight in weights]
        optimizer.step()
    return Norms([name for name, _ in weights], values)


def pairs_measured(
    dataset: "Dataset", depth: int = 56, steps: int = 30, seed: int = 0, lang: str = "en"
) -> list[tuple[str, Norms]]:
    """Four panels for `gradient_norm_curves`, measured on the data set's first training images.

    He et al.'s network for CIFAR of that depth with its shortcuts and without, on images of at most 32 pixels; LeNet-5
    with sigmoids, the book's form, with batch normalisation and without. The two of a pair start from the same weights
    and see the same batches of 32; SGD with a rate of 0.1 and momentum 0.9.

    Raises:
        SettingsError: a depth that is not among DEPTHS, steps below 1, a data set without images.
    """
    lang = writable_language(lang)
    images, labels = dataset.train_images[:MOST_IMAGES], dataset.train_labels[:MOST_IMAGES]
    if depth not in DEPTHS:
        raise SettingsError(f"depth={depth} must be one of {', '.join(map(str, DEPTHS))}")
    if images.ndim != 4 or not dataset.num_classes:
        raise SettingsError(f"data set {dataset.name!r} has no images of classes; choose another, such as 'digits'")
    channels, height, width = images.shape[1:]
    values = images.double() / 255
    mean, std = float(values.mean()), max(float(values.std()), 1e-3)
    kept = None if max(height, width) <= 32 and height == width else 32
    small = Preparation(kept, "resize" if kept else None, mean, std)(images)
    large = Preparation(32, "resize", mean, std)(images)
    sizes: dict[str, Any] = {"num_classes": dataset.num_classes, "in_channels": channels}
    chosen: tuple[tuple[str, str, dict[str, Any], Tensor], ...] = (
        ("with_shortcuts", f"resnet{depth}", {}, small),
        ("without_shortcuts", f"resnet{depth}", {"shortcut": False}, small),
        ("with_normalisation", "lenet5-bn", {"activation": "sigmoid"}, large),
        ("without_normalisation", "lenet5", {"activation": "sigmoid"}, large),
    )
    panels = []
    for key, name, options, batch in chosen:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = models.build(name, **sizes, **options)
        size = min(32, len(batch))
        norms = gradient_norms(model, batch, labels, steps=steps, batch_size=size, seed=seed)
        panels.append((word(key, lang, depth=depth), norms))
    return panels


def gradient_norm_curves(panels: Sequence[tuple[str, Norms]], title: str | None = None, lang: str = "en") -> Figure:
    """Panels side by side, two a row: over the layers the norm of each one's gradient, a line for each step.

    `panels`: (title, norms). Both panels of a row share their logarithmic axis, so that they can be compared. A norm of
    0 is not drawn.

    Raises:
        ShapeError: no panel, or one without steps or layers.
    """
    lang = writable_language(lang)
    for name, norms in panels:
        if norms.values.ndim != 2 or not norms.values.size:
            raise ShapeError(f"panel {name!r} has norms of shape {norms.values.shape}; expected (steps, layers)")
    if not panels:
        raise ShapeError("no panel of gradient norms; give at least one")
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = blank_figure(4.6 * columns + 0.9, 3.4 * rows + 0.6)
    if title:
        figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
    steps = max(len(norms.values) for _, norms in panels)
    shades = colormaps["viridis_r"]
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.remove()
            continue
        name, norms = panels[place]
        depth = np.arange(1, len(norms.names) + 1)
        few = len(depth) <= MOST_NAMES
        for step, values in enumerate(norms.values):
            colour = shades(0.08 + 0.92 * step / max(steps - 1, 1))  # the palest yellow is lost on white
            drawn = np.where(values > 0, values, np.nan)
            axes.plot(depth, drawn, color=colour, linewidth=1.1, marker="o" if few else "", markersize=3.5)
        axes.set_yscale("log")
        axes.set_title(name, fontsize=11)
        if few:
            axes.set_xticks(depth, norms.names, fontsize=8, rotation=20, ha="right", rotation_mode="anchor")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            axes.set_xlim(0, len(depth) + 1)
        axes.set_xlabel(word("norms_layer", lang))
        if place % columns == 0:
            axes.set_ylabel(word("norms_axis", lang))
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(ScalarMappable(Normalize(1, max(steps, 2)), shades), ax=figure.axes, shrink=0.7, pad=0.02)
    bar.set_label(word("norms_step", lang))
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return finished(figure, lang)
