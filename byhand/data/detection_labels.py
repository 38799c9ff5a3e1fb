"""What label files say before any picture is opened: images, their objects, and what of it cannot be used.

Neither torch nor numpy is needed here. Labels are untrusted: what is wrong with one is a line of `skipped`, not an end.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from byhand.data.image_folder import SUFFIXES
from byhand.errors import DataError

TEST_SHARE = 0.1  # of the images, where the labels name no test set
SPLIT_SEED = 0

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


class BadLabel(Exception):
    """A label that cannot be used; the text says why in a few words."""


@dataclass(frozen=True)
class LabelledObject:
    """One object as it is labelled: class, box in pixels from 0, and where it stands ("object 3", "annotation 17").

    `outline` is what `segments.outline_mask` draws, a `VocOutline`, or None.
    """

    where: str
    label: int
    box: Box
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    outline: Any = None


@dataclass(frozen=True)
class LabelledImage:
    """One image as it is labelled: its file, a short name, a number, its size (width, height) if that is said."""

    path: Path
    name: str
    image_id: int
    size: tuple[int, int] | None
    objects: tuple[LabelledObject, ...]


@dataclass(frozen=True)
class Labels:
    """All labels of a data set. `test` is None where the test set is still to be split off. `said` is for `source`.

    `draw(outline, height, width)` gives the mask of an outline that `check(outline, height, width)` let pass.
    """

    name: str
    folder: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...] | None
    skipped: dict[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    draw: Callable[[Any, int, int], Any] | None = None
    check: Callable[[Any, int, int], Any] | None = None


def path_of(name: str, example: str) -> Path:
    """The absolute path that NAME:PATH names; a DataError with an example if it names none."""
    kind, _, path = name.partition(":")
    if not path:
        raise DataError(f"{kind} needs the place of your labels; write {example}")
    return Path(os.path.abspath(os.path.expanduser(path)))


def number(value: Any, what: str) -> float:
    """The value as a finite float, from a number or its text; else BadLabel."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        raise BadLabel(f"{what} is {short(value)}, no number") from None
    if not math.isfinite(found):
        raise BadLabel(f"{what} is {found}")
    return found


def fitted_box(box: Box, width: int, height: int) -> Box:
    """The part of the box within the image.

    Raises:
        BadLabel: no part of it is, or the box is inverted or has no width or no height.
    """
    x1, y1, x2, y2 = box
    said = ", ".join(f"{value:g}" for value in box)
    for low, high, size in ((x1, x2, "width"), (y1, y2, "height")):
        if high <= low:
            raise BadLabel(f"its box ({said}) {'is inverted' if high < low else f'has no {size}'}")
    kept = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if kept[0] >= kept[2] or kept[1] >= kept[3]:
        raise BadLabel(f"its box ({said}) lies outside the image of {width} × {height}")
    return kept


def short(value: Any) -> str:
    """The value as it is written, cut to some 40 characters of one line."""
    text = " ".join(repr(value if not isinstance(value, str) else value[:80]).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def some(texts: Sequence[str]) -> str:
    """The first three of the texts, and how many more there are."""
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3:,} more" if len(texts) > 3 else "")


def leave_out(skipped: dict[str, str], name: str, path: Path, why: str) -> None:
    """None; the picture is left out, and called by its folder too where another of its name was left out before."""
    skipped[f"{path.parent.name}/{name}" if name in skipped else name] = why


def reasons(skipped: Mapping[str, str]) -> str:
    """The first three of what was left out, and why."""
    return some([f"{name} ({why})" for name, why in list(skipped.items())[:4]] + [""] * (len(skipped) - 4))


def pictures_in(folder: Path) -> dict[str, Path]:
    """The picture files of a folder, name without ending -> path; of two that differ in the ending only the first."""
    found: dict[str, Path] = {}
    try:
        with os.scandir(folder) as files:
            for file in sorted(files, key=lambda file: file.name):
                stem, suffix = os.path.splitext(file.name)
                if suffix.lower() in SUFFIXES and not stem.startswith("."):
                    found.setdefault(stem, Path(file.path))
    except OSError as error:
        raise DataError(f"{folder}: cannot be looked into ({error.strerror}); check the permissions") from error
    return found
