"""All pictures of a run: which ones suit it, drawn, saved into its directory, and shown where there is a display."""

import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from byhand.errors import RunError, SettingsError, unknown_name
from byhand.plots import PICTURES
from byhand.plots.curves import accuracy_curve, loss_curve
from byhand.plots.language import class_words, known_language, layer_word, word, writable_language
from byhand.plots.layers import feature_maps, filters
from byhand.plots.predictions import confusion_matrix, predicted_against_true, worst_mistakes

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset
    from byhand.runs.run import Run

DPI = 120
UNCHANGED = {"Flatten", "Unflatten", "Identity", "Dropout"}  # layers that make nothing new of an image in evaluation


def figures_of(
    run: "Run", dataset: "Dataset", lang: str = "en", only: Iterable[str] | None = None
) -> dict[str, Figure]:
    """The pictures that suit the run, by name: a regression's loss and predictions, a classification's all others.

    `dataset`: the run's own, for its test set; `only`: the names wanted, of `PICTURES`.

    Raises:
        UnknownName: an unknown language or picture.
        SettingsError: a picture that does not suit this run.
    """
    return {name: draw() for name, draw in drawings(run, dataset, lang, only).items()}


def save_figures(run: "Run", dataset: "Dataset", lang: str = "en", only: Iterable[str] | None = None) -> list[Path]:
    """The PNG files of the run's pictures, written to `figures/<name>.png` in its directory.

    Each file is complete or absent: it is written beside its place and renamed. Arguments and errors as `figures_of`.

    Raises:
        RunError: a directory that cannot be written to.
    """
    paths = []
    for name, draw in drawings(run, dataset, lang, only).items():
        paths.append(write_figure(draw(), Path(run.path) / "figures" / f"{name}.png"))
    return paths


def drawings(run: "Run", dataset: "Dataset", lang: str, only: Iterable[str] | None) -> dict[str, Callable[[], Figure]]:
    """For each picture wanted the function that draws it, with every name checked before anything is computed."""
    known_language(lang)
    names = [picture.name for picture in PICTURES]
    wanted = names if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in names:
            raise unknown_name("picture", name, names)

    recipe = run.recipe()
    regression = recipe.get("task") == "regression"
    images, labels = dataset.test_images, dataset.test_labels
    class_names = () if regression else dataset.class_names

    @functools.cache
    def logits() -> torch.Tensor:
        return run.logits(images).detach().cpu()

    def accuracy() -> Figure:
        reported = (recipe.get("reported") or {}).get("accuracy")
        reached = (run.result() or {}).get("accuracy")  # an unfinished run has no result yet
        if (recipe.get("settings") or {}).get("hold_out"):
            reached = None  # measured on held-out images, whose curve is drawn; not on the test set
        return accuracy_curve(run.history(), lang, reported, reached)

    @functools.cache
    def model() -> torch.nn.Module:
        return run.model()

    def templates() -> Figure:
        weights = list(weighted(model()))
        rows = weights[0].ndim == 2
        # With one layer from image to classes the templates are the classes'; deeper, units have no names.
        names = class_names if rows and len(weights) == 1 else ()
        fits = rows and images.ndim == 4 and weights[0].shape[1] == images[0].numel()
        channels, height, width = images.shape[1:] if fits else (0, 0, 0)
        return filters(weights[0], lang, names, (channels, height, width) if fits else None)

    possible: dict[str, Callable[[], Figure]] = {"loss": lambda: loss_curve(run.history(), lang)}
    if regression:
        possible["predicted"] = lambda: predicted_against_true(logits(), labels, lang)
    else:
        possible["accuracy"] = accuracy
        if len(images):
            possible["confusion"] = lambda: confusion_matrix(logits().argmax(1), labels, class_names, lang)
            possible["mistakes"] = lambda: worst_mistakes(images, logits(), labels, class_names, lang)
            if "filters" not in wanted or any(True for _ in weighted(model())):  # the weights are read only if needed
                possible["filters"] = templates
            possible["features"] = lambda: features(run, model(), dataset, lang)
    unsuited = [name for name in wanted if name not in possible]
    if only is not None and unsuited:
        raise SettingsError(
            f"picture {unsuited[0]!r} does not suit this {recipe.get('task')} run; it has: {', '.join(possible)}"
        )
    return {name: possible[name] for name in wanted if name in possible}


