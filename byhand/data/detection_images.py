"""The pictures to a user's labels: measured, decoded by several threads, their boxes checked against them, split."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from byhand.data.arrays import fixed_permutation
from byhand.data.detection import DetectionDataset, Images, Lazy, Objects, box_areas, subset
from byhand.data.detection_labels import (
    SPLIT_SEED,
    TEST_SHARE,
    BadLabel,
    LabelledImage,
    LabelledObject,
    Labels,
    fitted_box,
    leave_out,
    reasons,
    some,
)
from byhand.data.pictures import Unreadable, content_of, decode_whole, measure, without_warnings
from byhand.data.segments import BadOutline
from byhand.data.threads import in_threads
from byhand.errors import DataError, SettingsError

MAX_BYTES = 2 * 10**9  # of the images in memory; more are decoded whenever they are asked for


@dataclass(frozen=True)
class Measured:
    """An image whose header was read: its labels, its width and height as it will be seen, whether EXIF turns it."""

    labels: LabelledImage
    width: int
    height: int
    upright: bool

    @property
    def num_bytes(self) -> int:
        return 3 * self.width * self.height


@dataclass(frozen=True)
class Compact:
    """The objects of one image with their outlines still undrawn; `masks` is None where there are none."""

    objects: Objects
    outlines: tuple[Any, ...] | None
    size: tuple[int, int]  # height, width


def read(labels: Labels, max_bytes: int = MAX_BYTES, split_seed: int = SPLIT_SEED) -> DetectionDataset:
    """The data set of these labels.

    Every picture becomes uint8 (3, H, W) in its own size: red, green and blue also of a grey one, transparent parts
    over white. It is turned as EXIF says, unless the label's size says that it was labelled as it is stored. Where the
    labels name no test set, a tenth of the images (at least one) is held out, the same for the same images and seed
    everywhere. Pictures of more than `max_bytes` in all are not kept, but decoded when they are asked for.

    Left out, named in `skipped` and counted in a warning: pictures that are missing, cannot be read, or are of another
    size than their label says; boxes of no width or height, inverted, not finite, or wholly outside; objects of unknown
    classes; and, where more than half of all objects have an outline, those without a sound one. Boxes are cut at the
    image's border; by more than a pixel that is a line of `changed`. Where fewer have an outline, there are no masks.

    Raises:
        SettingsError: max_bytes or split_seed is negative or no whole number.
        DataError: no training image, no test image or no object is left.
    """
    for name, value in (("max_bytes", max_bytes), ("split_seed", split_seed)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise SettingsError(f"{name}={value!r} must be a whole number, at least 0")
    Image.preinit()  # Pillow's plugins, once and before the threads
    skipped = dict(labels.skipped)
    changed: dict[str, str] = {}
    said = [str(labels.folder), *labels.said]
    with without_warnings():
        parts = [_measured(part, skipped) for part in (labels.train, labels.test or ())]
        images, digests = _decoded(parts, max_bytes, skipped)
    if labels.test is None:
        parts, images = _split(parts[0], images[0], split_seed)
        said.append(f"{len(parts[1])} of {sum(map(len, parts))} images held out with seed {split_seed} as test set")
    for part, what in zip(parts, ("training", "test"), strict=True):
        if not part:
            alone = labels.test is None and sum(map(len, parts)) == 1
            left_out = f"left out were {reasons(skipped)}; mend the labels, or name" if skipped else "name"
            raise DataError(
                f"{labels.folder}: no {what} image is left{' beside a single one' if alone else ''}; {left_out} other "
                "images, at least one for training and one for the test"
            )
    compact = [[_compact(image, skipped, changed) for image in part] for part in parts]
    compact, has_masks, why_not = _outlined(compact, labels, skipped)
    if why_not:
        said.append(why_not)
    if not any(len(one.objects) for one in compact[0]):
        raise DataError(
            f"{labels.folder}: no object for training is left in {len(parts[0])} images; left out were "
            f"{reasons(skipped) or 'none'}; mend the labels"
        )
    if any(isinstance(one, Lazy) for one in images):
        said.append("images are decoded when they are asked for")
    odd = {"cut at the border of their image": changed, "left out": skipped}
    unusual = {f"{len(names):,} {what}": reasons(names) for what, names in odd.items() if names}
    if unusual:
        told = "; ".join(f"{count}: {why}" for count, why in unusual.items())
        warnings.warn(f"{labels.folder}: {told}", stacklevel=3)
    draw = _drawing(labels.draw) if has_masks else None
    objects = [Lazy(part, draw) if draw else [one.objects for one in part] for part in compact]
    return DetectionDataset(
        labels.name,
        images[0],
        objects[0],
        images[1],
        objects[1],
        labels.class_names,
        labels.category_ids,
        has_masks,
        {"images": digests, "labels": _labels_sha256(compact, labels)},
        "; ".join([*said, *unusual]),
        skipped,
        changed,
    )


# pictures


def _measured(part: Sequence[LabelledImage], skipped: dict[str, str]) -> list[Measured]:
    found = []
    for image, seen in zip(part, in_threads(lambda i: measure(part[i].path), len(part)), strict=True):
        if isinstance(seen, Unreadable):
            leave_out(skipped, image.name, image.path, _why(seen))
            continue
        width, height, turned = seen
        stored, upright = (width, height), (height, width) if turned else (width, height)
        if image.size is None or image.size == upright:
            found.append(Measured(image, *upright, True))
        elif image.size == stored:
            found.append(Measured(image, *stored, False))
        else:
            sizes = f"{image.size[0]} × {image.size[1]} pixels, the image has {upright[0]} × {upright[1]}"
            leave_out(skipped, image.name, image.path, f"its label is of {sizes}")
    return found


def _decoded(parts: list[list[Measured]], max_bytes: int, skipped: dict[str, str]) -> tuple[list[Images], str]:
    """The images of each part, and the sha256 over their files. What cannot be decoded leaves the parts, too."""
    keep = sum(one.num_bytes for part in parts for one in part) <= max_bytes
    images: list[Images] = []
    lines: list[str] = []
    for part in parts:
        one_size = keep and len({(one.height, one.width) for one in part}) == 1
        stack = torch.empty(len(part), 3, part[0].height, part[0].width, dtype=torch.uint8) if one_size else None

        def one(i: int, part=part, stack=stack) -> tuple[str, Tensor | None]:
            content = content_of(part[i].labels.path)
            pixels = torch.from_numpy(decode_whole(content, part[i].upright))
            if pixels.shape[1:] != (part[i].height, part[i].width):
                raise Unreadable("is of another size than its header says")
            if stack is not None:
                stack[i] = pixels
            name = part[i].labels.name
            line = f"{name}\0{len(content)}\0{hashlib.sha256(content).hexdigest()}\n"
            return line, pixels if keep and stack is None else None

        answers = in_threads(one, len(part))
        sound = [i for i, answer in enumerate(answers) if not isinstance(answer, Unreadable)]
        for image, answer in zip(part, answers, strict=True):
            if isinstance(answer, Unreadable):
                leave_out(skipped, image.labels.name, image.labels.path, _why(answer))
        lines += [answers[i][0] for i in sound]  # type: ignore[index]
        if stack is not None:
            images.append(stack if len(sound) == len(part) else stack[sound])
        elif keep:
            images.append([answers[i][1] for i in sound])  # type: ignore[index, misc]
        else:
            images.append(Lazy([(part[i].labels.path, part[i].upright) for i in sound], _decode_one))
        part[:] = [part[i] for i in sound]
    return images, _sha256(lines)


def _decode_one(source: tuple[Path, bool]) -> Tensor:
    path, upright = source
    try:
        return torch.from_numpy(decode_whole(content_of(path), upright))
    except Unreadable as why:
        raise DataError(f"{path}: {_why(why)}; it could be read when the data set was loaded") from why


def _why(reason: Unreadable) -> str:
    return f"its image cannot be used: {reason}"


def _split(part: list[Measured], images: Images, seed: int) -> tuple[list[list[Measured]], list[Images]]:
    num_test = max(1, round(TEST_SHARE * len(part))) if len(part) > 1 else 0
    order = fixed_permutation(len(part), seed)
    test, train = (np.sort(places).tolist() for places in (order[:num_test], order[num_test:]))
    return [subset(part, train), subset(part, test)], [subset(images, train), subset(images, test)]


# objects


def _compact(image: Measured, skipped: dict[str, str], changed: dict[str, str]) -> Compact:
    kept: list[LabelledObject] = []
    for one in image.labels.objects:
        try:
            box = fitted_box(one.box, image.width, image.height)
        except BadLabel as why:
            skipped[one.where] = str(why)
            continue
        if max(abs(new - old) for new, old in zip(box, one.box, strict=True)) > 1:
            said = ", ".join(f"{value:g}" for value in one.box)
            changed[one.where] = f"({said}) of an image of {image.width} × {image.height}"
        # An outline's area stays what it is; a box's is that of the part within the image.
        kept.append(replace(one, box=box))
    boxes = torch.tensor([one.box for one in kept], dtype=torch.float32).reshape(-1, 4)
    given = torch.tensor([-1.0 if one.area is None else one.area for one in kept], dtype=torch.float32)
    objects = Objects(
        boxes,
        torch.tensor([one.label for one in kept], dtype=torch.int64),
        torch.tensor([one.crowd for one in kept], dtype=torch.bool),
        torch.where(given > 0, given, box_areas(boxes)),
        None,
        torch.tensor([one.difficult for one in kept], dtype=torch.bool),
        image.labels.name,
        image.labels.image_id,
    )
    # Boxes of a part of a rounding error's width are none in float32.
    flat = ((boxes[:, 2:] - boxes[:, :2]) <= 0).any(1).tolist()
    for one, is_flat in zip(kept, flat, strict=True):
        if is_flat:
            skipped[one.where] = "its box has no width or no height"
    sound = [i for i, is_flat in enumerate(flat) if not is_flat]
    objects = objects.select(torch.tensor(sound, dtype=torch.int64))
    outlines = tuple((kept[i].outline, kept[i].where) for i in sound)
    return Compact(objects, outlines, (image.height, image.width))


def _outlined(
    parts: list[list[Compact]], labels: Labels, skipped: dict[str, str]
) -> tuple[list[list[Compact]], bool, str]:
    """The objects with outlines if most have one, then without the others; whether so, and if some had, why not."""
    everything = [outline for part in parts for one in part for outline, _ in one.outlines or ()]
    num_outlined = sum(outline is not None for outline in everything)
    if labels.draw is None or 2 * num_outlined <= len(everything):
        bare = [[replace(one, outlines=None) for one in part] for part in parts]
        why = f"no masks: only {num_outlined:,} of {len(everything):,} objects have an outline" if num_outlined else ""
        return bare, False, why
    check = labels.check

    def sound(one: Compact) -> Compact:
        keep = []
        for i, (outline, where) in enumerate(one.outlines or ()):
            try:
                if outline is None:
                    raise BadLabel("has no outline, as most others have")
                if check is not None:
                    check(outline, *one.size)
            except (BadLabel, BadOutline) as why:
                skipped[where] = str(why)
            else:
                keep.append(i)
        outlines = tuple((one.outlines or ())[i] for i in keep)
        return replace(one, objects=one.objects.select(torch.tensor(keep, dtype=torch.int64)), outlines=outlines)

    return [[sound(one) for one in part] for part in parts], True, ""


def _drawing(draw: Any) -> Callable[[Compact], Objects]:
    def drawn(one: Compact) -> Objects:
        masks = np.zeros((len(one.objects), *one.size), bool)
        for i, (outline, _) in enumerate(one.outlines or ()):
            masks[i] = draw(outline, *one.size)
        return replace(one.objects, masks=torch.from_numpy(masks))

    return drawn


def _labels_sha256(parts: list[list[Compact]], labels: Labels) -> str:
    def lines() -> Iterator[str]:
        yield f"{some(labels.class_names)} {labels.class_names}\n"
        for part in parts:
            for one in part:
                objects = one.objects
                values = (objects.boxes.tolist(), objects.labels.tolist(), objects.ignored.tolist())
                outlines = f"\0{[outline for outline, _ in one.outlines]}" if one.outlines else ""
                yield f"{objects.image}\0{values}{outlines}\n"

    return _sha256(lines())


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
