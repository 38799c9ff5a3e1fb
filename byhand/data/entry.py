"""What is known of a data set before any of it is read: its size, its files, where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod


@dataclass(frozen=True)
class DataFile:
    """One IDX file of a data set: the name without `.gz`, the shape, and the sha256 of the decompressed content.

    `gz_bytes` is the size of the published `.gz`, for progress bars only: mirrors may compress differently.
    `variants` maps the content sha256 of copies that are known to differ from the published file to how they differ.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    gz_bytes: int = 0
    variants: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of the content: four of magic, four for each dimension, then one a value."""
        return 4 + 4 * len(self.shape) + prod(self.shape)


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue. `shape` is that of one example: (C, H, W), or (d,) for features.

    `kind` is "files" (looked for, else downloaded), "embedded" (shipped with byhand) or "made" (from a seed).
    `files` are train images, train labels, test images, test labels, in this order (`digits` is split only after
    reading and has two: images, labels; what is made from a seed has none). `num_classes` is 0 for regression.
    """

    name: str
    title: str
    num_train: int
    num_test: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    licence: str
    citation: str
    homepage: str = ""
    kind: str = "files"
    torchvision_name: str = ""  # torchvision keeps the files in ROOT/<this>/raw
    mirrors: tuple[str, ...] = ()
    files: tuple[DataFile, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
