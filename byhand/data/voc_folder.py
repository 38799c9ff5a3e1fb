"""voc-folder: the user's own images with boxes, in the layout of Pascal VOC. Here only the labels are read."""

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.data.detection_labels import (
    BadLabel,
    LabelledImage,
    LabelledObject,
    Labels,
    fitted_box,
    number,
    pictures_in,
    short,
    some,
)
from byhand.data.entry import Entry
from byhand.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from byhand.data.detection import DetectionDataset

VOC_FOLDER = Entry(
    name="voc-folder",
    title="your own images with boxes, as in Pascal VOC: voc-folder:PATH",
    num_train=0,
    num_test=0,
    shape=(),
    class_names=(),
    licence="your own",
    citation="",
    kind="folder",
    task="detection",
)

_MAX_BYTES = 1 << 24  # of one XML file
_TRAIN, _TEST = ("train", "trainval"), ("test", "val")  # the first list that is there
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocOutline:
    """The object whose pixels have this value in a picture of SegmentationObject/."""

    path: Path
    value: int


def list_voc(folder: Path, train: str | None = None, test: str | None = None) -> Labels:
    """The labels of FOLDER/Annotations/*.xml for FOLDER/JPEGImages, split by the lists of FOLDER/ImageSets/Main.

    `train` and `test` name lists (`trainval` for trainval.txt); unless given, training takes train.txt, else
    trainval.txt, the test set test.txt, else val.txt, and other lists stay unused. Without a list for the test set it
    is still to be split off; without any list all annotated images are taken. FOLDER may also hold the one folder with
    all this (VOCdevkit/VOC2012). The classes are the names in the annotations of both parts, in alphabetical order.
    An image without an object stays. FOLDER may also be such a list, FOLDER/ImageSets/Main/trainval.txt: training then
    takes it.

    VOC counts pixels from 1 and a box includes its last, so (xmin − 1, ymin − 1, xmax, ymax) are the edges, as
    detectron2 has it. Labels in which xmin and ymin are more often exactly 0 than 1 (boxes at the border are frequent)
    are taken to count from 0, and stay as they are. A box with xmax <= xmin has no width: as written it would be one
    pixel, which no one draws on purpose.

    Raises:
        DataError: there is no such folder, or list; or no annotation in it can be used.
    """
    root, named = _root(folder), _list_named(folder)
    if named is not None and train not in (None, named):
        raise DataError(f"{folder} names the training images, and so does train={train!r}; leave one of them out")
    train = train or named
    lists = _lists(root)
    for name in (train, test):
        if name is not None and name not in lists:
            raise DataError(f"{root / 'ImageSets' / 'Main'} has no {name}.txt, only {some(sorted(lists)) or 'nothing'}")
    train = train or next((name for name in _TRAIN if name in lists), None)
    test = test or next((name for name in _TEST if name in lists and train is not None and name != train), None)
    reading = _Reading(root)
    if train is None:
        stems = sorted(reading.annotations)
        said = ["no list of training images in ImageSets/Main"]
    else:
        stems = _read_list(lists[train])
        said = [f"trained on {train}.txt"]
    tests = _read_list(lists[test]) if test is not None else None
    if tests is not None:
        said.append(f"measured on {test}.txt")
        used = {*stems, *tests}
        rest = [name for name in ("train", "val", "trainval", "test") if name in lists]
        unused = [name for name in rest if not used.issuperset(_read_list(lists[name]))]
        # trainval is nothing but the other two
        said += [
            f"{name}.txt is not used" for name in unused if name != "trainval" or not {"train", "val"} <= set(lists)
        ]
    test_images = reading.images(tests) if tests is not None else None
    if not stems:
        raise DataError(f"{root} has no annotation to train on; its Annotations folder, or the list, names no image")
    train_images = reading.images(stems, {image.name for image in test_images or ()})
    if not train_images:
        raise DataError(
            f"{root}: none of its {len(stems)} training images has an annotation that can be used: "
            f"{some([f'{name} ({why})' for name, why in reading.skipped.items()])}"
        )
    if lists:
        listed = {reading.stem_of(line) for path in lists.values() for line in _read_list(path)}
        if unlisted := [stem for stem in reading.annotations if stem not in listed]:
            said.append(f"{len(unlisted):,} annotated images are in no list: {some(unlisted)}")
    return reading.labels(folder, train_images, test_images, tuple(said))


