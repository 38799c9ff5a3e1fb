"""A trained network as one file for other programs: ONNX to run it anywhere, safetensors for its weights alone."""

import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from byhand.errors import RunError, SettingsError, unknown_name
from byhand.models import network
from byhand.runs import run as files
from byhand.runs.run import Run
from byhand.runs.storage import write_atomically

FORMATS = ("onnx", "safetensors")


def export(run: Run, to: str | None = None, path: str | os.PathLike[str] | None = None) -> Path:
    """The path of the file now written, atomically; without ``path`` it is RECIPE.onnx or so in the run directory.

    Without ``to`` the ending of ``path`` says the format, .onnx or .safetensors; else it is safetensors.

    Both formats carry as metadata, each value as JSON: network (its name), options (its arguments), preparation (what
    makes an image of the data set a float batch), class_names, recipe and byhand (the version).

    "onnx" takes "image", float32 (batch, C, H, W) as ``run.prepare`` gives it, or (batch, d) features of a regression,
    and gives "logits", float32 (batch, num_classes), or a regression's values; batch may be any number.
    "safetensors" holds the state dict.

    Args:
        path: a file, or a folder that exists, in which the file gets its usual name.

    Raises:
        UnknownName: ``to`` is not in FORMATS.
        SettingsError: ``path`` has the ending of another format than ``to``.
        RunError: the run has no good weights, the file cannot be written or would replace one of the run's own, or
            the packages for ONNX are missing.
    """
    ending = None if path is None else Path(path).suffix.lower().removeprefix(".")
    if to is None:
        to = ending if ending in FORMATS else "safetensors"
    if to in FORMATS and ending in FORMATS and ending != to:
        raise SettingsError(f"{path} ends in .{ending}, and the format is {to}; change one of them")
    if to not in FORMATS:
        raise unknown_name("export format", to, FORMATS)
    target = _target(run, to, path)
    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in _facts(run).items()}
    model = run.model()
    if to == "safetensors":
        # Tensors that share memory are stored once for each name: safetensors has no aliases.
        state = {key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()}
        data = safetensors.torch.save(state, {"format": "pt"} | metadata)
    else:
        data = _onnx(model, _example(run), metadata)
    write_atomically(target, data)
    return target


def _target(run: Run, to: str, path: str | os.PathLike[str] | None) -> Path:
    """Where the file goes."""
    recipe = run.recipe()
    usual = re.sub(r"[^\w.-]+", "-", str(recipe.get("recipe") or recipe.get("name") or "network")) + f".{to}"
    target = run.path if path is None else Path(path)
    if target.is_dir():
        target = target / usual
    own = (files.RECIPE, files.ENVIRONMENT, files.METRICS, files.CHECKPOINT, files.WEIGHTS, files.RESULT)
    # Also on a file system that holds Model.safetensors and model.safetensors for the same.
    name = target.name.lower().removesuffix(".sha256")
    if name in own and target.parent.resolve() == run.path.resolve():
        raise RunError(f"{target} is one of the run's own files and would be lost; give another path")
    return target


def _facts(run: Run) -> dict[str, Any]:
    from byhand import __version__

    recipe = run.recipe()
    built = recipe.get("network") or {}
    return {
        "network": built.get("name"),
        "options": built.get("options") or {},
        "preparation": recipe.get("preparation"),
        "class_names": recipe.get("class_names") or [],
        "recipe": recipe.get("recipe") or recipe.get("name"),
        "byhand": __version__,
    }


def _example(run: Run) -> Tensor:
    """A float batch of two that the network takes; of one, torch.export would fix the size."""
    recipe = run.recipe()
    shape = recipe.get("input_shape")
    if not shape:
        return torch.zeros(2, *network(recipe["network"]["name"]).input_shape)
    dtype = torch.float32 if recipe.get("task") == "regression" else torch.uint8
    return run.prepare(torch.zeros(2, *shape, dtype=dtype))


def _onnx(model: nn.Module, example: Tensor, metadata: dict[str, str]) -> bytes:
    """The ONNX file's bytes."""
    _require_onnx()
    import onnx

    try:
        with _silence():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
            assert program is not None  # it is for dynamo=False only
            proto = program.model_proto
    except Exception as error:  # torch's exporter raises its own kinds, and those of every stage it runs
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise RunError(f"torch cannot export this network to ONNX ({reason}); try --to safetensors") from error
    _forget_origin(proto)
    onnx.helper.set_model_props(proto, metadata)
    return proto.SerializeToString(deterministic=True)


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f'export to ONNX needs {" and ".join(missing)}; pip install "byhand[onnx]"')


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """torch's exporter prints and logs what it does, and warns of packages that it does not need here."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _forget_origin(proto: Any) -> None:
    """None; takes out what the exporter notes of each node, such as stack traces with the paths of this machine."""
    for owner in (proto.graph, *proto.functions):
        for part in (owner, *owner.node, *owner.value_info):
            del part.metadata_props[:]
            part.doc_string = ""
    for part in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
