"""coco-json: the user's own images with boxes and masks, labelled as COCO does. Here only the labels are read."""

import json
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from byhand.data.detection_labels import (
    BadLabel,
    LabelledImage,
    LabelledObject,
    Labels,
    leave_out,
    number,
    reasons,
    short,
    some,
)
from byhand.data.entry import Entry
from byhand.data.image_folder import SUFFIXES
from byhand.errors import DataError

if TYPE_CHECKING:
    from byhand.data.detection import DetectionDataset

COCO_JSON = Entry(
    name="coco-json",
    title="your own images with boxes and masks, as in COCO: coco-json:PATH",
    num_train=0,
    num_test=0,
    shape=(),
    class_names=(),
    licence="your own",
    citation="",
    kind="folder",
    task="detection",
)

_MAX_BYTES = 1 << 32  # of one file
_TESTS = ("val", "valid", "validation", "test")
_LOOKED_AT = 200  # images by which a folder is chosen


@dataclass(frozen=True)
class _File:
    """What one label file holds: category number -> name, and the images with their objects by their category."""

    categories: dict[int, str]
    images: tuple[LabelledImage, ...]
    folder: Path


def list_coco(path: Path) -> Labels:
    """The labels of a COCO file of instances, or of a folder with one such file for training and one for the test.

    For a file X.json all its images are taken, and where its name holds "train", the file with "val", "valid",
    "validation" or "test" in that place is the test set; without such a file it is still to be split off. A folder may
    hold them in annotations/, in itself (there, instances_*.json go before others), or, as Roboflow writes it, in
    train/ beside valid/ or test/. Images are looked for beside the file, in `images`, and in a folder of the file's
    name (with and without "instances_", so train2017 and val2017), there and one level above, also in `images`; the
    folder with the most of them is taken.

    The classes are the categories of the training file in the order of their numbers, which may have gaps. Boxes
    (x, y, width, height) in pixels from 0 become their corners. Beyond what `detection_images.read` leaves out:
    annotations of unknown images or categories, images and annotations whose number was there before, and images that
    training and test share. An image without an object stays.

    Raises:
        DataError: there is no such file, it is no COCO file of instances, or has no image or no category.
    """
    train_path, test_path = _files(path)
    skipped: dict[str, str] = {}
    train = _read(train_path, skipped, train_path.name)
    if not train.categories:
        raise DataError(f'{train_path} has no category; expected "categories" with an id and a name each')
    numbers = sorted(train.categories)
    of_name: dict[str, list[int]] = {}
    for one in numbers:
        of_name.setdefault(train.categories[one], []).append(one)
    names = list(of_name)
    label_of = {one: names.index(train.categories[one]) for one in numbers}
    images = _labelled(train, label_of, skipped)
    said = [f"labels {train_path.name}", f"images in {train.folder}"]
    for name, ids in of_name.items():
        if len(ids) > 1:
            said.append(f"categories {some([str(one) for one in ids])} are one class: all are called {name}")
    tests = None
    if test_path is not None:
        same = test_path.name == train_path.name  # as Roboflow calls them
        test = _read(test_path, skipped, f"{test_path.parent.name}/{test_path.name}" if same else test_path.name)
        by_name = {name: label for label, name in enumerate(names)}
        tests = _labelled(test, {n: by_name[name] for n, name in test.categories.items() if name in by_name}, skipped)
        said.append(f"test set {test_path.name} with images in {test.folder}")
        shared = {image.path for image in tests}
        for image in images:
            if image.path in shared:
                skipped[f"{image.name}, for training"] = "the test set has it, too; it stays there"
        images = tuple(image for image in images if image.path not in shared)
    if not images:
        raise DataError(
            f"{train_path}: none of its images is left for training: {reasons(skipped) or 'it has none'}"
            f"; looked for them in {train.folder}"
        )
    from byhand.data.segments import check_outline, outline_mask

    return Labels(
        f"coco-json:{path}",
        path,
        tuple(names),
        tuple(ids[0] for ids in of_name.values()),
        images,
        tests,
        skipped,
        tuple(said),
        outline_mask,
        check_outline,
    )


