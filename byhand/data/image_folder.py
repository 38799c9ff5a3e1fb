"""image-folder: the user's own pictures, a folder for each class. Here only their names are looked at."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from byhand.data.entry import Entry
from byhand.errors import DataError

IMAGE_FOLDER = Entry(
    name="image-folder",
    title="your own pictures, a folder a class: image-folder:PATH",
    num_train=0,
    num_test=0,
    shape=(),
    class_names=(),
    licence="your own",
    citation="",
    kind="folder",
)

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
TRAIN = "train"
TEST = ("test", "val", "valid", "validation")  # the first of them that is there; the others stay unused


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder by name: (path from the folder, with slashes; class) in a fixed order.

    `num_train` of them are the training images, the others the test set; None where that is still to be split.
    `unused` names the folders of further parts, `val` beside `train` and `test`.
    """

    folder: Path
    class_names: tuple[str, ...]
    images: tuple[tuple[str, int], ...]
    num_train: int | None = None
    unused: tuple[str, ...] = ()


def folder_of(name: str) -> Path:
    """The folder that `image-folder:PATH` names, absolute.

    Raises:
        DataError: it names none.
    """
    path = name.partition(":")[2]
    if not path:
        raise DataError("image-folder needs the folder of your pictures; write image-folder:PATH")
    return Path(os.path.abspath(os.path.expanduser(path)))


def list_images(folder: Path) -> Listing:
    """The pictures in the folder: FOLDER/CLASS/*.jpg, or FOLDER/train/CLASS/*.jpg beside FOLDER/test/CLASS/*.jpg.

    Classes are the folders' names in order; within a class pictures may lie in folders at any depth. `val`, `valid` or
    `validation` may stand for `test` (and is unused where there is a `test`). A picture is a file with a usual ending
    (.jpg, .png, ...); other files, and what is hidden, are passed over.

    Raises:
        DataError: there is no such folder or it may not be read; it has fewer than two classes; a class has no
            picture; a class of the test set is none of the training set.
    """
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise DataError(f"{folder} {what}; image-folder:PATH needs a folder with a folder of pictures for each class")
    parts = {child.name.lower(): child for child in _folders(folder)}
    if TRAIN in parts and _folders(parts[TRAIN]):
        return _list_parts(folder, parts)
    if TRAIN in parts and set(parts) <= {TRAIN, *TEST}:
        raise DataError(f"{parts[TRAIN]} has no folders; expected one for each class, as in {parts[TRAIN] / 'cat'}")
    if parts and set(parts) <= set(TEST):
        raise DataError(f"{folder} has {' and '.join(sorted(parts))}, but no {TRAIN} beside; name the other part so")
    names = _class_names(folder)
    return Listing(folder, names, tuple(_labelled(folder, folder, names)))


def _list_parts(folder: Path, parts: dict[str, Path]) -> Listing:
    names = _class_names(parts[TRAIN])
    train = tuple(_labelled(folder, parts[TRAIN], names))
    tests = [parts[name] for name in TEST if name in parts]
    if not tests:
        return Listing(folder, names, train)
    if strange := [child.name for child in _folders(tests[0]) if child.name not in names]:
        raise DataError(
            f"{tests[0]} has {', '.join(strange[:5])}, which {parts[TRAIN]} lacks; both need the same classes"
        )
    test = tuple(_labelled(folder, tests[0], [name for name in names if (tests[0] / name).is_dir()], names))
    if not test:
        raise DataError(f"{tests[0]} holds no picture; put some into a folder for each class, or remove it")
    return Listing(folder, names, train + test, len(train), tuple(path.name for path in tests[1:]))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(child.name for child in _folders(folder))
    if len(names) < 2:
        has = f"only one folder, {names[0]}" if names else "no folders"
        raise DataError(f"{folder} has {has}; expected two or more, one for each class, with pictures in each")
    return names


def _labelled(
    root: Path, folder: Path, names: Sequence[str], all_names: Sequence[str] = ()
) -> Iterator[tuple[str, int]]:
    """(path from the root, class) of every picture in the folders of these classes, class by class in order."""
    labels = {name: label for label, name in enumerate(all_names or names)}
    for name in names:
        found = sorted(path.relative_to(root).as_posix() for path in _pictures(folder / name))
        if not found:
            raise DataError(
                f"{folder / name} holds no picture ({' '.join(sorted(SUFFIXES))}); put some there, or remove it"
            )
        for path in found:
            yield path, labels[name]


def _folders(folder: Path) -> list[Path]:
    """The folders in it, in order of their names, without hidden ones and those that begin with two underscores."""
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))
    except OSError as error:
        raise _unreadable(error, folder) from error


def _pictures(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise _unreadable(error, folder) from error

    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in files:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(parent, name)


def _unreadable(error: OSError, folder: Path) -> DataError:
    return DataError(f"{error.filename or folder}: cannot be looked into ({error.strerror}); check the permissions")
