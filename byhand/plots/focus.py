"""What pictures of a run can be pointed at: a layer, images, a class."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from byhand.errors import DataError, SettingsError, unknown_name
from byhand.plots import PICTURES
from byhand.runs.picture import read_as_in

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset
    from byhand.runs.run import Run


@dataclass(frozen=True)
class Focus:
    """What pictures are pointed at, where they can be: a layer's path, images in place of those chosen, a class.

    `images`: numbers of the test set, from 0, and paths of picture files, which are made to fit as for `predict`.
    `label`: the class for Grad-CAM, a name or a number.
    """

    layer: str | None = None
    images: Sequence[int | str | os.PathLike[str]] = ()
    label: str | int | None = None

    def given(self) -> dict[str, Any]:
        """Those that were given, by name."""
        named = {"layer": self.layer, "images": list(self.images) or None, "label": self.label}
        return {name: value for name, value in named.items() if value is not None}

    def file_name(self, picture: str) -> str:
        """The picture's name with what it is pointed at, so that no two of them share a file."""
        (takes,) = (one.takes for one in PICTURES if one.name == picture)
        given = {name: value for name, value in self.given().items() if name in takes}
        images = [str(one) if isinstance(one, int) else Path(one).stem for one in given.get("images", ())]
        parts = [picture, *([given["layer"]] if "layer" in given else []), *images]
        parts += [f"as-{given['label']}"] if "label" in given else []
        return re.sub(r"[^\w.-]+", "-", "-".join(parts))[:120]


class Shown(NamedTuple):
    """An image as the data set holds them (1, C, H, W), its true class where that is known, and its file's name."""

    image: Tensor
    label: int | None
    name: str


def pictures_for(focus: Focus) -> list[str]:
    """The pictures that take all that is given; all pictures where nothing is."""
    return [picture.name for picture in PICTURES if set(focus.given()) <= set(picture.takes)]


def check_focus(focus: Focus, wanted: Sequence[str]) -> None:
    """Raises SettingsError for a focus that none of the wanted pictures takes: it would have no effect."""
    for name, value in focus.given().items():
        takers = [picture.name for picture in PICTURES if name in picture.takes]
        if not set(takers) & set(wanted):
            raise SettingsError(
                f"{name}={value!r} is for {', '.join(takers)}; none of them is among {', '.join(wanted)}"
            )


def images_of(run: "Run", dataset: "Dataset", wanted: Sequence[int | str | os.PathLike[str]]) -> list[Shown]:
    """The test images of those numbers, and the pictures of those paths made to fit as the data set's own were.

    Raises:
        DataError: a number that the test set does not have, a file that is no picture.
    """
    _, channels, height, width = dataset.test_images.shape
    found = []
    for one in wanted:
        if isinstance(one, int):
            if not 0 <= one < len(dataset.test_images):
                raise DataError(f"no test image {one}; there are {len(dataset.test_images):,}, numbered from 0")
            found.append(Shown(dataset.test_images[one : one + 1], int(dataset.test_labels[one]), str(one)))
        else:
            image = read_as_in(run.recipe()["dataset"], one, (height, width), channels)
            found.append(Shown(image, None, Path(one).name.replace("$", r"\$")))
    return found


def class_index(label: str | int, class_names: Sequence[str]) -> int:
    """The number of a class that is given by its name or its number; a name comes first, as digits are names too.

    Raises:
        UnknownName: neither.
    """
    if str(label) in class_names:
        return list(class_names).index(str(label))
    if str(label).isdecimal() and int(label) < len(class_names):
        return int(label)
    by_letters = {name.lower(): name for name in class_names}
    if str(label).lower() in by_letters:
        return list(class_names).index(by_letters[str(label).lower()])
    raise unknown_name("class", str(label), by_letters)