def load_coco_json(path: str | os.PathLike[str], **options: Any) -> "DetectionDataset":
    """The images and objects that a COCO file labels; see `list_coco`, and `detection_images.read` for the options."""
    from byhand.data.detection_images import read

    return read(list_coco(Path(os.path.abspath(path))), **options)


def _files(path: Path) -> tuple[Path, Path | None]:
    """The label files for training and for the test."""
    if path.is_file():
        return path, _other(path)
    wanted = "coco-json:PATH needs a COCO file of instances, or a folder with annotations/*.json"
    if not path.is_dir():
        raise DataError(f"{path} does not exist; {wanted}")
    parts = {child.name.lower(): child for child in sorted(path.iterdir()) if child.is_dir()}
    if "train" in parts and (inside := _json_files(parts["train"])):
        tests = [found[0] for name in ("test", *_TESTS) if name in parts and (found := _json_files(parts[name]))]
        return inside[0], tests[0] if tests else None
    for folder in (path / "annotations", path):
        found = _json_files(folder) if folder.is_dir() else []
        found = [one for one in found if one.name.startswith("instances")] or found
        trains = [one for one in found if "train" in one.stem.lower()]
        chosen = trains or found
        if len(chosen) > 1:
            raise DataError(f"{folder} has several label files, {some([one.name for one in chosen])}; name one of them")
        if chosen:
            return chosen[0], _other(chosen[0])
    raise DataError(f"{path} holds no label file; {wanted}")


def _json_files(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("*.json") if one.is_file() and not one.name.startswith("."))


def _other(path: Path) -> Path | None:
    """The test set's file beside a file of a name with "train" in it, if there is one."""
    if "train" not in path.name:
        return None
    found = (path.with_name(path.name.replace("train", name)) for name in _TESTS)
    return next((one for one in found if one.is_file()), None)


def _read(path: Path, skipped: dict[str, str], called: str) -> _File:
    """What the file holds; in ``skipped`` it is called so."""
    content = _parsed(path)
    categories: dict[int, str] = {}
    for i, entry in enumerate(content["categories"]):
        where = f"{called}, category {i + 1}"
        try:
            one, name = _id(entry, "id"), " ".join(str(entry.get("name") or "").split())
            if not name:
                raise BadLabel("has no name")
            if one in categories:
                raise BadLabel(f"its id {one} was there before, as {categories[one]}")
            categories[one] = name
        except BadLabel as why:
            skipped[where] = str(why)
    images: dict[int, tuple[str, tuple[int, int] | None]] = {}
    for i, entry in enumerate(content["images"]):
        where = f"{called}, image at {i + 1}"
        try:
            one = _id(entry, "id")
            where = f"{called}, image {one}"
            if one in images:
                where = f"{called}, image {one}, again at {i + 1}"
                raise BadLabel(f"its id {one} was there before, for {images[one][0]}")
            images[one] = (_file_name(entry), _size(entry))
        except BadLabel as why:
            skipped[where] = str(why)
    if not images:
        raise DataError(
            f'{path} has no image{f": {reasons(skipped)}" if skipped else ""}; expected "images" with an id'
        )
    objects = _objects(called, content["annotations"], images, skipped)
    folder = _folder(path, [name for name, _ in images.values()])
    found: list[LabelledImage] = []
    paths: dict[Path, str] = {}
    for one, (name, size) in images.items():
        place = _place(folder, name)
        if place is None:
            leave_out(skipped, name, folder / name, f"there is no such image in {folder}")
        elif place in paths:
            skipped[f"{name}, image {one}"] = f"its file is that of {paths[place]}"
        else:
            paths[place] = f"image {one}"
            found.append(LabelledImage(place, name, one, size, tuple(objects[one])))
    return _File(categories, tuple(found), folder)