def faults_elsewhere(folder: Path, used: Collection[str]) -> dict[str, str]:
    """What could not be used in the annotations that are of none of these images, and why; see `list_voc`."""
    reading = _Reading(_root(folder))
    for image in reading.images([stem for stem in reading.annotations if stem not in used]):
        if image.size is None:
            continue
        for one in image.objects:
            try:
                fitted_box(one.box, *image.size)
            except BadLabel as why:
                reading.skipped[one.where] = str(why)
    return reading.skipped


class _Reading:
    """The annotations of one folder, read one by one; what cannot be used is gathered in `skipped`."""

    def __init__(self, root: Path) -> None:
        self.annotations = _annotations(root / "Annotations")
        self.pictures = pictures_in(root / "JPEGImages")
        outlines = root / "SegmentationObject"
        self.outlines = pictures_in(outlines) if outlines.is_dir() else {}
        self.skipped: dict[str, str] = {}
        self.names: dict[str, int] = {}  # class -> a number for as long as the order is unknown
        self.starts: Counter[float] = Counter()  # how often xmin or ymin is 0, and 1
        self.num_images = 0

    def stem_of(self, line: str) -> str:
        """The image's name in a line of a list: the whole line (names may hold spaces), without an ending, or a word.

        In the lists of one class a number follows the name.
        """
        known = (
            name for name in (line, os.path.splitext(line)[0]) if name in self.annotations or name in self.pictures
        )
        return next(known, line.split()[0])

    def images(self, lines: list[str], others: "set[str] | None" = None) -> list[LabelledImage]:
        """The images of a list as far as they can be used and are none of the others."""
        found: list[LabelledImage] = []
        seen: set[str] = set()
        for stem in map(self.stem_of, lines):
            if stem in seen:
                self.skipped[f"{stem}, listed again"] = "the list has it twice; it counts once"
            elif others and stem in others:
                self.skipped[f"{stem}, for training"] = "the list of the test set has it, too; it stays there"
            else:
                self.num_images += 1
                try:
                    found.append(self._image(stem, self.num_images))
                except BadLabel as why:
                    self.skipped[stem] = str(why)
            seen.add(stem)
        return found

    def _image(self, stem: str, image_id: int) -> LabelledImage:
        if stem not in self.annotations:
            raise BadLabel("has no annotation" if stem in self.pictures else "has neither an annotation nor an image")
        if stem not in self.pictures:
            raise BadLabel("there is no image of this name in JPEGImages")
        root = _parse(self.annotations[stem])
        objects = []
        for i, element in enumerate(root.findall("object")):
            where = f"{stem}.xml, object {i + 1}"
            try:
                objects.append(self._object(element, where, stem, i))
            except BadLabel as why:
                self.skipped[where] = str(why)
        return LabelledImage(self.pictures[stem], stem, image_id, _size(root), tuple(objects))

    def _object(self, element: ElementTree.Element, where: str, stem: str, i: int) -> LabelledObject:
        name = " ".join((element.findtext("name") or "").split())
        if not name:
            raise BadLabel("has no class name")
        bounds = element.find("bndbox")
        if bounds is None:
            raise BadLabel(f"({name}) has no bndbox")
        x1, y1, x2, y2 = (number(bounds.findtext(side), side) for side in _SIDES)
        for low, high, size in ((x1, x2, "width"), (y1, y2, "height")):
            if high <= low:
                said = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
                raise BadLabel(f"the box of this {name} {said} {'is inverted' if high < low else f'has no {size}'}")
        self.starts.update(value for value in (x1, y1) if value in (0, 1))
        label = self.names.setdefault(name, len(self.names))
        difficult = (element.findtext("difficult") or "").strip() == "1"
        outline = VocOutline(self.outlines[stem], i + 1) if stem in self.outlines else None
        return LabelledObject(where, label, (x1, y1, x2, y2), difficult=difficult, outline=outline)

    def labels(
        self, folder: Path, train: list[LabelledImage], test: "list[LabelledImage] | None", said: tuple[str, ...]
    ) -> Labels:
        """All of it with the classes in alphabetical order and the boxes as their edges."""
        first = 0 if self.starts[0] > self.starts[1] else 1
        names = sorted(self.names)
        if not names:
            raise DataError(f"{folder}: no object in its annotations can be used; a detector learns from one at least")
        order = [names.index(name) for name in self.names]  # the numbers were given in this order

        def settled(images: list[LabelledImage]) -> tuple[LabelledImage, ...]:
            return tuple(
                replace(
                    image,
                    objects=tuple(
                        replace(
                            one,
                            label=order[one.label],
                            box=(one.box[0] - first, one.box[1] - first, one.box[2], one.box[3]),
                        )
                        for one in image.objects
                    ),
                )
                for image in images
            )

        counts = f"pixels count from {first}{', as in VOC' if first else ': more boxes begin at 0 than at 1'}"
        return Labels(
            f"voc-folder:{folder}",
            folder,
            tuple(names),
            tuple(range(1, len(names) + 1)),
            settled(train),
            settled(test) if test is not None else None,
            self.skipped,
            (*said, counts),
            draw_voc,
            draw_voc,
        )