def features(run: "Run", model: torch.nn.Module, dataset: "Dataset", lang: str) -> Figure:
    """Every layer's output for the first test image, with the true and the predicted class above."""
    lang = writable_language(lang)
    image = dataset.test_images[:1]
    maps, output = layer_outputs(model, run.prepare(image), lang)
    probabilities = output[0].double().softmax(-1)
    names = class_words(dataset.class_names, len(probabilities), lang)
    title = word(
        "features_title_class",
        lang,
        true=names[int(dataset.test_labels[0])],
        predicted=names[int(probabilities.argmax())],
        share=f"{float(probabilities.max()):.1%}",
    )
    return feature_maps(image[0], maps, lang, dataset.class_names, title)


def layer_outputs(
    model: torch.nn.Module, batch: torch.Tensor, lang: str = "en"
) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor]:
    """What each innermost layer puts out for a batch of one, in the order of the forward, and the model's own output.

    Each as (the layer's path and kind, tensor without the batch axis); layers that only pass on what they get are left
    out.
    """
    outputs: list[tuple[str, torch.Tensor]] = []

    def recorder(path: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def record(layer: torch.nn.Module, _: Any, output: Any) -> None:
            kind = type(layer).__name__
            if isinstance(output, torch.Tensor) and kind not in UNCHANGED:
                name = f"{path} {layer_word(kind, lang)}".strip()
                # a following in-place layer would overwrite what was recorded
                outputs.append((name, output[0].detach().cpu().clone()))

        return record

    leaves = [(path, layer) for path, layer in model.named_modules() if not any(layer.children())]
    hooks = [layer.register_forward_hook(recorder(path)) for path, layer in leaves]
    try:
        with torch.no_grad():
            parameter = next(model.parameters(), None)
            output = model(batch if parameter is None else batch.to(parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, output.detach().cpu()


def weighted(model: torch.nn.Module) -> Iterable[torch.Tensor]:
    """The weights of the convolutions and linear layers, (O, C, k, k) or (O, D), in the model's order."""
    return (weight for weight in model.parameters() if weight.ndim in (2, 4))


def write_figure(figure: Figure, path: Path) -> Path:
    """The path, after the figure stands there as a complete PNG.

    Raises:
        RunError: a directory that cannot be written to.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(picture.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free the disk or choose another --runs-dir"
        ) from error
    return path


def show(paths_or_figures: Iterable[Path | str | Figure] | Path | str | Figure) -> None:
    """Open each picture in the desktop's own viewer, or say in one line on stderr where the files are.

    Returns at once; the viewer is a process of its own. Figures are first saved to a new temporary directory. Any
    failure to open a window ends in the line on stderr, never in an exception.
    """
    items = [paths_or_figures] if isinstance(paths_or_figures, (str, Path, Figure)) else list(paths_or_figures)
    if not items:
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix="byhand-")) if any(isinstance(item, Figure) for item in items) else Path()
        paths = [
            write_figure(item, folder / f"{number}.png") if isinstance(item, Figure) else Path(item)
            for number, item in enumerate(items, start=1)
        ]
    except (OSError, RunError) as error:
        print(f"cannot show the pictures: {error}", file=sys.stderr)
        return
    if not open_viewer(paths):
        places = str(paths[0]) if len(paths) == 1 else ", ".join(dict.fromkeys(str(path.parent) for path in paths))
        print(f"no display to show the pictures on; they are in {places}", file=sys.stderr)


def open_viewer(paths: list[Path]) -> bool:
    """True where the desktop has a viewer and it was started on every path."""
    try:
        if sys.platform == "win32":
            for path in paths:
                os.startfile(path)
            return True
        if sys.platform == "darwin":
            commands = [["open", *map(str, paths)]]
        elif os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            commands = [["xdg-open", str(path)] for path in paths]
        else:
            return False
        if shutil.which(commands[0][0]) is None:
            return False
        for command in commands:
            nowhere = subprocess.DEVNULL
            viewer = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
            threading.Thread(target=viewer.wait, daemon=True).start()  # or it would stay as a zombie
        return True
    except OSError:
        return False