def _parsed(path: Path) -> dict[str, list[Any]]:
    """The three lists of a COCO file, `annotations` perhaps empty."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no sound JSON ({' '.join(str(error).split())[:80]}); export the labels anew"
        ) from None
    expected = 'a COCO file of instances has the lists "images", "annotations" and "categories"'
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; {expected}")
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list):
            what = f"its {name!r} is {short(content[name])}" if name in content else f"has no {name!r}"
            raise DataError(f"{path} {what}, only {some([short(key) for key in content]) or 'nothing'}; {expected}")
    return content


def _objects(
    called: str, annotations: list[Any], images: dict[int, Any], skipped: dict[str, str]
) -> dict[int, list[LabelledObject]]:
    """Image -> its objects, whose `label` is still the number of the category."""
    found: dict[int, list[LabelledObject]] = defaultdict(list)
    seen: set[int] = set()
    for i, entry in enumerate(annotations):
        where = f"{called}, annotation at {i + 1}"
        try:
            if not isinstance(entry, dict):
                raise BadLabel(f"is {short(entry)}, expected an object")
            if "id" in entry:
                one = _id(entry, "id")
                where = f"{called}, annotation {one}"
                if one in seen:
                    where = f"{called}, annotation {one}, again at {i + 1}"
                    raise BadLabel(f"its id {one} was there before")
                seen.add(one)
            image = _id(entry, "image_id")
            if image not in images:
                raise BadLabel(f"there is no image {image}")
            found[image].append(_object(entry, where))
        except BadLabel as why:
            skipped[where] = str(why)
    return found


def _object(entry: dict[str, Any], where: str) -> LabelledObject:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise BadLabel(f"its bbox is {short(box)}, expected [x, y, width, height]")
    x, y, width, height = (number(value, f"{what} of its bbox") for what, value in zip("xywh", box, strict=True))
    for what, value in (("width", width), ("height", height)):
        if value <= 0:
            raise BadLabel(f"its box {short(box)} has {f'no {what}' if value == 0 else f'a negative {what}'}")
    try:
        area: float | None = number(entry.get("area"), "area")
    except BadLabel:
        area = None  # it is asked for by measures only, and the box has one
    outline = entry.get("segmentation") or None
    return LabelledObject(
        where,
        _id(entry, "category_id"),
        (x, y, x + width, y + height),
        crowd=entry.get("iscrowd") in (1, True),
        area=area,
        outline=outline,
    )


def _labelled(file: _File, label_of: dict[int, int], skipped: dict[str, str]) -> tuple[LabelledImage, ...]:
    """The images with the category's number of each object replaced by its label; unknown ones are left out."""
    found = []
    for image in file.images:
        objects = []
        for one in image.objects:
            if one.label in label_of:
                objects.append(replace(one, label=label_of[one.label]))
            else:
                name = file.categories.get(one.label)
                known = (
                    f"its class {name!r} is none of the training set" if name else f"there is no category {one.label}"
                )
                skipped[one.where] = known
        found.append(replace(image, objects=tuple(objects)))
    return tuple(found)


def _id(entry: Any, name: str) -> int:
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:  # some tools write numbers as text
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadLabel(f"its {name} is {short(value)}, expected a whole number")
    return value


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    if type(width) is int and type(height) is int and width > 0 and height > 0:
        return width, height
    return None


def _file_name(entry: dict[str, Any]) -> str:
    """The image's file as a path with slashes; one that could lead out of the folder is only its last part."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadLabel(f"its file_name is {short(name)}")
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return path.name
    return str(path)


def _folder(path: Path, names: list[str]) -> Path:
    """The folder with the most of the images; that of the label file where there is none anywhere."""
    stem = path.stem.removeprefix("instances_")
    own = [path.stem, stem, *(part for part in stem.split("_") if part)]
    candidates = []
    for parent in (path.parent, path.parent.parent):
        candidates += [parent, parent / "images", *(parent / name for name in own)]
        candidates += [parent / "images" / name for name in own]
    step = max(1, len(names) // _LOOKED_AT)

    def count(folder: Path) -> int:
        return sum(_place(folder, name) is not None for name in names[::step])

    return max((one for one in dict.fromkeys(candidates) if one.is_dir()), key=count, default=path.parent)


def _place(folder: Path, name: str) -> Path | None:
    """The image's file: as it is named, else by its last part, for labels that were moved away from their folders."""
    for one in (folder / name, folder / PurePosixPath(name).name):
        if one.suffix.lower() in SUFFIXES and os.path.isfile(one):
            return one
    return None
