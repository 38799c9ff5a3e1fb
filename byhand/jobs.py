"""From a recipe to a run: everything that the command line does, as functions."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from byhand import data, models
from byhand.data.arrays import Dataset
from byhand.errors import ByhandError, NonFiniteLoss, RunError, SettingsError
from byhand.ops import least_squares
from byhand.recipes import DEFAULT, Recipe, recipe
from byhand.runs.environment import environment
from byhand.runs.picture import read_image
from byhand.runs.run import Run
from byhand.training.device import device_named
from byhand.training.evaluate import Measured, evaluate
from byhand.training.fit import Epoch, fit
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.tasks import CLASSIFICATION, REGRESSION

Progress = Callable[[str, int, int], None]


class Training:
    """A run under way: iterating trains, logs and saves a checkpoint after each epoch; ``finish`` closes it."""

    def __init__(self, run: Run, state: State, dataset: Dataset, history: list[dict[str, Any]]) -> None:
        self.run, self.state, self.data = run, state, dataset
        self.task = str(run.recipe()["task"])
        self.seconds = sum(record["seconds"] for record in history)

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

        Raises RunError while epochs are left.
        """
        if self.interrupted:
            raise RunError(
                f"{self.run.path} has {self.state.epoch} of {self.state.settings.epochs} epochs; go on with resume"
            )
        self.state.take_best()
        settings, kept = self.state.settings, self.state.kept
        self.run.save_weights(kept.state_dict())
        measured = evaluate(kept, self.data.test_images, self.data.test_labels, settings, self.task)
        result = _result(self.run, self.task, measured, settings, self.seconds)
        last = self.run.history()[-1]
        if settings.running_metrics:
            training = Measured(last["loss"], last.get("accuracy"))
        else:
            training = evaluate(kept, self.data.train_images, self.data.train_labels, settings, self.task)
        moment = "while the last epoch ran" if settings.running_metrics else "with the final weights"
        result |= {"train_loss": training.loss, "train_accuracy": training.accuracy, "train_measured": moment}
        result |= _weight_errors(kept, self.data, self.task)
        result |= {"source": self.run.recipe()["reported"], "goal": self.run.recipe()["goal"]}
        result["reached"] = reached(result, result["goal"])
        self.run.finish(result)
        return result


def start(
    name: str = DEFAULT.name,
    plan: str = "fast",
    *,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    progress: Progress | None = None,
    **settings: Any,
) -> Training:
    """A training at its beginning, with its run directory made; ``settings`` replace those of the plan.

    Raises ByhandError of a kind that fits, before anything is written, for unknown names, impossible settings and data
    that cannot be had.
    """
    chosen = recipe(name)
    planned = chosen.plan(plan)
    resolved = planned.settings.replace(**settings)
    device = _prepare_machine(resolved)
    if device.type != "cpu" and "by_hand" not in settings:
        resolved = resolved.replace(by_hand=False)  # there the library's hand is the faster one
    options = {**chosen.options, **planned.options, **({"dropout": resolved.dropout} if resolved.dropout else {})}
    dataset = _dataset(chosen, resolved, data_dir, progress)
    if resolved.batch_size > len(dataset.train_images):
        raise SettingsError(
            f"batch_size={resolved.batch_size} is more than the {len(dataset.train_images)} training examples of "
            f"{dataset.name}; choose a smaller one"
        )
    changed = sorted(key for key in settings if settings[key] != getattr(planned.settings, key))
    # A goal is a promise about the plan as it stands, on the test set; how it is run does not matter.
    as_planned = not set(changed) - {"seed", "device", "threads", "by_hand"}
    record = {
        "recipe": chosen.name,
        "plan": plan,
        "seed": resolved.seed,
        "task": chosen.task,
        "network": {"name": chosen.network, "options": options},
        "dataset": chosen.dataset,
        "class_names": list(dataset.class_names),
        "input_shape": list(dataset.input_shape),
        "preparation": resolved.preparation.record(),
        "settings": resolved.record() | {"threads": torch.get_num_threads(), "device": str(device)},
        "changed": changed,
        "reported": dict(chosen.reported),
        "goal": {key: list(bounds) for key, bounds in planned.goal.items()} if as_planned else {},
    }
    state = State.new(lambda: models.build(chosen.network, **options), resolved, device)
    _check_fit(state, dataset, chosen.network)
    receipt = environment(resolved.seed, device, torch.get_num_threads(), dataset)
    # As an absolute path, since the run may be opened from another folder.
    receipt["data_dir"] = None if data_dir is None else os.path.abspath(data_dir)
    training = Training(Run.create(runs_dir, record, receipt), state, dataset, [])
    try:
        training.save()  # a run that is killed in its first epoch can be resumed too
    except BaseException:
        shutil.rmtree(training.run.path, ignore_errors=True)
        with suppress(OSError):  # where other runs are, it stays
            Path(runs_dir).rmdir()
        raise
    return training


