"""A data set in memory: whole tensors, no loader."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from byhand.data.entry import Entry
from byhand.data.idx import read_idx
from byhand.errors import DataError, SettingsError, ShapeError

_CHUNK = 512  # images counted at once


@dataclass(frozen=True, eq=False)  # comparing tensors with == gives no truth value
class Dataset:
    """Training and test examples as whole tensors on the CPU.

    Images are uint8 (N, C, H, W) with labels int64 (N,) in 0..num_classes-1; for regression the "images" are float32
    features (N, d) and the "labels" float32 (N, 1). `truth` holds what generated the examples, where that is known:
    {"weight": [...], "bias": ...}. `sha256` is the checksum of each file's content (or of the bytes of what was
    made), which goes into a run's receipt. `source` says where they came from: a folder, "embedded", "made from
    seed 0", and what is unusual about them. `skipped` names each image file that could not be read, and why.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...] = ()
    truth: Mapping[str, list[float] | float] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for regression."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: (C, H, W) for images, (d,) for features."""
        return tuple(self.train_images.shape[1:])

    def hold_out(self, fraction: float, seed: int = 0) -> "Dataset":
        """The same data set with a random part of the training examples in place of the test set.

        What is tuned on the result cannot touch the test set: it is not in there. The held-out part is
        round(fraction · N) examples, the same for the same N and seed everywhere; the others keep their order.

        Raises:
            SettingsError: fraction not in (0, 1), or so that one of the two parts would be empty; seed negative.
        """
        num_train = len(self.train_images)
        held, kept = map(torch.from_numpy, held_and_kept(num_train, fraction, seed, "examples"))
        return replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            test_images=self.train_images[held],
            test_labels=self.train_labels[held],
            source=f"{self.source}; {len(held)} of {num_train} training examples held out with seed {seed} as test set",
        )


def held_and_kept(num_train: int, fraction: float, seed: int, noun: str) -> tuple[np.ndarray, np.ndarray]:
    """The places to hold out and those to train on, in order: round(fraction · num_train) and the rest.

    Raises:
        SettingsError: fraction not in (0, 1), or so that one of the two would be empty; seed negative.
    """
    num_held = round(fraction * num_train) if 0 < fraction < 1 else 0
    if not 0 < num_held < num_train:
        raise SettingsError(
            f"hold-out fraction {fraction} of {num_train} training {noun} must leave some on both sides; try 0.1"
        )
    if seed < 0:
        raise SettingsError(f"seed {seed} must not be negative")
    order = fixed_permutation(num_train, seed)
    return np.sort(order[:num_held]), np.sort(order[num_held:])


def fixed_permutation(n: int, seed: int) -> np.ndarray:
    """A random order of 0..n-1, int64 (n,), the same for the same seed with every version of numpy.

    numpy keeps the raw stream of a bit generator for ever, but not that of `Generator.permutation` (NEP 19).
    """
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def read_files(entry: Entry, paths: Mapping[str, Path]) -> Dataset:
    """The data set in the four IDX files at `paths` (file name without `.gz` -> path).

    Raises:
        DataError: a file is damaged or not what its name says, see `read_idx`; labels are out of range; or there are
            not as many labels as images.
    """
    images: list[Tensor] = []
    labels: list[Tensor] = []
    sha256 = {}
    for images_file, labels_file in (entry.files[:2], entry.files[2:]):
        for file, arrays in ((images_file, images), (labels_file, labels)):
            path = paths[file.name]
            array, sha256[file.name] = read_idx(path, file.shape[1:], file.shape[0], remedy(entry, path))
            arrays.append(torch.from_numpy(array))
        check_labels(labels[-1], len(images[-1]), entry, paths[labels_file.name])
    return Dataset(
        name=entry.name,
        train_images=images[0].unsqueeze(1),  # (N, H, W) -> (N, 1, H, W)
        train_labels=labels[0].long(),
        test_images=images[1].unsqueeze(1),
        test_labels=labels[1].long(),
        class_names=entry.class_names,
        sha256=sha256,
        source=str(paths[entry.files[0].name].parent),
    )


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), on the scale 0–1.

    With n_k pixels of level k of n: mean = Σ n_k (k/255) / n and std² = Σ n_k (k/255 − mean)² / n, from the counts of
    the 256 levels, which are exact however many images there are; they are counted in chunks, so that images that
    are mapped from a file never come into memory at once. A channel of one single level has the deviation 0.

    Raises:
        ShapeError: images is not (N, C, H, W) of uint8, or is empty.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        raise ShapeError(f"images {tuple(images.shape)} of {images.dtype} must be uint8 (N, C, H, W) and not empty")
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for chunk in images.split(_CHUNK):
        for channel in range(images.shape[1]):
            counts[channel] += torch.bincount(chunk[:, channel].reshape(-1), minlength=256).cpu()
    level = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)  # (C, 256)
    mean = (share * level).sum(1)
    std = (share * (level - mean.unsqueeze(1)) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def check_labels(labels: Tensor, num_images: int, entry: Entry, path: Path) -> None:
    """Nothing, if there is one label for each image and each is a class of the data set; else a DataError."""
    if len(labels) != num_images:
        raise DataError(f"{path}: holds {len(labels):,} labels for {num_images:,} images; {remedy(entry, path)}")
    if labels.max() >= entry.num_classes:
        i = int((labels >= entry.num_classes).nonzero()[0])
        raise DataError(
            f"{path}: label {labels[i]} at position {i}, expected 0..{entry.num_classes - 1}; {remedy(entry, path)}"
        )


def remedy(entry: Entry, path: Path) -> str:
    """What a user can do about this file of the data set, if it is damaged."""
    if entry.kind == "embedded":
        return "install byhand again"
    own, *others = entry.folder_names
    if path.parent.name in others:
        root = path.parents[1]
    elif entry.torchvision_name and path.parent.name != own:
        root = path.parents[2]  # torchvision's ROOT/x/raw
    else:
        root = path.parent
    return f"delete it, or fetch it anew with `byhand data get {entry.name} --data-dir {root}`"
