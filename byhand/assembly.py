"""A training put together before its first step: plan and settings, device, data, weights and network."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from byhand import data, models
from byhand.data.arrays import Dataset
from byhand.data.detection import DetectionDataset
from byhand.errors import ByhandError, SettingsError
from byhand.models.weights import Loaded, take_weights
from byhand.recipes import DEFAULT, recipe
from byhand.recipes.own import WHATEVER, check_names, own_recipe
from byhand.recipes.own_detector import check_masks, own_detector
from byhand.training.batches import num_batches
from byhand.training.detection import check_detection
from byhand.training.device import computes_bfloat16, device_named
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.tasks import DETECTION

if TYPE_CHECKING:
    from byhand.pretrained import Weights

AnyDataset = Dataset | DetectionDataset
Progress = Callable[[str, int, int], None]


def assemble(
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
        asked, dataset = planned.settings.replace(**settings), chosen.dataset_of(planned)
        if chosen.task == DETECTION:
            check_detection(asked)
        device, examples, given = _material(asked, dataset, data_dir, weights, progress)
    else:
        if data_dir is not None and data.entry(dataset).kind == "folder":
            raise SettingsError(f"{dataset} says where its images lie; leave out data_dir={os.fspath(data_dir)!r}")
        asked = WHATEVER.replace(**settings)
        if models.detector(network) is not None:
            check_detection(asked)
        device, examples, given = _material(asked, dataset, data_dir, weights, progress)
        if isinstance(examples, DetectionDataset):
            chosen = own_detector(network, examples, size)
        else:
            chosen = own_recipe(network, examples, size, None if given is None else given.state, asked.freeze)
        planned = chosen.plan(plan)
    asked = resolved(planned.settings, settings, device)
    options = {**chosen.options, **planned.options, **({"dropout": asked.dropout} if asked.dropout else {})}
    if asked.batch_size > len(examples.train_images):
        raise SettingsError(
            f"batch_size={asked.batch_size} is more than the {len(examples.train_images)} training examples of "
            f"{examples.name}; choose a smaller one"
        )
    if given is not None and asked.init != "default":
        raise SettingsError(
            f"init={asked.init!r} of {chosen.name}, plan {plan}, would overwrite the weights of {given.source}; "
            "take another plan"
        )
    changed = sorted(key for key in settings if settings[key] != getattr(planned.settings, key))
    # A goal is a promise about the plan as it stands, from the start, on the test set; how it is run does not matter.
    as_planned = given is None and not set(changed) - {"seed", "device", "threads", "by_hand"}
    record: dict[str, Any] = {
        "recipe": chosen.name,
        "plan": plan,
        "seed": asked.seed,
        "task": chosen.task,
        "network": {"name": chosen.network, "options": options},
        # With boxes, where the images were found: a recipe says no more than a folder's name.
        "dataset": examples.name if chosen.task == DETECTION else chosen.dataset_of(planned),
        "class_names": list(examples.class_names),
        "input_shape": _input_shape(examples),
        "preparation": asked.preparation.record(),
        "settings": asked.record() | {"threads": torch.get_num_threads(), "device": str(device)},
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

    state = State.new(build, asked, device)
    if given is not None:
        record["weights"] = {"source": given.source, "sha256": given.sha256, "loaded": str(loaded)}
    _check_fit(state, examples, chosen.network)
    return record, state, examples, loaded


def resolved(planned: Settings, changes: dict[str, Any], device: torch.device) -> Settings:
    """The settings of a plan with these changes, in the hand and precision that are the fastest on the device.

    What was asked for stays.
    """
    if not computes_bfloat16(device):
        planned = planned.replace(mixed_precision=False)
    if device.type != "cpu":
        planned = planned.replace(by_hand=False)
    return planned.replace(**changes)


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
    device = prepare_machine(settings)
    given = None
    if weights is not None:
        from byhand.pretrained import read_weights

        given = read_weights(weights, progress=progress)
    return device, load_dataset(dataset, settings, data_dir, progress), given


def load_dataset(name: str, settings: Settings, data_dir, progress: Progress | None) -> AnyDataset:
    dataset: AnyDataset
    if data.entry(name).task == "detection":
        dataset = data.load_detection(data.found_labels(name, data_dir), seed=settings.seed)
    else:
        dataset = data.load(name, data_dir, progress=progress, seed=settings.seed)
    return dataset.hold_out(settings.hold_out) if settings.hold_out else dataset


def prepare_machine(settings: Settings) -> torch.device:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return device_named(settings.device)


def _input_shape(dataset: AnyDataset) -> list[int]:
    """Of one example; where images have sizes of their own, of the first one."""
    return list(dataset.train_images[0].shape if isinstance(dataset, DetectionDataset) else dataset.input_shape)


def _check_fit(state: State, dataset: AnyDataset, network: str) -> None:
    """Raises SettingsError where the network cannot take an example as the settings prepare it."""
    if isinstance(dataset, DetectionDataset):
        return  # a detector takes images of every size, and says itself what is wrong with one
    images, settings = dataset.train_images[:1], state.settings
    if images.dtype == torch.uint8:
        for name in ("shift", "cutout"):
            if getattr(settings, name) >= (settings.preparation.size or min(images.shape[2:])):
                size = " × ".join(map(str, settings.preparation(images).shape[2:]))
                raise SettingsError(
                    f"{name}={getattr(settings, name)} must be below the size of the images, {size} pixels"
                )
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
