"""From a recipe to a run: everything that the command line does, as functions."""

import copy
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from byhand import data, models
from byhand.data.arrays import Dataset
from byhand.data.detection import DetectionDataset
from byhand.data.detection_labels import path_of
from byhand.errors import ByhandError, DataError, NonFiniteLoss, RunError, SettingsError
from byhand.models.weights import Loaded, take_weights
from byhand.ops import least_squares
from byhand.recipes import DEFAULT, recipe
from byhand.recipes.own import check_names, own_recipe
from byhand.recipes.own_detector import check_masks, own_detector
from byhand.runs.environment import environment
from byhand.runs.picture import read_as_in
from byhand.runs.run import Run
from byhand.training.batches import num_batches
from byhand.training.detection import check_detection, complete, detection_loss
from byhand.training.detection_measures import Precision, detections, precision
from byhand.training.device import computes_bfloat16, device_named
from byhand.training.evaluate import Measured, evaluate
from byhand.training.fit import Epoch, fit
from byhand.training.lr_finder import LrSearch, check_range, search_lr
from byhand.training.part_times import PartTimes
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.tasks import CLASSIFICATION, DETECTION, REGRESSION

if TYPE_CHECKING:
    from byhand.pretrained import Weights

AnyDataset = Dataset | DetectionDataset
Progress = Callable[[str, int, int], None]


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
            self.precision = _precision(kept, self.data, "test", settings)
        measures = _measures(kept, self.data, "test", settings, self.task, self.precision)
        result = _result(self.run, measures, settings, self.seconds)
        last = self.run.history()[-1]
        if settings.running_metrics or isinstance(self.data, DetectionDataset):
            training, moment = Measured(last["loss"], last.get("accuracy")), "while the last epoch ran"
        else:
            training = evaluate(kept, self.data.train_images, self.data.train_labels, settings, self.task)
            moment = "with the final weights"
        result |= {"train_loss": training.loss, "train_accuracy": training.accuracy, "train_measured": moment}
        result |= _weight_errors(kept, self.data, self.task)
        result |= {"source": self.run.recipe()["reported"], "goal": self.run.recipe()["goal"]}
        result["reached"] = reached(result, result["goal"])
        self.run.finish(result)
        return result


def _set_up(
    name: str | None,
    plan: str,
    network: str | None,
    dataset: str | None,
    size: int | None,
    weights: str | Path | None,
    data_dir: str | Path | None,
    progress: Progress | None,
    settings: dict[str, Any],
) -> tuple[dict[str, Any], State, AnyDataset, Loaded | None]:
    """What recipe.json of a training will hold, its state at the beginning, its data, and what it took from weights."""
    check_names(name, network, dataset, plan, size)
    if network is None or dataset is None:
        chosen = recipe(name or DEFAULT.name)
        planned = chosen.plan(plan)
        asked, dataset = planned.settings.replace(**settings), chosen.dataset
        if chosen.task == DETECTION:
            check_detection(asked)
        device, examples, given = _material(asked, dataset, data_dir, weights, progress)
    else:
        if data_dir is not None and data.entry(dataset).kind == "folder":
            raise SettingsError(f"{dataset} says where its images lie; leave out data_dir={os.fspath(data_dir)!r}")
        # what no data set can make possible
        asked = Settings(epochs=1, batch_size=1, lr=1.0, by_hand=False).replace(**settings)
        if models.detector(network) is not None:
            check_detection(asked)
        device, examples, given = _material(asked, dataset, data_dir, weights, progress)
        if isinstance(examples, DetectionDataset):
            chosen = own_detector(network, examples, size)
        else:
            chosen = own_recipe(network, examples, size, None if given is None else given.state, asked.freeze)
        planned = chosen.plan(plan)
    resolved = _resolved(planned.settings, settings, device)
    options = {**chosen.options, **planned.options, **({"dropout": resolved.dropout} if resolved.dropout else {})}
    if resolved.batch_size > len(examples.train_images):
        raise SettingsError(
            f"batch_size={resolved.batch_size} is more than the {len(examples.train_images)} training examples of "
            f"{examples.name}; choose a smaller one"
        )
    if given is not None and resolved.init != "default":
        raise SettingsError(
            f"init={resolved.init!r} of {chosen.name}, plan {plan}, would overwrite the weights of {given.source}; "
            "take another plan"
        )
    changed = sorted(key for key in settings if settings[key] != getattr(planned.settings, key))
    # A goal is a promise about the plan as it stands, from the start, on the test set; how it is run does not matter.
    as_planned = given is None and not set(changed) - {"seed", "device", "threads", "by_hand"}
    record: dict[str, Any] = {
        "recipe": chosen.name,
        "plan": plan,
        "seed": resolved.seed,
        "task": chosen.task,
        "network": {"name": chosen.network, "options": options},
        # With boxes, where the images were found: a recipe says no more than a folder's name.
        "dataset": examples.name if chosen.task == DETECTION else chosen.dataset,
        "class_names": list(examples.class_names),
        "input_shape": _input_shape(examples),
        "preparation": resolved.preparation.record(),
        "settings": resolved.record() | {"threads": torch.get_num_threads(), "device": str(device)},
        "changed": changed,
        "reported": dict(chosen.reported),
        "goal": {key: list(bounds) for key, bounds in planned.goal.items()} if as_planned else {},
    }
    if isinstance(examples, DetectionDataset):
        check_masks(chosen.network, examples)
        record["category_ids"] = list(examples.category_ids)
    loaded: Loaded | None = None

    def build() -> torch.nn.Module:
        nonlocal loaded
        model = models.build(chosen.network, **options)
        if given is not None:
            loaded = take_weights(model, given.state, given.source)
        return model

    state = State.new(build, resolved, device)
    if given is not None:
        record["weights"] = {"source": given.source, "sha256": given.sha256, "loaded": str(loaded)}
    _check_fit(state, examples, chosen.network)
    return record, state, examples, loaded


