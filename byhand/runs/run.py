"""A run: one directory that holds everything of one training, and that all the rest reads."""

import copy
import difflib
import os
import re
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from byhand.errors import RunError, SettingsError
from byhand.runs import storage
from byhand.runs.records import append_line, open_lines, plain, read_json, read_lines, write_json, write_lines

RECIPE = "recipe.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"
RESULT = "result.json"


class Run:
    """One run directory; `Run.create` makes one, `Run.open` opens one that exists. Only one process may write to it.

    Of each file but the growing metrics.jsonl the sha256 stands beside it, and one flipped bit is an error; that of
    metrics.jsonl is added by `finish`.
    """

    def __init__(self, path: str | os.PathLike[str], recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._recipe = recipe
        self._environment = environment
        self._writing = False
        self._model: nn.Module | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(
        cls, runs_dir: str | os.PathLike[str], recipe: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> "Run":
        """A new run directory in `runs_dir`, named DATE-TIME-RECIPE-PLAN-sSEED in local time, with both records in it.

        `recipe` names itself by "recipe" (or "name"), "plan" and "seed". Two runs of the same second do not meet: the
        second gets "-2" behind its name.

        Raises:
            RunError: the directory or a file in it cannot be written; nothing of it is left then.
        """
        recipe, environment = plain(recipe, "recipe"), plain(environment, "environment")
        runs_dir = Path(runs_dir)
        had_runs_dir = runs_dir.exists()
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{_label(recipe)}"
        path = None
        try:
            path = _make_directory(runs_dir, name)
            write_json(path / RECIPE, recipe)
            write_json(path / ENVIRONMENT, environment)
        except BaseException:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
            if not had_runs_dir and runs_dir.is_dir() and not any(runs_dir.iterdir()):
                runs_dir.rmdir()
            raise
        return cls(path, recipe, environment)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """The run in the directory at `path`.

        Raises:
            RunError: there is none, it is not a run's, or recipe.json or environment.json is missing or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise RunError(f"no run directory at {path}{_nearest(path)}")
        if not path.is_dir():
            raise RunError(f"{path} is a file; give the run directory, the one with {RECIPE} in it")
        missing = [name for name in (RECIPE, ENVIRONMENT) if not (path / name).exists()]
        if missing:
            raise RunError(f"{path} is not a complete run directory: {' and '.join(missing)} missing; train anew")
        return cls(path, read_json(path / RECIPE), read_json(path / ENVIRONMENT))

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.resolve().name

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe and settings, as recipe.json holds them."""
        return copy.deepcopy(dict(self._recipe))

    def environment(self) -> dict[str, Any]:
        """Versions, machine, command line, seed and data, as environment.json holds them."""
        return copy.deepcopy(dict(self._environment))

    # What grows while the training goes on

    def log(self, record: Mapping[str, Any]) -> None:
        """None; adds one line to metrics.jsonl and brings it to the disk.

        Raises:
            RunError: the run is finished, or the line cannot be written; earlier lines stay as they are.
        """
        self._begin_writing()
        append_line(self.path / METRICS, record)

    def history(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl so far, the oldest first; a half-written last line does not count.

        Raises:
            RunError: it is damaged, or missing although the run is finished.
        """
        if self.finished and not storage.seal_of(self.path / METRICS).exists():
            raise RunError(f"{self.path} is finished, but {METRICS}.sha256 is missing; restore it from a copy")
        return read_lines(self.path / METRICS)

    def truncate_history(self, epochs: int) -> None:
        """None; drops the records of epochs after `epochs` (the first is 1), which a resumed training will write again.

        Raises:
            RunError: the run is finished, or the file is damaged or cannot be written.
        """
        self._begin_writing()
        records = self.history()
        kept = [record for record in records if record.get("epoch", 0) <= epochs]
        if len(kept) < len(records):
            write_lines(self.path / METRICS, kept)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """None; replaces checkpoint.pt; the last one stays until this one is whole on the disk.

        Raises:
            RunError: the run is finished, the state holds what would not load safely, or it cannot be written.
        """
        self._begin_writing()
        storage.save(state, self.path / CHECKPOINT)

    def load_checkpoint(self) -> dict[str, Any]:
        """The state that `save_checkpoint` was given last, on the CPU.

        Raises:
            RunError: there is none, it is damaged, or it holds code.
        """
        self._require(CHECKPOINT, "the run stopped before its first checkpoint; train anew")
        state = storage.load_checkpoint(self.path / CHECKPOINT)
        if not isinstance(state, dict):
            raise RunError(f"{self.path / CHECKPOINT} must hold a dict, got a {type(state).__name__}; train anew")
        return state

    @property
    def checkpoint_exists(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return (self.path / CHECKPOINT).exists()

    # What is left at the end

    def save_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """None; writes model.safetensors, atomically.

        Raises:
            RunError: it cannot be written.
        """
        storage.save_weights(state_dict, self.path / WEIGHTS)
        self._model = None

    def weights(self) -> dict[str, Tensor]:
        """The state dict in model.safetensors, on the CPU.

        Raises:
            RunError: there is none, or it is damaged.
        """
        self._require(WEIGHTS, f"the run has not finished; go on with `byhand resume {self.path}`")
        return storage.load_run_weights(self.path / WEIGHTS)

    def finish(self, result: Mapping[str, Any]) -> None:
        """None; seals metrics.jsonl with its sha256, then writes result.json, the last file of a run.

        Raises:
            RunError: they cannot be written.
        """
        write_lines(self.path / METRICS, self.history(), sealed=True)
        write_json(self.path / RESULT, result)

    def result(self) -> dict[str, Any] | None:
        """What `finish` was given; None while the run has not finished.

        Raises:
            RunError: result.json is damaged.
        """
        return read_json(self.path / RESULT) if self.finished else None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / RESULT).exists()

    # The trained network

    def model(self) -> nn.Module:
        """The network of recipe.json with the weights of model.safetensors, on the CPU, in evaluation mode.

        recipe["network"] is {"name": ..., "options": {...}}, which `byhand.models.build` takes. torch's global
        generator is left as it was.

        Raises:
            RunError: no weights, damaged weights, or those of another network.
        """
        from byhand.models import build

        state = self.weights()
        network = self._recipe.get("network")
        if not isinstance(network, dict) or "name" not in network:
            raise RunError(f'{self.path / RECIPE} names no network; it must have "network": {{"name": ...}}')
        with torch.random.fork_rng(devices=[]):  # building draws an initialisation, which is overwritten at once
            try:
                model = build(network["name"], **(network.get("options") or {}))
            except TypeError as error:
                raise RunError(f"{self.path / RECIPE}: network {network['name']!r} cannot be built: {error}") from None
        _check_same_network(model, state, self.path / WEIGHTS, str(network["name"]))
        model.load_state_dict(state)
        return model.eval()

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 images (N, C, H, W) of the data set as the float32 batch that the network takes; on the same device.

        recipe["preparation"] is {"size": pixels or null, "fit": "resize", "pad" or null, "mean": ..., "std": ...}, see
        `byhand.data.preparation`; a regression's features come back as they are.

        Raises:
            ShapeError: images of a shape that cannot be made to fit.
            RunError: recipe.json holds no such preparation.
        """
        from byhand.data.preparation import Preparation

        try:
            preparation = Preparation.of(self._recipe.get("preparation"))
        except (TypeError, SettingsError) as error:
            raise RunError(f'{self.path / RECIPE}: "preparation" cannot be used: {error}') from None
        return preparation(images)

    def logits(self, images: Tensor, batch_size: int = 250) -> Tensor:
        """What the network says of images as the data set holds them, (N, C, H, W) uint8 -> (N, num_classes) float32.

        A regression takes features (N, d) and gives values (N, 1). Computed on the images' device, in batches, without
        gradients; the network is loaded once.

        Raises:
            SettingsError: batch_size under 1.
            RunError, ShapeError: as `model` and `prepare`.
        """
        if batch_size < 1:
            raise SettingsError(f"batch_size={batch_size} must be at least 1")
        if self._model is None:
            self._model = self.model()
        model = self._model.to(images.device)
        with torch.no_grad():
            return torch.cat([model(self.prepare(batch)) for batch in images.split(batch_size)])

    def predict(self, images: Tensor) -> Tensor:
        """The softmax of `logits`: the probability of each class, (N, num_classes); of a regression the values.

        Raises:
            RunError, ShapeError: as `logits`.
        """
        logits = self.logits(images)
        return logits if self._recipe.get("task") == "regression" else logits.softmax(1)

    def _begin_writing(self) -> None:
        """Nothing; the first time, mends what a killed process left. Only a writer may do that: a reader would sweep
        the files that the writer is just about to rename."""
        if self.finished:
            raise RunError(f"{self.path} is finished; train anew to get another run")
        if not self._writing:
            storage.sweep(self.path)
            open_lines(self.path / METRICS)
            self._writing = True

    def _require(self, name: str, hint: str) -> None:
        if not (self.path / name).exists():
            raise RunError(f"{self.path} has no {name}: {hint}")


def _label(recipe: Mapping[str, Any]) -> str:
    """RECIPE-PLAN-sSEED, of letters that any file system takes."""
    name = recipe.get("recipe") or recipe.get("name") or "run"
    seed = recipe.get("seed", (recipe.get("settings") or {}).get("seed", 0))
    parts = [str(name), str(recipe.get("plan") or "custom"), f"s{seed}"]
    return re.sub(r"[^\w.-]+", "-", "-".join(parts))[:100]


def _make_directory(runs_dir: Path, name: str) -> Path:
    """The path of a directory that this call, and no other process, has just made."""
    number = 1
    while True:
        path = runs_dir / (name if number == 1 else f"{name}-{number}")
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not runs_dir.is_dir():
                raise RunError(f"{runs_dir} is a file; give a directory for runs with --runs-dir") from None
            number += 1
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"cannot make {path}: {reason}; check the permissions or give another --runs-dir") from None
        else:
            return path


def _nearest(path: Path) -> str:
    """What to say of a run that is not there: the most like it beside it, if any is."""
    parent = path.parent
    names = [entry.name for entry in parent.iterdir() if (entry / RECIPE).exists()] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    return f"; did you mean {parent / near[0]}?" if near else "; `byhand train` makes one in runs/"


def _check_same_network(model: nn.Module, state: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Nothing; raises RunError, in one line, when the weights' names or shapes are not those of the model."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} is {_by(state[key])} for {_by(own[key])}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    said = [
        f"{what} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen:", misshapen))
        if keys
    ]
    if said:
        raise RunError(f"{path} holds the weights of another network than {name!r}: {'; '.join(said)}")


def _by(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
