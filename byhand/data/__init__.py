"""The data sets: what there is, where it lies, and whole tensors of it.

Looked for in `data_dir`, $BYHAND_DATA, the user's cache, and Debian's /usr/share/datasets, in this order; else
downloaded.
This module imports neither torch nor numpy until something is read: `byhand list` must answer at once.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.data.cifar10 import CIFAR10, CIFAR10_BATCH5
from byhand.data.coco_json import COCO_JSON
from byhand.data.detection_labels import path_of
from byhand.data.digits import DIGITS, embedded_path
from byhand.data.digits_scene import DIGITS_SCENE
from byhand.data.entry import DataFile, Entry
from byhand.data.fashion_mnist import FASHION_MNIST
from byhand.data.folders import Found, find, roots, target_folder
from byhand.data.image_folder import IMAGE_FOLDER, folder_of, list_images
from byhand.data.mnist import MNIST
from byhand.data.synthetic_linear import SYNTHETIC_LINEAR
from byhand.data.voc_folder import VOC_FOLDER
from byhand.errors import DataError, unknown_name

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset
    from byhand.data.detection import DetectionDataset
    from byhand.data.download import Progress

DATASETS = (
    SYNTHETIC_LINEAR,
    DIGITS,
    MNIST,
    FASHION_MNIST,
    CIFAR10,
    CIFAR10_BATCH5,
    IMAGE_FOLDER,
    DIGITS_SCENE,
    VOC_FOLDER,
    COCO_JSON,
)

Folder = str | os.PathLike[str]


def entry(name: str) -> Entry:
    """The catalogue's entry of this name; that of the user's own images for `image-folder:PATH` and its like.

    Raises:
        UnknownName: there is none.
    """
    for known in DATASETS:
        if known.name == name or (known.kind == "folder" and name.startswith(f"{known.name}:")):
            return known
    raise unknown_name("data set", name, [known.name for known in DATASETS])


def load(
    name: str,
    data_dir: Folder | None = None,
    *,
    download: bool = True,
    progress: "Progress | None" = None,
    seed: int = 0,
    size: int | None = None,
    max_bytes: int = 2 * 10**9,
) -> "Dataset":
    """The data set in memory, downloaded first if it is nowhere and `download` is set.

    Args:
        seed: of `synthetic-linear`, whose examples are made; the others do not depend on it.
        size: pixels each way of the images of an `image-folder`; unless given, what suits the images there.
        max_bytes: the most that the images of an `image-folder` may take in memory; more are mapped from a file in the
            user's cache.

    Raises:
        UnknownName: no data set is called so.
        DataError: it is nowhere, incomplete, damaged or not what its name says; no mirror gave it; or its images have
            boxes, see `load_detection`.
    """
    known = entry(name)
    if known.task != "labels":
        raise DataError(f"{name} has boxes around objects, not one label an image; it is for detection networks only")
    if known.kind == "made":
        from byhand.data.synthetic_linear import make_synthetic_linear

        return make_synthetic_linear(seed)
    if known.kind == "folder":
        from byhand.data.image_arrays import load_image_folder

        return load_image_folder(folder_of(name), size, max_bytes)
    if known.kind == "embedded":
        from byhand.data.digits import load_digits

        return load_digits()
    found = find(known, roots(data_dir))
    to_download = found is None or (found.missing and found.folder == target_folder(known, data_dir))
    if download and to_download:
        get(name, data_dir, progress=progress)
        found = find(known, roots(data_dir))
    return _read(known, _complete(known, found, data_dir).paths)


def load_detection(name: str, *, seed: int = 0, max_bytes: int = 2 * 10**9) -> "DetectionDataset":
    """The data set of images with boxed objects: `digits-scene`, `voc-folder:PATH` or `coco-json:PATH`.

    Args:
        seed: of `digits-scene`, whose scenes are made, those of the test set, too; the others do not depend on it.
        max_bytes: the most that a user's own images may take in memory; more are decoded when they are asked for.

    Raises:
        UnknownName: no data set is called so.
        DataError: there is nothing of this kind at PATH, or nothing of it can be used; or the data set has no boxes.
    """
    known = entry(name)
    if known.task != "detection":
        boxed = ", ".join(one.name for one in DATASETS if one.task == "detection")
        raise DataError(f"{name} has no boxes around objects, which a detection network needs; choose among {boxed}")
    if known is DIGITS_SCENE:
        from byhand.data.digits_scene import make_digits_scene

        return make_digits_scene(seed)
    path = path_of(name, f"{known.name}:PATH")
    if known is COCO_JSON:
        from byhand.data.coco_json import load_coco_json

        return load_coco_json(path, max_bytes=max_bytes)
    from byhand.data.voc_folder import load_voc_folder

    return load_voc_folder(path, max_bytes=max_bytes)


def found_labels(name: str, data_dir: Folder | None = None) -> str:
    """The name with a PATH that is there: as it is given, else below the folders of the data sets, for a recipe's name.

    `voc-folder:bccd` is the folder `bccd` here, or in `data_dir`, $BYHAND_DATA, ...; where it is nowhere the name
    comes back as it is. The same for a name without PATH.
    """
    kind, _, path = name.partition(":")
    if not path or os.path.isabs(path) or os.path.exists(os.path.expanduser(path)):
        return name
    return next((f"{kind}:{root / path}" for root in roots(data_dir) if (root / path).exists()), name)


def get(
    name: str,
    data_dir: Folder | None = None,
    *,
    mirrors: Sequence[str] | None = None,
    progress: "Progress | None" = None,
) -> Path:
    """The folder with the data set's files, downloaded if they are not there or damaged; see `download.fetch`.

    Without `data_dir` a good copy in any of the usual places will do; otherwise it goes into $BYHAND_DATA or the
    user's cache. What is embedded or made needs no folder: the answer is then the package's. The folder of an
    `image-folder:PATH` is PATH, if it has folders of images.

    Raises:
        UnknownName: no data set is called so.
        DataError: no mirror gave it, or the folder cannot be written.
    """
    known = entry(name)
    if known.task == "detection" and known.kind == "folder":
        return _labels_of(name, known)
    if known.kind == "folder":
        return list_images(folder_of(name)).folder
    if known.kind != "files":
        return embedded_path(DIGITS.files[0]).parent
    from byhand.data.download import fetch

    found = find(known, roots(data_dir)[:1] if data_dir else roots())
    if found and not found.missing:
        try:
            _read(known, found.paths)
        except DataError:
            pass  # fetched anew below, into a place that is looked at first
        else:
            return found.folder
    return fetch(known, target_folder(known, data_dir), mirrors, progress)


def status(data_dir: Folder | None = None) -> list[dict[str, Any]]:
    """For each data set its name, title, counts, shape, and `state`, `where` and `bytes` (on disk).

    The state is one of "made", "embedded", "yours", "present", "incomplete", "missing" and "unreadable"; `note` says
    more about the last three, and how to name what is yours. Nothing is read: `check` does that.
    """
    return [
        {
            "name": known.name,
            "title": known.title,
            "num_train": known.num_train,
            "num_test": known.num_test,
            "shape": known.shape,
            "num_classes": known.num_classes,
            "licence": known.licence,
            **_whereabouts(known, data_dir),
        }
        for known in DATASETS
    ]


def check(name: str, data_dir: Folder | None = None) -> list[dict[str, Any]]:
    """For each file its name, path, bytes on disk, sha256 of the content, verdict and note, after reading it whole.

    The verdict is "ok" (as published), "known variant" (the note says how it differs), "differs" (sound, but neither),
    "made" (from a seed) or "yours" (there is nothing to differ from), or "left out" (an image that cannot be read). Of
    images with boxes there are more lines: the classes, the sizes of images and boxes, what was changed and left out.

    Raises:
        UnknownName: no data set is called so.
        DataError: it is nowhere, incomplete or damaged.
    """
    known = entry(name)
    if known.task == "detection":
        from byhand.data.detection_report import report

        return report(load_detection(name), known, _labels_of(name, known))
    if known.kind == "folder":
        return _check_folder(name)
    if known.kind == "files":
        paths = _complete(known, find(known, roots(data_dir)), data_dir).paths
        dataset = _read(known, paths)
    else:
        paths = {file.name: embedded_path(file) for file in known.files}
        dataset = load(name)
    if known.kind == "made":
        return [
            {"file": part, "path": None, "bytes": 0, "sha256": sha256, "verdict": "made", "note": dataset.source}
            for part, sha256 in dataset.sha256.items()
        ]
    return [
        {
            "file": file.name,
            "path": paths[file.name],
            "bytes": paths[file.name].stat().st_size,
            "sha256": dataset.sha256[file.name],
            **_verdict(file, dataset.sha256[file.name]),
        }
        for file in known.files
    ]


def _read(known: Entry, paths: Mapping[str, Path]) -> "Dataset":
    if known.files[0].format == "records":
        from byhand.data.cifar10 import read_batches

        return read_batches(known, paths)
    from byhand.data.arrays import read_files

    return read_files(known, paths)


def _labels_of(name: str, known: Entry) -> Path:
    """Where the labels of images with boxes lie; the package's digits for what is made of them."""
    if known.kind == "made":
        return embedded_path(DIGITS.files[0]).parent
    path = path_of(name, f"{known.name}:PATH")
    if not path.exists():
        raise DataError(f"{path} does not exist; give the place of your labels as {known.name}:PATH")
    return path


