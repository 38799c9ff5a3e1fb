"""A recipe for any network with any data set, a user's own images above all: the data decide what they can.

Number of classes, channels, size, mean and deviation are those of the training images. The settings are one choice for
all, made to be safe rather than the best for any:

- AdamW over one cycle (Smith 2018), weight decay 0.05, label smoothing 0.1. The highest lr is 3e-3 with batch
  normalisation or up to five layers, else 5e-4, where deep networks without it still begin to learn; 1e-3 for all of a
  network that has weights already, 3e-3 for its head alone.
- Batches of 64 images, of fewer where an epoch would not have ten steps.
- ``fast`` sees about 40,000 images in all, in 5 to 40 epochs; ``best`` four times as many, zooms and rotates a little
  besides, and keeps the running mean of the weights.
- Images are moved by up to an eighth of their size; photographs (in colour, or of clothes) also flipped left to right,
  which would make other signs of digits and letters.
- By hand where that is the faster on a CPU: networks of chapters 3 to 6.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand import data, models
from byhand.data.preparation import Preparation
from byhand.errors import SettingsError, unknown_name
from byhand.recipes.own_detector import check_detection_names
from byhand.recipes.recipe import Plan, Recipe
from byhand.training.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from byhand.data.arrays import Dataset

# What a plan is for whatever network and data set: changes that do not fit it can fit none.
WHATEVER = Settings(epochs=1, batch_size=1, lr=1.0, schedule="one-cycle", by_hand=False)
PLANS = ("fast", "best")
LARGEST_SMALL = 64  # pixels a side; up to here networks get the stem that they have for small images
LARGEST_TRIED = 256  # pixels a side; every network takes images of fewer
LARGEST_SIZE = 4096  # pixels a side; of one image alone a first layer of 64 maps takes 4 GB
SHALLOW = 5  # layers with weights


def check_names(recipe: str | None, network: str | None, dataset: str | None, plan: str, size: int | None) -> None:
    """Nothing, if these name a recipe, or a network and a data set of one kind; nothing is read for it.

    Raises SettingsError, or UnknownName for a name that there is not.
    """
    if network is None and dataset is None:
        if size is not None:
            raise SettingsError(
                f"size={size} is for a network and a data set of one's own choice; a recipe has its own"
            )
        return
    if recipe is not None:
        raise SettingsError(
            f"recipe {recipe!r} has its network and its data set; leave it out, or --network and --dataset"
        )
    if dataset is None:
        if models.detector(str(network)) is not None:
            raise SettingsError(
                f"network {network!r} needs a data set: give --dataset too, such as digits-scene, or voc-folder:PATH "
                "or coco-json:PATH for your own images"
            )
        models.network(str(network))
        raise SettingsError(
            f"network {network!r} needs a data set: give --dataset too, such as cifar10, or image-folder:PATH for your "
            "own images"
        )
    if not isinstance(dataset, str):
        raise SettingsError(f"dataset={dataset!r} must be a name, such as 'image-folder:{dataset}'")
    known = data.entry(dataset)
    check_detection_names(network, dataset)
    if network is None:
        raise SettingsError(f"data set {dataset!r} needs a network: give --network too, such as resnet18")
    if plan not in PLANS:
        raise unknown_name("plan of a network and a data set of one's own choice", plan, PLANS)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_SIZE):
        raise SettingsError(f"size={size!r} must be a whole number of pixels, 1 to {LARGEST_SIZE}")
    if known.task == "detection":
        return
    for_points, of_points = len(models.network(network).input_shape) == 1, known.kind == "made"
    if for_points != of_points or (of_points and size is not None):
        takes, has = ("points" if points else "images" for points in (for_points, of_points))
        raise SettingsError(
            f"{network} takes {takes} and {dataset} has {has}; choose from `byhand list`"
            if for_points != of_points
            else f"size={size} is for images, and {dataset} has points; leave it out"
        )


def own_recipe(
    network: str,
    dataset: "Dataset",
    size: int | None = None,
    weights: "Mapping[str, Tensor] | None" = None,
    freeze: bool = False,
) -> Recipe:
    """The recipe of a network for a data set, with the plans of ``PLANS``; this module says how they are made.

    Images keep their size unless ``size`` (pixels a side) is given, or the network takes no such: then they get the
    next larger that it takes. Up to 64 pixels the network is built with ``small=True`` where it can be, unless given
    ``weights`` are those of the other form.

    Raises SettingsError where ``size`` is none that the network takes; the error names the least.
    """
    entry = models.network(network)
    place = data.entry(dataset.name)
    label = Path(dataset.name.partition(":")[2]).name if place.kind == "folder" else dataset.name
    label = re.sub(r"[^\w.-]+", "-", label) or "images"
    about: dict[str, Any] = {
        "name": f"{network}-on-{label}",
        "title": entry.title,
        "section": "",
        "network": network,
        "dataset": dataset.name,
    }
    if not dataset.num_classes:
        settings = Settings(epochs=3, batch_size=min(32, len(dataset.train_images)), lr=0.1, schedule="cosine")
        plans = {"fast": Plan(settings), "best": Plan(settings.replace(epochs=20))}
        return Recipe(**about, plans=plans, task="regression", options={"in_features": dataset.input_shape[0]})
    form = _Form(entry, dataset, weights)
    pixels = form.fitting(size)
    plain = form.build(pixels)
    normalised = any(name.endswith("running_mean") for name in plain.state_dict())
    shallow = sum(value.ndim > 1 for value in plain.state_dict().values()) <= SHALLOW
    lr = 3e-3 if normalised or shallow or freeze else 5e-4
    by_hand = shallow and not normalised
    num_images = len(dataset.train_images)
    settings = Settings(
        epochs=_between(5, 40_000 // num_images, 40),
        batch_size=min(num_images, next((size for size in (64, 32) if num_images >= 10 * size), 16)),
        lr=min(lr, 1e-3) if weights is not None and not freeze else lr,
        optimizer="adamw",
        weight_decay=0.05,
        schedule="one-cycle",
        label_smoothing=0.1,
        flip=dataset.input_shape[0] == 3 or dataset.name == "fashion-mnist",
        shift=pixels // 8,
        preparation=_preparation(dataset, pixels),
        by_hand=by_hand,
        depthwise_by_hand=not by_hand,
        channels_last=not by_hand,
    )
    best = settings.replace(epochs=_between(20, 160_000 // num_images, 160), zoom=0.1, rotate=5.0, ema=0.999)
    return Recipe(**about, plans={"fast": Plan(settings), "best": Plan(best)}, options=form.options(pixels))


class _Form:
    """In which form a network fits a data set: the options that it is built with, and the images that it then takes."""

    def __init__(self, network: models.Network, dataset: "Dataset", weights: "Mapping[str, Tensor] | None") -> None:
        self.network, self.dataset, self.weights = network, dataset, weights
        self.known = network.options()

    def options(self, size: int) -> dict[str, Any]:
        """What the constructor is given for images of this size."""
        small = "small" in self.known and size <= LARGEST_SMALL
        if small and self.weights is not None:
            small = self._in_common(size, True) >= self._in_common(size, False)
        return self._options(size, small)

    def _options(self, size: int, small: bool) -> dict[str, Any]:
        channels, num_classes = self.dataset.input_shape[0], self.dataset.num_classes
        values = {
            "num_classes": num_classes,
            "in_channels": channels,
            "in_features": channels * size**2,
            "widths": [channels * size**2, 256, 128, num_classes],
            "image_size": size,
        }
        return {name: values[name] for name in self.known if name in values} | ({"small": True} if small else {})

    def _in_common(self, size: int, small: bool) -> int:
        """How many tensors of the weights have the shape of one of the network in that form."""
        assert self.weights is not None
        own = self._built(self._options(size, small)).state_dict()
        ours, theirs = (
            Counter(tuple(getattr(value, "shape", ())) for value in state.values()) for state in (own, self.weights)
        )
        return (ours & theirs).total()

    def build(self, size: int) -> "nn.Module":
        """The network for images of this size, without memory for its weights."""
        return self._built(self.options(size))

    def _built(self, options: dict[str, Any]) -> "nn.Module":
        import torch

        with torch.device("meta"):
            return self.network.build(**options).eval()

    def takes(self, size: int) -> bool:
        """Whether the network can be built for images of this size and answers to one; nothing is computed for it."""
        import torch

        try:
            with torch.no_grad():
                self.build(size)(torch.empty(1, self.dataset.input_shape[0], size, size, device="meta"))
        except (RuntimeError, SettingsError):
            return False
        return True

    def fitting(self, asked: int | None) -> int:
        """The size that was asked for; or that of the images, and where it does not do the next larger that does.

        Of a network that takes no larger (LeNet-5 takes 32 to 35 pixels) that which it was made for.
        """
        size, made_for = asked or max(self.dataset.input_shape[1:]), self.network.input_shape[-1]
        if self.takes(size):
            return size
        nearest = next((one for one in range(size, LARGEST_TRIED + 1) if self.takes(one)), made_for)
        if asked is None:
            return nearest
        least = next(one for one in range(1, LARGEST_TRIED + 1) if self.takes(one))
        larger = "" if nearest > asked else ", and larger ones only up to a few pixels more"
        raise SettingsError(
            f"{self.network.name} takes no images of size={asked}; the smallest that it takes are {least} × {least} "
            f"pixels{larger}; give --size {nearest}, or leave it out"
        )


def _preparation(dataset: "Dataset", size: int) -> Preparation:
    """Images at this size, of mean 0 and deviation 1 over the training images, channel by channel."""
    from byhand.data.arrays import statistics

    mean, std = statistics(dataset.train_images)
    std = tuple(one or 1.0 for one in std)  # a channel of one level alone has none
    numbers: dict[str, Any] = {"mean": mean, "std": std} if len(mean) > 1 else {"mean": mean[0], "std": std[0]}
    if dataset.input_shape[1:] == (size, size):
        return Preparation(**numbers)
    return Preparation(size=size, fit="resize", **numbers)


def _between(least: int, wanted: int, most: int) -> int:
    return max(least, min(wanted, most))
