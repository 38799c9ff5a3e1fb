"""The pictures of a detector: which suit it, and what each is drawn of."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.figure import Figure
from torch import Tensor, nn

from byhand.data.detection import DetectionDataset, Objects
from byhand.errors import DataError, SettingsError
from byhand.plots.canvas import message_figure
from byhand.plots.detections import Pair, detections_beside_truth
from byhand.plots.focus import Focus
from byhand.plots.language import class_words, word, writable_language
from byhand.plots.precision import ap_by_iou, precision_recall
from byhand.plots.proposals import anchors_figure, matches_figure, proposals_figure
from byhand.plots.regions import regions_figure
from byhand.plots.seen import anchors_of, look, proposed, regions_of, taught
from byhand.runs.picture import read_whole
from byhand.training.detection import measuring, target_of
from byhand.training.detection_measures import Precision, detections, precision
from byhand.training.settings import Settings

if TYPE_CHECKING:
    from byhand.runs.run import Run

THRESHOLD = 0.5  # least score of what is drawn, as `byhand detect` has it
MOST_SHOWN = 4  # test images where none are asked for

NEEDS = {  # what a detector must have for a picture, and what to say of one that has it not
    "anchors": "has no region proposal network, so no anchors",
    "proposals": "has no region proposal network that suppresses proposals",
    "matches": "has no region proposal network, so no anchors to match",
    "roi-grid": "does not look boxes up on a map",
}


class Shown(NamedTuple):
    """An image uint8 (C, H, W), its objects (None of a file's), and what it is called."""

    image: Tensor
    objects: Objects | None
    name: str


def detector_drawings(
    run: "Run",
    dataset: DetectionDataset,
    lang: str,
    focus: Focus,
    measured: Precision | None,
    asked: Sequence[str] | None,
) -> dict[str, Callable[[], Figure]]:
    """For each picture that suits the run's detector the function that draws it; nothing is computed before.

    ``measured``: COCO's measures of the test images, where they are known already. ``asked``: the pictures that were
    asked for by name, None for all that suit.

    Raises:
        SettingsError: one of them does not suit this detector, or it has no test images.
    """
    settings = Settings.of(run.recipe()["settings"])

    @functools.cache
    def model() -> nn.Module:
        return run.model()

    @functools.cache
    def measures() -> list[tuple[str, Any]]:
        found = measured
        if found is None:
            found = precision(
                dataset.test_objects, list(detections(model(), dataset.test_images, settings)), dataset.class_names
            )
        return [("boxes", found.boxes), *([("masks", found.masks)] if found.masks is not None else [])]

    @contextmanager
    def seen() -> Iterator[tuple[Any, Shown]]:
        shown = one_image(dataset, focus)
        with measuring(model(), settings) as network:
            yield network, shown

    def anchors() -> Figure:
        with seen() as (network, shown):
            return anchors_figure(shown.image, anchors_of(network, look(network, shown.image)), lang)

    def proposals() -> Figure:
        with seen() as (network, shown):
            found = proposed(network, look(network, shown.image))
        return proposals_figure(shown.image, found, None if shown.objects is None else shown.objects.boxes, lang)

    def matches() -> Figure:
        with seen() as (network, shown):
            if shown.objects is None:
                raise SettingsError(f"matches need objects that are known, and {shown.name} is a file; give a number")
            target = target_of(shown.objects, False)
            boxes = target["boxes"]
            stages = taught(network, look(network, shown.image), boxes, target["labels"], network.generator)
        return matches_figure(shown.image, stages, boxes, lang)

    def beside() -> Figure:
        chosen = images_of(dataset, focus.images or tuple(range(min(MOST_SHOWN, len(dataset.test_images)))))
        found = detections(model(), [one.image for one in chosen], settings)
        pairs = []
        for one, each in zip(chosen, found, strict=True):
            places = (each.scores >= THRESHOLD).nonzero()[:, 0].tolist()
            pairs.append(Pair(one.image, called(one, lang), one.objects, each, places))
        return detections_beside_truth(pairs, dataset.class_names, THRESHOLD, lang)

    def grid() -> Figure:
        with seen() as (network, shown):
            (found,) = detections(model(), [shown.image], settings)
            if not len(found.boxes):
                chosen = writable_language(lang)
                return message_figure(word("no_detection", chosen, name=called(shown, chosen)), chosen)
            k = int(found.scores.argmax())
            regions = regions_of(network, look(network, shown.image), found.boxes[k])
        names = class_words(dataset.class_names, dataset.num_classes, writable_language(lang))
        label = f"{names[int(found.labels[k])]} {float(found.scores[k]):.2f}"
        title = f"{called(shown, lang)}: {label}"
        return regions_figure(shown.image, found.boxes[k], title, regions, lang)

    possible: dict[str, Callable[[], Figure]] = {}
    if len(dataset.test_images):
        possible = {
            "anchors": anchors,
            "proposals": proposals,
            "matches": matches,
            "detections": beside,
            "roi-grid": grid,
            "precision-recall": lambda: precision_recall(measures(), lang=lang),
            "ap-iou": lambda: ap_by_iou(measures(), lang),
        }
    if not possible or not (asked is None or set(NEEDS) & set(asked)):
        return possible  # the weights are read only if needed
    lacking = lacks(model())
    for name in asked or ():
        if name in lacking:
            what = run.recipe()["network"]["name"]
            left = ", ".join(one for one in possible if one not in lacking)
            raise SettingsError(f"picture {name!r} does not suit {what}: it {NEEDS[name]}; it has: loss, {left}")
    return {name: draw for name, draw in possible.items() if name not in lacking}


def lacks(network: Any) -> set[str]:
    """Those of the pictures that the detector has not the parts for: R-CNN and Fast R-CNN have others."""
    lacking = set()
    if getattr(network, "rpn", None) is None:
        lacking |= {"anchors", "proposals", "matches"}
    pool = getattr(getattr(network, "roi_heads", None), "box_roi_pool", None)
    if not isinstance(getattr(pool, "output_size", None), int) or getattr(network, "transform", None) is None:
        lacking |= {"roi-grid"}
    return lacking


def one_image(dataset: DetectionDataset, focus: Focus) -> Shown:
    """The one image that is asked for; else the first of the test set with an object to find.

    Raises:
        SettingsError: more than one is asked for.
        DataError: there is no such image.
    """
    if len(focus.images) > 1:
        raise SettingsError(f"images={list(focus.images)}: this picture is drawn of one image; give one")
    if focus.images:
        return images_of(dataset, focus.images)[0]
    objects = dataset.test_objects
    first = next((i for i in range(len(objects)) if bool((~objects[i].ignored).any())), 0)
    return images_of(dataset, [first])[0]


def images_of(dataset: DetectionDataset, wanted: Sequence[Any]) -> list[Shown]:
    """The test images of those numbers with their objects, and the pictures of those paths.

    Raises:
        DataError: a number that the test set does not have, a file that is no picture.
    """
    found = []
    for one in wanted:
        if not isinstance(one, int):
            found.append(Shown(read_whole(one), None, Path(one).name.replace("$", r"\$")))
            continue
        if not 0 <= one < len(dataset.test_images):
            raise DataError(f"no test image {one}; there are {len(dataset.test_images):,}, numbered from 0")
        found.append(Shown(dataset.test_images[one], dataset.test_objects[one], str(one)))
    return found


def called(shown: Shown, lang: str) -> str:
    """What an image is called in a title: test image 3, or a file's name."""
    if shown.objects is None:
        return shown.name
    return word("test_image", writable_language(lang), number=shown.name)
