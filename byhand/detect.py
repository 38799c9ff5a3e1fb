"""What the detector of a run finds in pictures: COCO's result format, and the pictures with boxes, names and masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from byhand.errors import SettingsError
from byhand.ops.average_precision import Detections
from byhand.runs.picture import read_whole
from byhand.runs.run import Run
from byhand.runs.storage import write_atomically
from byhand.training.detection_measures import detections
from byhand.training.settings import Settings
from byhand.training.tasks import DETECTION

RESULTS = "detections.json"


def detect_files(
    run: Run, paths: Sequence[str | Path], output: str | Path | None = None, threshold: float = 0.5, lang: str = "en"
) -> list[dict[str, Any]]:
    """A record of each picture: ``image``, ``image_id``, ``objects`` (those drawn), ``picture`` and ``results``.

    Into ``output``, by default ``detections`` in the run directory, go a picture of each with the objects whose score
    is at least ``threshold``, and ``detections.json`` with all of them, whatever their score: COCO's result format, a
    list of {"image_id", "file_name", "category_id", "bbox": [x, y, width, height], "score"}, with masks also
    "segmentation" as run lengths. Boxes are in the pixels of the picture as it is seen, turned as EXIF says. A picture
    is known by its place among ``paths``, from 1 on; categories by the numbers of the data set.

    All pictures are read before the first is answered. Raises SettingsError for the run of another task or a threshold
    outside 0..1, DataError for a file that is not a picture, RunError where nothing can be written.
    """
    record = run.recipe()
    if record.get("task") != DETECTION:
        raise SettingsError(f"{run.path} gives one answer an image, not boxes; use `byhand predict {run.path} IMAGE`")
    if not 0 <= threshold <= 1:
        raise SettingsError(f"threshold={threshold} must be in 0..1; 0 draws every detection")
    if not paths:
        raise SettingsError("no picture was given; expected one or more image files")
    from byhand.plots.detections import detections_figure
    from byhand.plots.figures import write_figure

    images = [read_whole(path) for path in paths]
    folder = Path(output) if output is not None else run.path / "detections"
    names, ids = record["class_names"], record["category_ids"]
    found = list(detections(run.model(), images, Settings.of(record["settings"])))
    results = [one for i, each in enumerate(found) for one in coco_results(each, i + 1, ids, Path(paths[i]).name)]
    answers = []
    for i, (image, one) in enumerate(zip(images, found, strict=True)):
        drawn = (one.scores >= threshold).nonzero()[:, 0]
        figure = detections_figure(image, one, names, drawn.tolist(), lang)
        picture = write_figure(figure, folder / f"{_stem(paths, i)}.png")
        objects = [
            {"name": names[int(one.labels[k])], "score": float(one.scores[k]), "box": one.boxes[k].tolist()}
            for k in drawn.tolist()
        ]
        answers.append({"image": str(paths[i]), "image_id": i + 1, "objects": objects, "picture": str(picture)})
    path = folder / RESULTS
    write_atomically(path, json.dumps(results, ensure_ascii=False).encode())
    return [answer | {"results": str(path)} for answer in answers]


def coco_results(
    found: Detections, image_id: int, category_ids: Sequence[int], file_name: str = ""
) -> list[dict[str, Any]]:
    """What was found in one image as the entries of COCO's result format."""
    entries = []
    for k in range(len(found.scores)):
        x1, y1, x2, y2 = found.boxes[k].tolist()
        entry: dict[str, Any] = {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[int(found.labels[k])],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(found.scores[k]),
        }
        if found.masks is not None:
            entry["segmentation"] = dict(found.masks[k])
        entries.append(entry)
    return entries


def _stem(paths: Sequence[str | Path], i: int) -> str:
    """The name of a picture without its ending; with its number, as often as it takes, where several are called so."""
    stems = [Path(path).stem for path in paths]
    stem = stems[i]
    while stems.count(stem) > (stem == stems[i]):
        stem = f"{stem}-{i + 1}"
    return stem
