"""What `byhand data check` says of images with boxes: what there is, how large it is, and everything odd."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from byhand.data.detection import MEDIUM, SMALL, DetectionDataset, Objects
from byhand.data.entry import Entry
from byhand.data.voc_folder import faults_elsewhere

PARTS = ("train", "test")


def report(dataset: DetectionDataset, known: Entry, where: Path) -> list[dict[str, Any]]:
    """Lines with file, path, bytes, sha256, verdict and note, as `data.check` has them for every data set.

    The images of both parts; a line for each class with its boxes; the sizes of the images and of the boxes, small,
    medium and large as COCO has it (an area under 32², under 96², from there on); then what was changed or left out,
    in a `voc-folder` also what would be of annotations that neither part uses.
    Lines that count have the numbers under `counts`, too.
    """
    verdict = "made" if known.kind == "made" else "yours"
    rows = [
        _row(name, sha256, verdict, "" if i else dataset.source, where)
        for i, (name, sha256) in enumerate(dataset.sha256.items())
    ]
    parts = {"train": dataset.train_objects, "test": dataset.test_objects}
    plain = {name: [_without_masks(objects, i) for i in range(len(objects))] for name, objects in parts.items()}
    for part in PARTS:
        objects = plain[part]
        empty = sum(not len(one) for one in objects)
        num_boxes = sum(map(len, objects))
        ignored = sum(int(one.ignored.sum()) for one in objects)
        note = f"{len(objects):,} images, {empty:,} of them without an object; {num_boxes:,} boxes"
        note += f", {ignored:,} of them crowds or difficult" if ignored else ""
        counts = {"images": len(objects), "empty": empty, "boxes": num_boxes, "ignored": ignored}
        rows.append(_row(f"{part} images", None, verdict, note, counts=counts))
    boxes = {part: _labels(plain[part]).bincount(minlength=dataset.num_classes).tolist() for part in PARTS}
    for label, name in enumerate(dataset.class_names):
        counts = {part: boxes[part][label] for part in PARTS}
        note = f"{counts['train']:,} boxes for training, {counts['test']:,} in the test set"
        lacking = [part for part in PARTS if not counts[part]]
        if lacking:
            note += {
                "train": "; it cannot be learned",
                "test": "; without any its AP is not a number, and left out of the mean",
            }[lacking[0]]
        rows.append(_row(f"class {name}", None, verdict, note, counts=counts))
    rows += [_image_sizes(plain, dataset, verdict), _box_sizes(plain, verdict)]
    rows.append(_row("masks", None, verdict, "one for each object" if dataset.has_masks else "none"))
    rows += [_row(name, None, "changed", f"cut at the border: {how}") for name, how in dataset.changed.items()]
    rows += [_row(name, None, "left out", why) for name, why in dataset.skipped.items()]
    if known.name == "voc-folder":
        used = {one.image for part in PARTS for one in plain[part]} | dataset.skipped.keys()
        elsewhere = faults_elsewhere(where, used)
        rows += [_row(name, None, "not used", f"an image of neither part: {why}") for name, why in elsewhere.items()]
    return rows


def _row(
    file: str, sha256: str | None, verdict: str, note: str, path: Path | None = None, counts: Any = None
) -> dict[str, Any]:
    row = {"file": file, "path": path, "bytes": None, "sha256": sha256, "verdict": verdict, "note": note}
    return row if counts is None else {**row, "counts": counts}


def _without_masks(objects: Sequence[Objects], i: int) -> Objects:
    """The objects of an image without drawing the masks that are drawn when they are asked for."""
    source = getattr(objects, "sources", None)
    return objects[i] if source is None else source[i].objects


def _labels(objects: Sequence[Objects]) -> torch.Tensor:
    return torch.cat([one.labels for one in objects])


def _image_sizes(plain: dict[str, list[Objects]], dataset: DetectionDataset, verdict: str) -> dict[str, Any]:
    sizes = Counter(
        (image.shape[2], image.shape[1]) for images in (dataset.train_images, dataset.test_images) for image in images
    )
    widths, heights = ([size[side] for size in sizes] for side in (0, 1))
    if len(sizes) == 1:
        note = f"all {widths[0]} × {heights[0]} pixels"
    else:
        (width, height), count = sizes.most_common(1)[0]
        note = (
            f"{min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high, {len(sizes):,} sizes; "
            f"{count:,} are {width} × {height}"
        )
    counts = {"sizes": len(sizes), "width": [min(widths), max(widths)], "height": [min(heights), max(heights)]}
    return _row("sizes of images", None, verdict, note, counts=counts)


def _box_sizes(plain: dict[str, list[Objects]], verdict: str) -> dict[str, Any]:
    everything = [one for part in PARTS for one in plain[part]]
    boxes = torch.cat([one.boxes for one in everything])
    areas = torch.cat([one.areas for one in everything])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    counts = {
        "small": int((areas < SMALL).sum()),
        "medium": int(((areas >= SMALL) & (areas < MEDIUM)).sum()),
        "large": int((areas >= MEDIUM).sum()),
    }
    note = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    note += (
        f"; {widths.min():.4g} to {widths.max():.4g} wide (median {widths.median():.4g}), "
        f"{heights.min():.4g} to {heights.max():.4g} high (median {heights.median():.4g})"
    )
    return _row("sizes of boxes", None, verdict, note, counts=counts)
