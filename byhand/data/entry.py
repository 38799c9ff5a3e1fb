"""What is known of a data set before any of it is read: its size, its files, where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: the name without `.gz`, the shape, and the sha256 of the decompressed content.

    `format` is "idx" (see `idx`), or "records" for the values alone, without a header (see `records`).
    `gz_bytes` is the size of the published `.gz`, for progress bars only: mirrors may compress differently.
    `variants` maps the content sha256 of copies that are known to differ from the published file to how they differ.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    gz_bytes: int = 0
    variants: Mapping[str, str] = field(default_factory=dict)
    format: str = "idx"

    @property
    def num_bytes(self) -> int:
        """Bytes of the content: one a value; before them, in IDX, four of magic and four for each dimension."""
        header = 4 + 4 * len(self.shape) if self.format == "idx" else 0
        return header + prod(self.shape)


@dataclass(frozen=True)
class Archive:
    """A published `.tar.gz` with every file of a data set: the name without `.gz`, and the folder of the files in it.

    Unlike those of a DataFile, `sha256` and `num_bytes` are of the compressed file itself, as its publisher gives them.
    """

    name: str
    sha256: str
    num_bytes: int
    folder: str
    files: tuple[DataFile, ...]

    @property
    def gz_bytes(self) -> int:
        return self.num_bytes


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue. `shape` is that of one example: (C, H, W), or (d,) for features.

    `kind` is "files" (looked for, else downloaded), "embedded" (shipped with byhand), "made" (from a seed) or "folder"
    (the user's own, named as NAME:PATH; counts, shape and classes are then only known from the folder).
    `files` are train images, train labels, test images, test labels, in this order (`digits` is split only after
    reading and has two: images, labels; what is made from a seed has none; where images and labels lie in one file,
    the last file is the test set). They are downloaded one by one, or all in one `archive`. `num_classes` is 0 for
    regression. `folders` are the folders of a root that may hold the files, where that is not just NAME; a download
    goes into the first. `task` is "labels" (one label an image, or the targets of a regression: an `arrays.Dataset`) or
    "detection" (boxes around objects: a `detection.DetectionDataset`).
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
    folders: tuple[str, ...] = ()
    archive: Archive | None = None
    task: str = "labels"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def folder_names(self) -> tuple[str, ...]:
        return self.folders or (self.name,)
