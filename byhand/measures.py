"""What the network of a run gives on its data, and what its files say of it."""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from byhand import data
from byhand.assembly import AnyDataset, Progress, load_dataset
from byhand.data.detection import DetectionDataset
from byhand.data.detection_labels import path_of, some
from byhand.errors import DataError, RunError, SettingsError
from byhand.ops import least_squares
from byhand.runs.run import Run
from byhand.training.detection import detection_loss
from byhand.training.detection_measures import Precision, detections, precision
from byhand.training.evaluate import evaluate
from byhand.training.part_times import PartTimes
from byhand.training.settings import Settings
from byhand.training.tasks import CLASSIFICATION, DETECTION, REGRESSION

READ = ("recipe", "plan", "task", "network", "dataset", "class_names", "input_shape", "settings", "reported", "goal")


def dataset_of(run: Run, data_dir: str | Path | None = None, progress: Progress | None = None) -> AnyDataset:
    """The data set that a run was trained and measured on, from where it was found then or ``data_dir``."""
    record = record_of(run)
    name, settings = record["dataset"], Settings.of(record["settings"])
    known = data.entry(name)
    if known.kind == "folder":
        there = path_of(name, f"{known.name}:PATH") if known.task == "detection" else data.folder_of(name)
        folder = there if data_dir is None else data_dir
        if not os.path.exists(folder):
            raise DataError(f"{folder} with the images of {run.path} is not there; say with --data-dir where it is now")
        name, data_dir = f"{known.name}:{folder}", None
    return load_dataset(name, settings, data_dir or run.environment().get("data_dir"), progress)


def measured_dataset_of(run: Run, data_dir: str | Path | None = None) -> AnyDataset:
    """The data set to measure or draw a run on: its own, or what ``data_dir`` holds, of the same classes.

    A warning says that those of ``data_dir`` are others: the test set is then another, and where it is split off by
    chance it may hold what the run was trained on. Raises RunError for other data where no ``data_dir`` asks for them,
    and for other classes.
    """
    dataset, names = dataset_of(run, data_dir), record_of(run)["class_names"]
    if list(dataset.class_names) != list(names):
        raise RunError(
            f"{run.path} was trained on the classes {some(names)}, but {dataset.source} has "
            f"{some(dataset.class_names)}; the folders or categories must be called as they were"
        )
    if not same_data(run, dataset):
        told = f"{run.path} was trained on other data than {dataset.source} holds now"
        if data_dir is None:
            raise RunError(f"{told}; bring them back, or ask for these with --data-dir")
        warnings.warn(f"{told}; these measures are not those of its test set", stacklevel=2)
    return dataset


def same_data(run: Run, dataset: AnyDataset) -> bool:
    """Whether the data set is what the run was trained and measured on, by its checksums."""
    return dict(dataset.sha256) == (run.environment().get("data") or {}).get("sha256")


def measure(run: Run, split: str = "test", data_dir: str | Path | None = None) -> dict[str, Any]:
    """What the weights of a finished run give on a part of its data: ``test`` (or what was held out) or ``train``.

    Raises RunError where the run has no weights yet, SettingsError for another part.
    """
    if split not in ("test", "train"):
        raise SettingsError(f"split={split!r} must be 'test' or 'train'")
    record = record_of(run)
    model = run.model()
    dataset = measured_dataset_of(run, data_dir)
    settings = Settings.of(record["settings"])
    measures = measures_of(model, dataset, split, settings, record["task"])
    seconds = (run.result() or {}).get("seconds", sum(line["seconds"] for line in run.history()))
    num_examples = len(dataset.test_images if split == "test" else dataset.train_images)
    result = result_of(run, measures, settings, seconds) | {"split": split, "examples": num_examples}
    return result | weight_errors(model, dataset, record["task"])


