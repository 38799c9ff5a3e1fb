"""From a recipe to a run: everything that the command line does, as functions."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from byhand import models
from byhand.assembly import AnyDataset, Progress, assemble, prepare_machine
from byhand.data.detection import DetectionDataset
from byhand.errors import NonFiniteLoss, RunError, SettingsError
from byhand.measures import (
    dataset_of,
    measure,
    measured_dataset_of,
    measures_of,
    precision_of,
    reached,
    record_of,
    result_of,
    same_data,
    weight_errors,
)
from byhand.models.weights import Loaded
from byhand.runs.environment import environment
from byhand.runs.picture import read_as_in
from byhand.runs.run import Run
from byhand.training.detection import complete
from byhand.training.detection_measures import Precision
from byhand.training.evaluate import Measured, evaluate
from byhand.training.fit import Epoch, fit
from byhand.training.lr_finder import LrSearch, check_range, search_lr
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.tasks import DETECTION, REGRESSION

__all__ = [
    "Training",
    "find_lr",
    "measure",
    "measured_dataset_of",
    "predict_files",
    "reached",
    "resume",
    "start",
    "train",
]


class Training:
    """A run under way: iterating trains, logs and saves a checkpoint after each epoch; ``finish`` closes it.

    ``loaded`` says what it took from the weights that it was started from, None without; ``precision``, after the end,
    what a detector was measured at.
    """

    def __init__(
        self,
        run: Run,
        state: State,
        dataset: AnyDataset,
        history: list[dict[str, Any]],
        loaded: Loaded | None = None,
    ) -> None:
        self.run, self.state, self.data, self.loaded = run, state, dataset, loaded
        self.task = str(run.recipe()["task"])
        self.seconds = sum(record["seconds"] for record in history)
        self.precision: Precision | None = None

    def __iter__(self) -> Iterator[Epoch]:
        for epoch in fit(self.state, self.data, self.task):
            self._check_finite()
            self.seconds += epoch.seconds
            self.run.log(epoch.record())
            self.save()
            yield epoch

    def save(self) -> None:
        """Write the checkpoint of this moment; between two epochs or within one.

        Raises NonFiniteLoss where the weights are no longer numbers: the checkpoint before is worth more.
        """
        self._check_finite()
        self.run.save_checkpoint(self.state.state_dict())

    def _check_finite(self) -> None:
        if not self.state.finite():
            # Between two epochs the epoch that just ended is meant, within one the current.
            epoch = self.state.epoch + (self.state.position > 0)
            raise NonFiniteLoss(
                f"weights became infinite or NaN in epoch {epoch}; the last checkpoint is kept. Try a lower lr (now "
                f"{self.state.settings.lr:g}), a warm-up, or normalised inputs"
            )

    @property
    def interrupted(self) -> bool:
        """Whether the training was asked to stop before its last epoch."""
        return not self.state.ended

    def finish(self) -> dict[str, Any]:
        """Measure the final weights once, write them and result.json; the result.

        A network that learns something after the last epoch (``training.detection.complete``) does so before.

        Raises RunError while epochs are left.
        """
        if self.interrupted:
            raise RunError(
                f"{self.run.path} has {self.state.epoch} of {self.state.settings.epochs} epochs; go on with resume"
            )
        self.state.take_best()
        settings, kept = self.state.settings, self.state.kept
        if isinstance(self.data, DetectionDataset):
            started = time.perf_counter()
            complete(kept, self.data, settings)
            self.seconds += time.perf_counter() - started
        self.run.save_weights(kept.state_dict())
        if isinstance(self.data, DetectionDataset):
            self.precision = precision_of(kept, self.data, "test", settings)
        measures = measures_of(kept, self.data, "test", settings, self.task, self.precision)
        result = result_of(self.run, measures, settings, self.seconds)
        last = self.run.history()[-1]
        if settings.running_metrics or isinstance(self.data, DetectionDataset):
            training, moment = Measured(last["loss"], last.get("accuracy")), "while the last epoch ran"
        else:
            training = evaluate(kept, self.data.train_images, self.data.train_labels, settings, self.task)
            moment = "with the final weights"
        result |= {"train_loss": training.loss, "train_accuracy": training.accuracy, "train_measured": moment}
        result |= weight_errors(kept, self.data, self.task)
        result |= {"source": self.run.recipe()["reported"], "goal": self.run.recipe()["goal"]}
        result["reached"] = reached(result, result["goal"])
        self.run.finish(result)
        return result


def start(
    name: str | None = None,
    plan: str = "fast",
    *,
    network: str | None = None,
    dataset: str | None = None,
    size: int | None = None,
    weights: str | Path | None = None,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    progress: Progress | None = None,
    **settings: Any,
) -> Training:
    """A training at its beginning, with its run directory made; ``settings`` replace those of the plan.

    ``name`` is that of a recipe, LeNet-5's on the digits unless given. Or ``network`` and ``dataset`` name what there
    is no recipe for, and ``size`` the pixels a side that images are brought to. ``weights`` is the path or address of
    a file to start from: see ``byhand.pretrained.load_weights``.

    Raises ByhandError of a kind that fits, before anything is written, for unknown names, impossible settings and data
    that cannot be had.
    """
    record, state, examples, loaded = assemble(
        name, plan, network, dataset, size, weights, data_dir, progress, settings
    )
    receipt = environment(state.settings.seed, state.device, torch.get_num_threads(), examples)
    # As an absolute path, since the run may be opened from another folder.
    receipt["data_dir"] = None if data_dir is None else os.path.abspath(data_dir)
    training = Training(Run.create(runs_dir, record, receipt), state, examples, [], loaded)
    try:
        training.save()  # a run that is killed in its first epoch can be resumed too
    except BaseException:
        shutil.rmtree(training.run.path, ignore_errors=True)
        with suppress(OSError):  # where other runs are, it stays
            Path(runs_dir).rmdir()
        raise
    return training


def find_lr(
    name: str | None = None,
    plan: str = "fast",
    *,
    network: str | None = None,
    dataset: str | None = None,
    size: int | None = None,
    weights: str | Path | None = None,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> LrSearch:
    """What the losses of a short training say of the learning rate, which rises from ``low`` to ``high`` in it.

    Network and data are named and set up as for ``start``; no run directory is made, what was learned is thrown away.

    Raises ByhandError of a kind that fits; SettingsError for a range or number of steps that cannot be.
    """
    check_range(low, high, steps)
    threads = torch.get_num_threads()
    try:
        record, state, examples, _ = assemble(name, plan, network, dataset, size, weights, data_dir, progress, settings)
        if isinstance(examples, DetectionDataset):
            raise SettingsError(f"{record['network']['name']} is a detector; find-lr is for networks of one label")
        return search_lr(state, examples, record["task"], low, high, steps)
    finally:
        torch.set_num_threads(threads)


def resume(path: str | Path | Run, *, data_dir: str | Path | None = None, progress: Progress | None = None) -> Training:
    """A training as its last checkpoint left it; what it yields from here is bit for bit what it would have yielded.

    Raises RunError where the run is finished, damaged, or was trained on other data than are found now.
    """
    run = path if isinstance(path, Run) else Run.open(path)
    if run.finished:
        raise RunError(f"{run.path} is finished; there is nothing to resume")
    record = record_of(run)
    saved = run.load_checkpoint()
    settings = Settings.of(record["settings"])
    device = prepare_machine(settings)
    dataset = dataset_of(run, data_dir, progress)
    if not same_data(run, dataset):
        raise RunError(f"{run.path} was trained on other data than {dataset.source} holds now; give its --data-dir")
    network = record["network"]
    state = State.new(lambda: models.build(network["name"], **network["options"]), settings, device)
    state.load_state_dict(saved)
    run.truncate_history(state.epoch)
    return Training(run, state, dataset, run.history())


def train(
    recipe: str | None = None,
    plan: str = "fast",
    *,
    network: str | None = None,
    dataset: str | None = None,
    size: int | None = None,
    weights: str | Path | None = None,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    **settings: Any,
) -> Run:
    """The finished run of a recipe: trained, measured, with weights and result in its directory.

    Or of any network with any data set: ``byhand.train(network="resnet18", dataset="image-folder:PATH")``, from given
    ``weights`` with ``freeze=True`` or ``body_lr=0.1`` where these are wanted; ``start`` says what the arguments are.

    ``settings`` replace those of the plan: ``byhand.train("lenet5-mnist", plan="fast", seed=1, by_hand=False)``. See
    byhand.training.settings.Settings for their names, units and ranges.

    Raises ByhandError of a kind that fits; NonFiniteLoss where the training fails.
    """
    threads = torch.get_num_threads()
    try:
        training = start(
            recipe,
            plan,
            network=network,
            dataset=dataset,
            size=size,
            weights=weights,
            data_dir=data_dir,
            runs_dir=runs_dir,
            **settings,
        )
        for _ in training:
            pass
        training.finish()
    finally:
        torch.set_num_threads(threads)  # a plan's number of threads is not the caller's
    return training.run


def predict_files(run: Run, paths: Sequence[str | Path], top: int = 3) -> list[dict[str, Any]]:
    """What the network of a run sees in each picture: its path, the most probable label and name, and the ``top`` ones.

    All pictures are read before the first is answered. Raises SettingsError for a regression or ``top`` below 1,
    DataError for a file that is not a picture.
    """
    record = record_of(run)
    if record["task"] == DETECTION:
        raise SettingsError(f"{run.path} is of a detector, which finds objects; use `byhand detect {run.path} IMAGE`")
    if record["task"] == REGRESSION:
        raise SettingsError(f"{run.path} is a regression of {record['input_shape'][0]} numbers; it takes no pictures")
    if top < 1:
        raise SettingsError(f"top={top} must be at least 1")
    channels, height, width = record["input_shape"]
    images = [read_as_in(record["dataset"], path, (height, width), channels) for path in paths]
    if not images:
        raise SettingsError("no picture was given; expected one or more image files")
    names = record["class_names"]
    answers = []
    for path, probabilities in zip(paths, run.predict(torch.cat(images)), strict=True):
        best = probabilities.topk(min(top, len(names)))
        seen = [
            {"label": int(i), "name": names[i], "probability": float(p)}
            for p, i in zip(best.values, best.indices.tolist(), strict=True)
        ]
        answers.append({"image": str(path), "label": seen[0]["label"], "name": seen[0]["name"], "top": seen})
    return answers
