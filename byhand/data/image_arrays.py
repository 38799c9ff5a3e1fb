"""The pictures of a folder as one array: decoded by several threads, split, and mapped where memory is short.

Two passes: the headers of all files say how large the array must be, then each picture is decoded into its own place.
"""

import contextlib
import hashlib
import json
import os
import statistics
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from byhand.data.arrays import Dataset, fixed_permutation
from byhand.data.folders import cache_root
from byhand.data.image_folder import Listing, list_images
from byhand.data.pictures import Glance, Unreadable, content_of, decode, glance, without_warnings
from byhand.data.threads import in_threads
from byhand.errors import DataError, SettingsError

MAX_BYTES = 2 * 10**9  # of the images in memory; more are mapped from a file
LARGEST_SIZE = 224  # pixels each way, what the published networks take; unless the user asks for more
TEST_SHARE = 0.1
_RECORDED = ("train_labels", "test_labels", "sha256", "skipped")
_FORM = 1  # of what lies in the cache; another form is not looked at
_STALE = 24 * 3600  # seconds after which another process's part file is nobody's


@dataclass(frozen=True)
class Decoded:
    """The readable pictures, those for training first, uint8 (N, C, size, size); and what is known of them.

    `sha256` is over path, length and sha256 of each of their files; `skipped` says of the others why.
    """

    pixels: np.ndarray
    train_labels: list[int]
    test_labels: list[int]
    sha256: str
    skipped: dict[str, str]


@dataclass(frozen=True)
class Survey:
    """What the headers said: the listing without what cannot be read, and the one shape for all images."""

    listing: Listing
    size: int
    channels: int
    animated: list[str]
    skipped: dict[str, str]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.listing.images), self.channels, self.size, self.size


