"""CIFAR-10: 60,000 colour photographs of ten kinds of things, 32×32, in its binary version."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from byhand.data.entry import Archive, DataFile, Entry

if TYPE_CHECKING:
    from torch import Tensor

    from byhand.data.arrays import Dataset

_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, the green and the blue plane


def _batch(name: str, sha256: str, variants: Mapping[str, str] | None = None) -> DataFile:
    return DataFile(name, (10_000, _RECORD), sha256, variants=variants or {}, format="records")


_FILES = (
    _batch("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    _batch("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    _batch("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    _batch("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    _batch("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    _batch(
        "test_batch.bin",
        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        {"8314c96d7cd65618193bab23acdd5d4c4af15bf6dd00a1781d55beedf3be1ef5": "only the first 1,000 of its images"},
    ),
)

CIFAR10 = Entry(
    name="cifar10",
    title="CIFAR-10 photographs",
    num_train=50_000,
    num_test=10_000,
    shape=(3, 32, 32),
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    licence="none stated",
    citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    files=_FILES,
    folders=("cifar10", "cifar-10-batches-bin", "."),  # the second is the archive's own
    archive=Archive(
        "cifar-10-binary.tar",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        170_052_171,
        "cifar-10-batches-bin",
        _FILES,
    ),
)

# For whoever has only a part of the test images: 10,000 others, which a training on the first four batches never sees.
CIFAR10_BATCH5 = replace(
    CIFAR10,
    name="cifar10-batch5",
    title="CIFAR-10, batches 1 to 4 and batch 5 as the test set",
    num_train=40_000,
    files=_FILES[:5],
)


def read_batches(entry: Entry, paths: Mapping[str, Path]) -> "Dataset":
    """The data set in the batches at `paths` (file name -> path): the last of `entry.files` is the test set.

    Each record of 3,073 bytes is a label 0..9 and the red, green and blue plane of an image, each row by row
    (Krizhevsky 2009, "Binary version" on the homepage). A batch of fewer records than were published is read, and both
    `source` and a warning say so: the result is then of fewer images than everybody else's.

    Raises:
        DataError: a file is damaged, no whole number of records, or has a label above 9.
    """
    import torch

    from byhand.data.arrays import Dataset, check_labels, remedy
    from byhand.data.records import read_records

    images: list[Tensor] = []
    labels: list[Tensor] = []
    sha256: dict[str, str] = {}
    short: list[str] = []
    for file in entry.files:
        path = paths[file.name]
        records, sha256[file.name] = read_records(path, file.shape[1:], file.shape[0], remedy(entry, path))
        labels.append(torch.from_numpy(records[:, 0]).long())
        check_labels(labels[-1], len(records), entry, path)
        images.append(torch.from_numpy(records[:, 1:]).reshape(-1, *entry.shape))
        if len(records) < file.shape[0]:
            short.append(f"{path.name} holds {len(records):,} of {file.shape[0]:,} images")
    source = "; ".join([str(paths[entry.files[0].name].parent), *short])
    if short:
        warnings.warn(f"{entry.name}: {source}", stacklevel=2)
    return Dataset(
        name=entry.name,
        train_images=torch.cat(images[:-1]),
        train_labels=torch.cat(labels[:-1]),
        test_images=images[-1].contiguous(),
        test_labels=labels[-1],
        class_names=entry.class_names,
        sha256=sha256,
        source=source,
    )