def _resolved(planned: Settings, changes: dict[str, Any], device: torch.device) -> Settings:
    """The settings of a plan with these changes, in the hand and precision that are the fastest on the device.

    What was asked for stays.
    """
    if not computes_bfloat16(device):
        planned = planned.replace(mixed_precision=False)
    if device.type != "cpu":
        planned = planned.replace(by_hand=False)
    return planned.replace(**changes)


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
    record, state, examples, loaded = _set_up(name, plan, network, dataset, size, weights, data_dir, progress, settings)
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
        record, state, examples, _ = _set_up(name, plan, network, dataset, size, weights, data_dir, progress, settings)
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
    record, receipt = _record(run), run.environment()
    saved = run.load_checkpoint()
    settings = Settings.of(record["settings"])
    device = _prepare_machine(settings)
    dataset = dataset_of(run, data_dir, progress)
    if dict(dataset.sha256) != (receipt.get("data") or {}).get("sha256"):
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


def dataset_of(run: Run, data_dir: str | Path | None = None, progress: Progress | None = None) -> AnyDataset:
    """The data set that a run was trained and measured on, from where it was found then or ``data_dir``."""
    record = _record(run)
    name, settings = record["dataset"], Settings.of(record["settings"])
    known = data.entry(name)
    if known.kind == "folder":
        there = path_of(name, f"{known.name}:PATH") if known.task == "detection" else data.folder_of(name)
        folder = there if data_dir is None else data_dir
        if not os.path.exists(folder):
            raise DataError(f"{folder} with the images of {run.path} is not there; say with --data-dir where it is now")
        name, data_dir = f"{known.name}:{folder}", None
    return _dataset(name, settings, data_dir or run.environment().get("data_dir"), progress)


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
    measures = _measures(model, dataset, split, settings, record["task"])
    seconds = (run.result() or {}).get("seconds", sum(line["seconds"] for line in run.history()))
    num_examples = len(dataset.test_images if split == "test" else dataset.train_images)
    result = _result(run, measures, settings, seconds) | {"split": split, "examples": num_examples}
    return result | _weight_errors(model, dataset, record["task"])


def reached(result: dict[str, Any], goal: dict[str, Any]) -> bool | None:
    """Whether every measure lies in its range; None where nothing is asked for."""
    if not goal:
        return None
    return all(result.get(key) is not None and low <= result[key] <= high for key, (low, high) in goal.items())


def _precision(model: torch.nn.Module, dataset: DetectionDataset, split: str, settings: Settings) -> Precision | None:
    """COCO's measures of a detector on a part of its data; None of one without images."""
    images, objects = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_objects")
    if not len(images):
        return None
    times = PartTimes()
    found = precision(objects, list(detections(model, images, settings, times)), dataset.class_names)
    return dataclasses.replace(found, seconds=times.record())