def _check_folder(name: str) -> list[dict[str, Any]]:
    dataset = load(name)
    folder = folder_of(name)
    (sha256,) = dataset.sha256.values()
    num_bytes = sum(_bytes(folder / path) for path, _ in list_images(folder).images)
    whole = {"file": "images", "path": folder, "bytes": num_bytes}
    rows: list[dict[str, Any]] = [{**whole, "sha256": sha256, "verdict": "yours", "note": dataset.source}]
    for path, why in dataset.skipped.items():
        row = {"file": path, "path": folder / path, "bytes": _bytes(folder / path), "sha256": None}
        rows.append({**row, "verdict": "left out", "note": why})
    return rows


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere, for instance; it is among what was left out
        return 0


def _verdict(file: DataFile, sha256: str) -> dict[str, str]:
    if sha256 == file.sha256:
        return {"verdict": "ok", "note": "as published"}
    if sha256 in file.variants:
        return {"verdict": "known variant", "note": file.variants[sha256]}
    return {"verdict": "differs", "note": f"not the published file, whose content has sha256 {file.sha256}"}


def _complete(known: Entry, found: Found | None, data_dir: Folder | None) -> Found:
    """What was found, if it is a complete data set; else an error that says what is lacking and what to do."""
    where = f" --data-dir {data_dir}" if data_dir else ""
    if found is None:
        searched = ", ".join(str(root / known.folder_names[0]) for root in roots(data_dir))
        raise DataError(f"{known.name}: not in {searched}; run `byhand data get {known.name}{where}`")
    if found.missing:
        raise DataError(
            f"{found.folder}: has {len(found.paths)} of the {len(known.files)} files of {known.name}, lacks "
            f"{', '.join(found.missing)}; put them there, or run `byhand data get {known.name}{where}`"
        )
    return found