def draw_voc(outline: VocOutline, height: int, width: int) -> "np.ndarray":
    """The mask of an object from its picture of SegmentationObject/, bool (height, width).

    There a pixel's value is the place of its object in the annotation, from 1 on; 255 is the seam between objects.

    Raises:
        BadLabel: the picture cannot be read, is of another size, or has no pixel of this value.
    """
    import numpy as np

    from byhand.data.pictures import Unreadable, values_of

    try:
        values = values_of(outline.path)
    except Unreadable as why:
        raise BadLabel(f"SegmentationObject/{outline.path.name} {why}") from why
    if values.shape != (height, width):
        raise BadLabel(f"SegmentationObject/{outline.path.name} is not of the image's size, {width} × {height}")
    mask: np.ndarray = values == outline.value
    if not mask.any():
        raise BadLabel(f"SegmentationObject/{outline.path.name} has no pixel of the value {outline.value}")
    return mask


def _list_named(path: Path) -> str | None:
    """The name of the list ROOT/ImageSets/Main/NAME.txt that the path is; None of any other path."""
    is_list = path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main") and path.is_file()
    return path.stem if is_list else None


def _root(folder: Path) -> Path:
    """The folder with Annotations and JPEGImages: this one, or the only one of that kind at most two levels below.

    Of a list in ImageSets/Main it is the folder that it belongs to.
    """
    if _list_named(folder) is not None:
        folder = folder.parents[2]
    wanted = "voc-folder:PATH needs a folder with Annotations and JPEGImages, or one of its lists ImageSets/Main/*.txt"
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; {wanted}")
    try:
        found = [
            place
            for pattern in ("", "*", "*/*")
            for place in (sorted(folder.glob(pattern)) if pattern else [folder])
            if (place / "Annotations").is_dir() and (place / "JPEGImages").is_dir()
        ]
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be looked into ({error.strerror})") from error
    if not found:
        raise DataError(f"{folder} has no folders Annotations and JPEGImages; {wanted}")
    if found[0] != folder and len(found) > 1:
        raise DataError(f"{folder} holds several data sets, {some([str(one) for one in found])}; name one of them")
    return found[0]


def _lists(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((root / "ImageSets" / "Main").glob("*.txt")) if path.is_file()}


def _read_list(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the permissions") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _annotations(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.xml")) if not path.name.startswith(".")}


def _parse(path: Path) -> ElementTree.Element:
    """The annotation in an XML file. A file that defines entities is refused: a few lines of them fill any memory."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadLabel(f"its annotation is {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}")
        root = ElementTree.fromstring(_without_doctype(path.read_bytes()))
    except OSError as error:
        raise BadLabel(f"its annotation cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise BadLabel(f"its annotation is no sound XML ({' '.join(str(error).split())[:80]})") from error
    if root.tag != "annotation":
        raise BadLabel(f"its XML holds {short(root.tag)}, expected an annotation")
    return root


def _without_doctype(content: bytes) -> bytes:
    # In UTF-16 the letters are two bytes apart.
    if b"<!doctype" in content.replace(b"\0", b"").lower():
        raise BadLabel("its annotation has a DOCTYPE, which a label does not need")
    return content


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Width and height as the annotation has them; None where it says nothing, or 0 as some tools do."""
    try:
        width, height = (int(number(root.findtext(f"size/{side}"), side)) for side in ("width", "height"))
    except BadLabel:
        return None
    return (width, height) if width > 0 and height > 0 else None


def load_voc_folder(
    folder: str | os.PathLike[str], train: str | None = None, test: str | None = None, **options: Any
) -> "DetectionDataset":
    """The images and objects of a folder in the layout of Pascal VOC; see `list_voc` and `detection_images.read`."""
    from byhand.data.detection_images import read

    return read(list_voc(Path(os.path.abspath(folder)), train, test), **options)