def _measures(
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
        found = found or _precision(model, dataset, split, settings)
        assert found is not None
        return {**found.record(), "loss": detection_loss(model, images, objects, settings)}
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    measured = evaluate(model, images, labels, settings, task)
    return {"loss": measured.loss} if task == REGRESSION else {"accuracy": measured.accuracy, "loss": measured.loss}


def _result(run: Run, measures: dict[str, Any], settings: Settings, seconds: float) -> dict[str, Any]:
    record = _record(run)
    result: dict[str, Any] = {"recipe": record["recipe"], "plan": record["plan"], "seed": settings.seed, **measures}
    result |= {"epochs": len(run.history()), "seconds": round(seconds, 3), "run": str(run.path)}
    result["measured_on"] = "held-out training examples" if settings.hold_out else "test set"
    return result


def _weight_errors(model: torch.nn.Module, dataset: AnyDataset, task: str) -> dict[str, float]:
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


READ = ("recipe", "plan", "task", "network", "dataset", "class_names", "input_shape", "settings", "reported", "goal")


def _record(run: Run) -> dict[str, Any]:
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


def _input_shape(dataset: AnyDataset) -> list[int]:
    """Of one example; where images have sizes of their own, of the first one."""
    return list(dataset.train_images[0].shape if isinstance(dataset, DetectionDataset) else dataset.input_shape)


def _check_fit(state: State, dataset: AnyDataset, network: str) -> None:
    """Raises SettingsError where the network cannot take an example as the settings prepare it."""
    if isinstance(dataset, DetectionDataset):
        return  # a detector takes images of every size, and says itself what is wrong with one
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
    num_examples, batch_size = len(dataset.train_images), settings.batch_size
    left_over = num_examples - (num_batches(num_examples, batch_size) - 1) * batch_size  # in an epoch's last batch
    if min(batch_size, left_over) < 2 * settings.accumulate:
        _check_one(state, images, network)


def _check_one(state: State, image: torch.Tensor, network: str) -> None:
    """Raises SettingsError where the network cannot be trained on one example at a time, as the settings ask."""
    trial = copy.copy(state)
    trial.model = copy.deepcopy(state.library)  # as its running statistics move
    trial.train()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            trial.model(state.settings.preparation(image.to(state.device)))
    except ValueError as error:  # torch's own, and our ShapeError
        cause, advice = "batch_size=1", "choose at least 2"
        if state.settings.batch_size > 1:
            cause, advice = f"parts of one example (accumulate={state.settings.accumulate})", "choose fewer parts"
        raise SettingsError(
            f"{network} cannot be trained with {cause}, as batch normalisation has one value a channel then "
            f"({' '.join(str(error).split())}); {advice}"
        ) from None


def _prepare_machine(settings: Settings) -> torch.device:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return device_named(settings.device)


def _material(
    settings: Settings, dataset: str, data_dir, weights: str | Path | None, progress: Progress | None
) -> tuple[torch.device, AnyDataset, "Weights | None"]:
    """What a training needs beside its settings: where it runs, its data, and the weights that it starts from."""
    if settings.freeze and weights is None:
        raise SettingsError(
            "freeze=True without weights would keep a body that has learned nothing; give --from WEIGHTS"
        )
    if settings.body_lr != 1 and weights is None:
        raise SettingsError(
            f"body_lr={settings.body_lr} without weights would teach a new body more slowly; give --from WEIGHTS"
        )
    device = _prepare_machine(settings)
    given = None
    if weights is not None:
        from byhand.pretrained import read_weights

        given = read_weights(weights, progress=progress)
    return device, _dataset(dataset, settings, data_dir, progress), given


def _dataset(name: str, settings: Settings, data_dir, progress: Progress | None) -> AnyDataset:
    dataset: AnyDataset
    if data.entry(name).task == "detection":
        dataset = data.load_detection(data.found_labels(name, data_dir), seed=settings.seed)
    else:
        dataset = data.load(name, data_dir, progress=progress, seed=settings.seed)
    return dataset.hold_out(settings.hold_out) if settings.hold_out else dataset


def predict_files(run: Run, paths: Sequence[str | Path], top: int = 3) -> list[dict[str, Any]]:
    """What the network of a run sees in each picture: its path, the most probable label and name, and the ``top`` ones.

    All pictures are read before the first is answered. Raises SettingsError for a regression or ``top`` below 1,
    DataError for a file that is not a picture.
    """
    record = _record(run)
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
