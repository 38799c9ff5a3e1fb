"""A recipe for any detector with any data set with boxes; the counterpart of ``own`` for images with one label.

- AdamW over one cycle, highest lr 1e-3 of the small detectors and 2e-4 of the others, weight decay 0.01, gradients cut
  at norm 10, batches of 4 images, of 8 where an epoch has more than 1,000; bfloat16 where the device computes it.
- ``fast`` sees about 5,000 images in all, in 5 to 40 epochs; ``best`` four times as many, and keeps the running mean of
  the weights.
- Images are cut at random to at least half their area and change their colours; photographs are also mirrored, digits
  are not. Detectors that search an image for proposals see it uncut and in its own colours, so that each is searched
  once (and once mirrored), not in every epoch.
- The small detectors see images at 240 × 320 pixels, or at 4/3 of their size where they are smaller than that; R-CNN,
  which enlarges windows, at their own size.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand import data, models
from byhand.errors import SettingsError, unknown_name
from byhand.recipes.recipe import Plan, Recipe
from byhand.training.settings import Settings

if TYPE_CHECKING:
    from byhand.data.detection import DetectionDataset

SMALL_SIDE = 240  # of the small detectors, pixels of the shorter side


def check_detection_names(network: str | None, dataset: str) -> None:
    """Nothing, if a detector and a data set with boxes are named, or neither; SettingsError for one without the other.

    A name that there is not raises UnknownName.
    """
    boxed = data.entry(dataset).task == "detection"
    if network is None:
        return
    detects = models.detector(network) is not None
    if not detects and network not in [one.name for one in models.NETWORKS]:
        known = [one.name for one in (*models.NETWORKS, *models.DETECTORS)]
        raise unknown_name("network", network, [*known, *models.SHORT])
    if detects and not boxed:
        raise SettingsError(
            f"{network} finds objects, and {dataset} has no boxes around any; give --dataset digits-scene, "
            "voc-folder:PATH or coco-json:PATH"
        )
    if boxed and not detects:
        raise SettingsError(
            f"{dataset} has boxes around objects, and {network} gives one label an image; give --network fasterrcnn, "
            "or maskrcnn for masks"
        )


def own_detector(network: str, dataset: "DetectionDataset", size: int | None = None) -> Recipe:
    """The recipe of a detector for a data set; ``size`` is the shorter side of the images as it sees them, in pixels,
    or less where the longer would be more than 4/3 of it.

    Raises SettingsError for a detector of masks where the data set has none.
    """
    entry = models.detector(network)
    assert entry is not None
    place = data.entry(dataset.name)
    label = Path(dataset.name.partition(":")[2]).stem if place.kind == "folder" else dataset.name
    label = re.sub(r"[^\w.-]+", "-", label) or "images"
    check_masks(entry.name, dataset)
    small = entry.name in models.SHORT.values()
    searches = models.searches(entry.name)
    num_images = len(dataset.train_images)
    settings = Settings(
        epochs=max(5, min(5_000 // num_images, 40)),
        batch_size=min(num_images, 8 if num_images > 1_000 else 4),
        lr=1e-3 if small else 2e-4,
        optimizer="adamw",
        weight_decay=0.01,
        clip=10.0,
        schedule="one-cycle",
        flip=place.kind == "folder",
        crop=0.0 if searches else 0.5,
        colour=0.0 if searches else 0.2,
        by_hand=False,
        mixed_precision=True,
    )
    best = settings.replace(epochs=max(20, min(20_000 // num_images, 160)), ema=0.999)
    return Recipe(
        name=f"{network}-on-{label}",
        title=entry.title,
        section="",
        network=entry.name,
        dataset=dataset.name,
        plans={"fast": Plan(settings), "best": Plan(best)},
        task="detection",
        options={
            "num_classes": dataset.num_classes + 1,
            **sides(dataset, size, small, not entry.name.startswith("rcnn")),
        },
    )


def check_masks(network: str, dataset: "DetectionDataset") -> None:
    """Nothing; raises SettingsError for a detector of masks where the data set has none."""
    if network.startswith("mask") and not dataset.has_masks:
        raise SettingsError(
            f"{network} learns masks, and {dataset.name} has boxes alone; take {network.replace('mask', 'faster')}"
        )


def sides(dataset: "DetectionDataset", size: int | None, small: bool, enlarge: bool = True) -> dict[str, Any]:
    """The detector's ``min_size`` and ``max_size``; none where it keeps its own."""
    if size is None:
        if not small:
            return {}
        first = [dataset.train_images[i] for i in range(min(20, len(dataset.train_images)))]
        shorter = max(min(image.shape[1:]) for image in first)
        size = min(SMALL_SIDE, shorter * 4 // 3 if enlarge else shorter)
    return {"min_size": size, "max_size": size * 4 // 3}