def load_image_folder(
    folder: str | os.PathLike[str], size: int | None = None, max_bytes: int = MAX_BYTES, split_seed: int = 0
) -> Dataset:
    """The pictures in a folder of class folders as a data set; see `image_folder.list_images` for how they may lie.

    Every picture becomes uint8 (C, size, size) as `pictures.decode` says: C = 1 if all are grey, else 3; the size is
    the median of the shorter sides, but at most 224, unless it is given. Where there is no test/ or val/, a tenth of
    each class (at least one picture) is held out as the test set, the same for the same pictures and seed everywhere.

    Images of more than `max_bytes` in all are decoded into a file in the user's cache, which is mapped into memory and
    used again as long as no picture, size or split changes. Pictures that cannot be read are left out; `skipped` and
    a warning say which.

    Raises:
        SettingsError: size under 1, or max_bytes or split_seed negative.
        DataError: the folder is not as `list_images` wants it; a class or the test set has no readable picture; or the
            cache cannot be written.
    """
    for name, value, least in (("size", size, 1), ("max_bytes", max_bytes, 0), ("split_seed", split_seed, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise SettingsError(f"{name}={value!r} must be a whole number, at least {least}")
    listing = list_images(Path(os.path.abspath(folder)))
    Image.preinit()  # Pillow's plugins, once and before the threads
    with without_warnings():
        survey = _survey(listing, size)
        where: Path | None = None
        if prod(survey.shape) <= max_bytes:
            decoded = _decode(survey, np.empty(survey.shape, np.uint8), split_seed)
        else:
            where = _cache_folder(survey)
            decoded = _decoded_into_file(survey, where, split_seed)
    return _dataset(survey, decoded, where, split_seed)


def _dataset(survey: Survey, decoded: Decoded, where: Path | None, split_seed: int) -> Dataset:
    listing, num_train = survey.listing, len(decoded.train_labels)
    said = [str(listing.folder)]
    if listing.num_train is None:
        held = len(decoded.test_labels)
        said.append(f"{held} of {num_train + held} images held out with seed {split_seed} as test set")
    said += [f"{name} is not used" for name in listing.unused]
    if where is not None:
        said.append(f"mapped from {where}")
    moving = [path for path in survey.animated if path not in decoded.skipped]
    unusual = []
    if moving:
        unusual.append(f"of {len(moving)} animated files the first frame is taken: {_some(moving)}")
    if decoded.skipped:
        reasons = [f"{path} ({why})" for path, why in decoded.skipped.items()]
        unusual.append(f"{len(reasons)} of {len(reasons) + len(decoded.pixels)} files left out: {_some(reasons)}")
    if unusual:
        warnings.warn(f"{listing.folder}: {'; '.join(unusual)}", stacklevel=3)
    images = torch.from_numpy(np.asarray(decoded.pixels))
    return Dataset(
        name=f"image-folder:{listing.folder}",
        train_images=images[:num_train],
        train_labels=torch.tensor(decoded.train_labels, dtype=torch.int64),
        test_images=images[num_train:],
        test_labels=torch.tensor(decoded.test_labels, dtype=torch.int64),
        class_names=listing.class_names,
        sha256={"images": decoded.sha256},
        source="; ".join([*said, *unusual]),
        skipped=decoded.skipped,
    )


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


# the first pass


def _survey(listing: Listing, size: int | None) -> Survey:
    looks = in_threads(lambda i: glance(listing.folder / listing.images[i][0]), len(listing.images))
    seen: list[Glance] = []
    readable: list[tuple[str, int]] = []
    animated: list[str] = []
    skipped: dict[str, str] = {}
    num_train = 0
    for i, ((path, label), look) in enumerate(zip(listing.images, looks, strict=True)):
        if isinstance(look, Unreadable):
            skipped[path] = str(look)
            continue
        seen.append(look)
        readable.append((path, label))
        num_train += listing.num_train is not None and i < listing.num_train
        if look.is_animated:
            animated.append(path)
    if not seen:
        raise DataError(
            f"{listing.folder}: none of its {len(listing.images)} pictures can be read: "
            f"{_some([f'{path} ({why})' for path, why in skipped.items()])}; expected JPEG or PNG files"
        )
    return Survey(
        replace(listing, images=tuple(readable), num_train=None if listing.num_train is None else num_train),
        size or min(LARGEST_SIZE, int(statistics.median(look.shorter_side for look in seen))),
        1 if all(look.is_grey for look in seen) else 3,
        animated,
        skipped,
    )


# the second pass


def _decode(survey: Survey, pixels: np.ndarray, split_seed: int) -> Decoded:
    """The pictures decoded into `pixels`, of which the front part is used."""
    listing = survey.listing

    def one(i: int) -> str:
        path = listing.images[i][0]
        content = content_of(listing.folder / path)
        pixels[i] = decode(content, survey.size, survey.channels)
        return f"{path}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n"

    lines = in_threads(one, len(listing.images))
    skipped = dict(survey.skipped)
    skipped.update(
        (path, str(line)) for (path, _), line in zip(listing.images, lines, strict=True) if isinstance(line, Unreadable)
    )
    train, test = _parts(listing, [i for i, line in enumerate(lines) if isinstance(line, str)], split_seed, skipped)
    _put_in_order(pixels, train + test)
    return Decoded(
        pixels[: len(train) + len(test)],
        [listing.images[i][1] for i in train],
        [listing.images[i][1] for i in test],
        _sha256(str(lines[i]) for i in sorted(train + test)),
        dict(sorted(skipped.items())),
    )


def _parts(listing: Listing, sound: list[int], seed: int, skipped: dict[str, str]) -> tuple[list[int], list[int]]:
    """The places of the sound pictures for training and for the test, each in the listing's order."""
    if listing.num_train is None:
        train, test = _split(listing, sound, seed)
    else:
        train = [i for i in sound if i < listing.num_train]
        test = [i for i in sound if i >= listing.num_train]
    present = {listing.images[i][1] for i in train}
    for label, name in enumerate(listing.class_names):
        if label not in present:
            reasons = [f"{path} ({why})" for path, why in skipped.items() if name in path.split("/")[:-1]]
            raise DataError(
                f"{listing.folder}: no picture of {name} for training can be read: {_some(reasons)}; replace them, or "
                f"remove the folder"
            )
    if not test:
        raise DataError(
            f"{listing.folder}: no picture is left for the test set; expected two or more that can be read in a class"
            if listing.num_train is None
            else f"{listing.folder}: no picture of its test set can be read; replace them, or remove the folder"
        )
    return train, test


def _split(listing: Listing, sound: list[int], seed: int) -> tuple[list[int], list[int]]:
    """A tenth of each class held out, at least one picture; of a class with a single one, none."""
    of_class: dict[int, list[int]] = {}
    for i in sound:
        of_class.setdefault(listing.images[i][1], []).append(i)
    test: list[int] = []
    for mine in of_class.values():
        num_held = max(1, round(TEST_SHARE * len(mine))) if len(mine) > 1 else 0
        test += [mine[j] for j in fixed_permutation(len(mine), seed)[:num_held]]
    held = set(test)
    return [i for i in sound if i not in held], sorted(test)


def _put_in_order(pixels: np.ndarray, order: list[int]) -> None:
    """Nothing; afterwards pixels[k] is what pixels[order[k]] was, for each k; the rest is of no use.

    In place, with one image of memory, since there may be no room for all of them twice: along each chain k ← order[k]
    ← order[order[k]] ..., which ends where it began or at a place beyond the order.
    """
    source = dict(enumerate(order))
    sources = set(order)
    starts = [k for k in source if k not in sources]  # nobody wants what is there, so chains begin by overwriting it
    for start in [*starts, *source]:
        if start not in source or source[start] == start:
            continue
        first = pixels[start].copy()
        k = start
        while k in source:
            following = source.pop(k)
            if following == start:
                pixels[k] = first
                break
            pixels[k] = pixels[following]
            k = following


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


# more than fits into memory


def _cache_folder(survey: Survey) -> Path:
    root = cache_root()
    if root is None:
        raise DataError(
            f"{survey.listing.folder}: {prod(survey.shape):,} bytes of images need a file, and there is no home folder "
            f"for it; give a larger max_bytes or a smaller size"
        )
    return root / "image-folder"


def _decoded_into_file(survey: Survey, folder: Path, split_seed: int) -> Decoded:
    """The pictures in a mapped file: what an earlier call left, if nothing has changed since, or decoded now."""
    key = _fingerprint(survey, split_seed)
    path, record = folder / f"{key}.uint8", folder / f"{key}.json"
    part = folder / f".{key}.{os.getpid()}.part"
    try:
        if (found := _left_there(path, record, survey)) is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        try:
            with open(part, "wb") as file:
                _reserve(file.fileno(), prod(survey.shape))
            decoded = _decode(survey, np.memmap(part, np.uint8, "r+", shape=survey.shape), split_seed)
            known = {name: getattr(decoded, name) for name in _RECORDED}
            del decoded  # which ends the mapping: elsewhere than on posix a mapped file cannot be moved
            num_images = len(known["train_labels"]) + len(known["test_labels"])
            os.truncate(part, num_images * prod(survey.shape[1:]))
            os.replace(part, path)
            part.write_text(json.dumps(known), encoding="ascii")
            os.replace(part, record)
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        found = _left_there(path, record, survey)
    except OSError as error:
        raise DataError(
            f"{folder}: {prod(survey.shape):,} bytes of images cannot be written there ({error.strerror or error}); "
            f"make room, or give a larger max_bytes or a smaller size"
        ) from error
    assert found is not None, path
    return found


def _fingerprint(survey: Survey, split_seed: int) -> str:
    """A name for these pictures at this size and split: other files, lengths or times of change give another one."""

    def line(path: str, label: int) -> str:
        status = os.stat(survey.listing.folder / path)
        return f"{path}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n"

    head = f"{_FORM} {survey.listing.folder} {survey.shape} {survey.listing.num_train} {split_seed}\n"
    return _sha256([head, *(line(*image) for image in survey.listing.images)])[:32]


def _left_there(path: Path, record: Path, survey: Survey) -> Decoded | None:
    """What lies in the cache; None if it is not there, or not whole."""
    try:
        known = json.loads(record.read_text(encoding="ascii"))
        num_images = len(known["train_labels"]) + len(known["test_labels"])
        shape = (num_images, *survey.shape[1:])
        if path.stat().st_size != prod(shape):
            return None
        # "c": written to in memory only. torch wants an array that may be written to, and nobody may change the file.
        return Decoded(np.memmap(path, np.uint8, "c", shape=shape), **known)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Nothing; afterwards the disk has room for the file. A mapped file that meets a full disk ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
        return
    zeros = memoryview(bytes(1 << 22))
    while num_bytes:
        num_bytes -= os.write(descriptor, zeros[: min(num_bytes, len(zeros))])


def _sweep(folder: Path) -> None:
    """Nothing; what processes that were killed left long ago is gone."""
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):  # another process may have been faster
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()