def resume(path: str | Path | Run, *, data_dir: str | Path | None = None, progress: Progress | None = None) -> Training:
    """A training as its last checkpoint left it; what it yields from here is bit for bit what it would have yielded.

    Raises RunError where the run is finished, damaged, or was trained on other data than are found now.
    """
    run = path if isinstance(path, Run) else Run.open(path)
    if run.finished:
        raise RunError(f"{run.path} is finished; there is nothing to resume")
    record, receipt = _record(run), run.environment()
    saved = run.load_checkpoint()
    settings = Settings.of(record["settings"])
    device = _prepare_machine(settings)
    dataset = _dataset(recipe(record["recipe"]), settings, data_dir or receipt.get("data_dir"), progress)
    if dict(dataset.sha256) != (receipt.get("data") or {}).get("sha256"):
        raise RunError(f"{run.path} was trained on other data than {dataset.source} holds now; give its --data-dir")
    network = record["network"]
    state = State.new(lambda: models.build(network["name"], **network["options"]), settings, device)
    state.load_state_dict(saved)
    run.truncate_history(state.epoch)
    return Training(run, state, dataset, run.history())


def train(
    recipe: str = DEFAULT.name,
    plan: str = "fast",
    *,
    data_dir: str | Path | None = None,
    runs_dir: str | Path = "runs",
    **settings: Any,
) -> Run:
    """The finished run of a recipe: trained, measured, with weights and result in its directory.

    ``settings`` replace those of the plan: ``byhand.train("lenet5-mnist", plan="fast", seed=1, by_hand=False)``. See
    byhand.training.settings.Settings for their names, units and ranges.

    Raises ByhandError of a kind that fits; NonFiniteLoss where the training fails.
    """
    threads = torch.get_num_threads()
    try:
        training = start(recipe, plan, data_dir=data_dir, runs_dir=runs_dir, **settings)
        for _ in training:
            pass
        training.finish()
    finally:
        torch.set_num_threads(threads)  # a plan's number of threads is not the caller's
    return training.run


def dataset_of(run: Run, data_dir: str | Path | None = None, progress: Progress | None = None) -> Dataset:
    """The data set that a run was trained and measured on, from where it was found then or ``data_dir``."""
    record = _record(run)
    settings = Settings.of(record["settings"])
    return _dataset(recipe(record["recipe"]), settings, data_dir or run.environment().get("data_dir"), progress)


def measure(run: Run, split: str = "test", data_dir: str | Path | None = None) -> dict[str, Any]:
    """What the weights of a finished run give on a part of its data: ``test`` (or what was held out) or ``train``.

    Raises RunError where the run has no weights yet, SettingsError for another part.
    """
    if split not in ("test", "train"):
        raise SettingsError(f"split={split!r} must be 'test' or 'train'")
    record = _record(run)
    model = run.model()
    dataset = dataset_of(run, data_dir)
    settings = Settings.of(record["settings"])
    images, labels = (
        (dataset.test_images, dataset.test_labels) if split == "test" else (dataset.train_images, dataset.train_labels)
    )
    measured = evaluate(model, images, labels, settings, record["task"])
    seconds = (run.result() or {}).get("seconds", sum(line["seconds"] for line in run.history()))
    result = _result(run, record["task"], measured, settings, seconds) | {"split": split, "examples": len(labels)}
    return result | _weight_errors(model, dataset, record["task"])