def _whereabouts(known: Entry, data_dir: Folder | None) -> dict[str, Any]:
    if known.kind == "made":
        return {"state": "made", "where": None, "bytes": 0, "note": ""}
    if known.kind == "folder":
        what = {"labels": "a folder of images for each class", "detection": "images with boxes"}[known.task]
        note = f"give your own as {known.name}:PATH, {what}"
        return {"state": "yours", "where": None, "bytes": 0, "note": note}
    if known.kind == "embedded":
        paths = [embedded_path(file) for file in known.files]
        size = sum(path.stat().st_size for path in paths)
        return {"state": "embedded", "where": paths[0].parent, "bytes": size, "note": ""}
    try:
        found = find(known, roots(data_dir))
        size = sum(path.stat().st_size for path in found.paths.values()) if found else 0
    except (DataError, OSError) as error:
        return {"state": "unreadable", "where": None, "bytes": 0, "note": str(error)}
    if found is None:
        return {"state": "missing", "where": None, "bytes": 0, "note": f"run `byhand data get {known.name}`"}
    if found.missing:
        note = f"lacks {', '.join(found.missing)}"
        return {"state": "incomplete", "where": found.folder, "bytes": size, "note": note}
    return {"state": "present", "where": found.folder, "bytes": size, "note": ""}