def reached(result: dict[str, Any], goal: dict[str, Any]) -> bool | None:
    """Whether every measure lies in its range; None where nothing is asked for."""
    if not goal:
        return None
    return all(result.get(key) is not None and low <= result[key] <= high for key, (low, high) in goal.items())


def precision_of(model: torch.nn.Module, dataset: DetectionDataset, split: str, settings: Settings) -> Precision | None:
    """COCO's measures of a detector on a part of its data; None of one without images."""
    images, objects = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_objects")
    if not len(images):
        return None
    times = PartTimes()
    found = precision(objects, list(detections(model, images, settings, times)), dataset.class_names)
    return dataclasses.replace(found, seconds=times.record())


def measures_of(
    model: torch.nn.Module,
    dataset: AnyDataset,
    split: str,
    settings: Settings,
    task: str,
    found: Precision | None = None,
) -> dict[str, Any]:
    """What the network gives on a part of its data: loss and accuracy, or of a detector COCO's measures and the loss.

    Of a detector also the seconds an image that its parts took: ``seconds_proposals``, ``seconds_features``,
    ``seconds_heads``. Without an image to measure all are None: one's own single image leaves none for the test.
    ``found`` are its measures where they are known already.
    """
    if isinstance(dataset, DetectionDataset):
        images, objects = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_objects")
        if not len(images):
            return {"loss": None, "AP": None, "AP50": None}
        found = found or precision_of(model, dataset, split, settings)
        assert found is not None
        return {**found.record(), "loss": detection_loss(model, images, objects, settings)}
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    measured = evaluate(model, images, labels, settings, task)
    return {"loss": measured.loss} if task == REGRESSION else {"accuracy": measured.accuracy, "loss": measured.loss}


def result_of(run: Run, measures: dict[str, Any], settings: Settings, seconds: float) -> dict[str, Any]:
    record = record_of(run)
    result: dict[str, Any] = {"recipe": record["recipe"], "plan": record["plan"], "seed": settings.seed, **measures}
    result |= {"epochs": len(run.history()), "seconds": round(seconds, 3), "run": str(run.path)}
    result["measured_on"] = "held-out training examples" if settings.hold_out else "test set"
    return result


def weight_errors(model: torch.nn.Module, dataset: AnyDataset, task: str) -> dict[str, float]:
    """How far the weights of a regression are from those that made the data, and from the closed form."""
    if isinstance(dataset, DetectionDataset) or task != REGRESSION or not dataset.truth:
        return {}
    weight, bias = (parameter.detach().double().cpu().flatten() for parameter in model.parameters())
    found = torch.cat([weight, bias])
    truth = torch.tensor([*dataset.truth["weight"], dataset.truth["bias"]], dtype=torch.float64)  # type: ignore[misc]
    X = dataset.train_images.double()
    ones = torch.ones(len(X), 1, dtype=torch.float64)
    closed_form = least_squares(torch.cat([X, ones], 1), dataset.train_labels.double().flatten())
    return {
        "max_weight_error": float((found - truth).abs().max()),
        "closed_form_error": float((found - closed_form).abs().max()),
    }


def record_of(run: Run) -> dict[str, Any]:
    """What recipe.json holds; raises RunError where it lacks something that is read here and that ``start`` wrote."""
    record = run.recipe()
    missing = [name for name in READ if name not in record]
    if missing:
        raise RunError(f"recipe.json of {run.path} lacks {', '.join(missing)}; it is not of a training with byhand")
    network = record["network"]
    named = isinstance(network, dict) and isinstance(network.get("name"), str)
    named = named and isinstance(record["recipe"], str) and isinstance(record["dataset"], str)
    if not (named and isinstance(network.get("options"), dict)):
        raise RunError(
            f"recipe.json of {run.path} names no recipe, network and data set; it is not of a training with byhand"
        )
    if record["task"] not in (CLASSIFICATION, REGRESSION, DETECTION):
        raise RunError(f"recipe.json of {run.path} has the unknown task {record['task']!r}; train anew")
    return record