def reached(result: dict[str, Any], goal: dict[str, Any]) -> bool | None:
    """Whether every measure lies in its range; None where nothing is asked for."""
    if not goal:
        return None
    return all(result.get(key) is not None and low <= result[key] <= high for key, (low, high) in goal.items())


def _result(run: Run, task: str, measured: Measured, settings: Settings, seconds: float) -> dict[str, Any]:
    record = _record(run)
    result: dict[str, Any] = {"recipe": record["recipe"], "plan": record["plan"], "seed": settings.seed}
    if task != REGRESSION:
        result["accuracy"] = measured.accuracy
    result |= {"loss": measured.loss, "epochs": len(run.history()), "seconds": round(seconds, 3), "run": str(run.path)}
    result["measured_on"] = "held-out training examples" if settings.hold_out else "test set"
    return result


def _weight_errors(model: torch.nn.Module, dataset: Dataset, task: str) -> dict[str, float]:
    """How far the weights of a regression are from those that made the data, and from the closed form."""
    if task != REGRESSION or not dataset.truth:
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


READ = ("recipe", "plan", "task", "network", "dataset", "class_names", "input_shape", "settings", "reported", "goal")


def _record(run: Run) -> dict[str, Any]:
    """What recipe.json holds; raises RunError where it lacks something that is read here and that ``start`` wrote."""
    record = run.recipe()
    missing = [name for name in READ if name not in record]
    if missing:
        raise RunError(f"recipe.json of {run.path} lacks {', '.join(missing)}; it is not of a training with byhand")
    network = record["network"]
    named = isinstance(network, dict) and isinstance(network.get("name"), str)
    if not (named and isinstance(network.get("options"), dict) and isinstance(record["recipe"], str)):
        raise RunError(f"recipe.json of {run.path} names no recipe and network; it is not of a training with byhand")
    if record["task"] not in (CLASSIFICATION, REGRESSION):
        raise RunError(f"recipe.json of {run.path} has the unknown task {record['task']!r}; train anew")
    return record


def _check_fit(state: State, dataset: Dataset, network: str) -> None:
    """Raises SettingsError where the network cannot take an example as the settings prepare it."""
    images, settings = dataset.train_images[:1], state.settings
    if images.dtype == torch.uint8 and settings.shift >= (settings.preparation.size or min(images.shape[2:])):
        size = " × ".join(map(str, settings.preparation(images).shape[2:]))
        raise SettingsError(f"shift={settings.shift} must be below the size of the images, {size} pixels")
    try:
        with torch.no_grad():
            state.library.eval()(settings.preparation(images.to(state.device)))
    except RuntimeError as error:
        if isinstance(error, ByhandError):
            raise
        shape = " × ".join(map(str, settings.preparation(images).shape[1:]))
        raise SettingsError(f"{network} does not take examples of {shape}: {' '.join(str(error).split())}") from None


def _prepare_machine(settings: Settings) -> torch.device:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return device_named(settings.device)


def _dataset(chosen: Recipe, settings: Settings, data_dir, progress: Progress | None) -> Dataset:
    dataset = data.load(chosen.dataset, data_dir, progress=progress, seed=settings.seed)
    return dataset.hold_out(settings.hold_out) if settings.hold_out else dataset


def predict_files(run: Run, paths: Sequence[str | Path], top: int = 3) -> list[dict[str, Any]]:
    """What the network of a run sees in each picture: its path, the most probable label and name, and the ``top`` ones.

    All pictures are read before the first is answered. Raises SettingsError for a regression or ``top`` below 1,
    DataError for a file that is not a picture.
    """
    record = _record(run)
    if record["task"] == REGRESSION:
        raise SettingsError(f"{run.path} is a regression of {record['input_shape'][0]} numbers; it takes no pictures")
    if top < 1:
        raise SettingsError(f"top={top} must be at least 1")
    channels, height, width = record["input_shape"]
    # Digits were centred when their data sets were made; the photographs of clothes fill their frame.
    centre = record["dataset"] != "fashion-mnist"
    images = [read_image(path, (height, width), channels, centre) for path in paths]
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
