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
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from byhand.data.detection import DetectionDataset
from byhand.data.preparation import Preparation
from byhand.errors import RunError, SettingsError, unknown_name
from byhand.models.receptive import receptive_fields
from byhand.plots import PICTURES
from byhand.plots.canvas import as_array
from byhand.plots.curves import accuracy_curve, loss_curve
from byhand.plots.focus import Focus, check_focus, class_index, images_of, pictures_for
from byhand.plots.gradcam import grad_cam, heat_over_images
from byhand.plots.inside import convolutions, layer_outputs, named_layer, weight_of, weighted
from byhand.plots.language import class_words, known_language, word, writable_language
from byhand.plots.layers import feature_maps, filters, layer_maps, weight_matrix
from byhand.plots.predictions import confusion_matrix, predicted_against_true, worst_mistakes
from byhand.plots.receptive import chosen_fields, effective_fields, receptive_fields_figure

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset
    from byhand.runs.run import Run
    from byhand.training.detection_measures import Precision

DPI = 120
MOST_SHOWN = 10  # images of a data set that are drawn where none are asked for
MOST_LAYERS = 16  # of a network one under the other
MOST_SEEN = 32  # images over which a measured receptive field is the mean


def figures_of(
    run: "Run",
    dataset: "Dataset | DetectionDataset",
    lang: str = "en",
    only: Iterable[str] | None = None,
    focus: Focus | None = None,
    measured: "Precision | None" = None,
) -> dict[str, Figure]:
    """The pictures that suit the run, by name: of a regression loss and predictions, of a classification those from the
    accuracy to the receptive fields, of a detector the loss and those from the anchors on.

    `dataset`: the run's own, for its test set; `only`: the names wanted, of `PICTURES`; `focus`: what those of them
    that can be are pointed at, and with no names wanted those that can be pointed at all of it, of which the unfit are
    left out with a warning; `measured`: a detector's measures on the test set, where they are known already.

    Raises:
        UnknownName: an unknown language, picture, layer or class.
        SettingsError: a picture that does not suit this run; a focus that none of the pictures takes.
        DataError: an image that there is not, or that cannot be read.
    """
    return dict(drawn(run, dataset, lang, only, focus or Focus(), measured))


def save_figures(
    run: "Run",
    dataset: "Dataset | DetectionDataset",
    lang: str = "en",
    only: Iterable[str] | None = None,
    focus: Focus | None = None,
    measured: "Precision | None" = None,
) -> list[Path]:
    """The PNG files of the run's pictures, written to `figures/<name>.png` in its directory.

    With a focus its parts stand behind the name, as in `filters-layer2.0.conv1.png`. Each file is
    complete or absent: it is written beside its place and renamed. Arguments and errors as `figures_of`.

    Raises:
        RunError: a directory that cannot be written to.
    """
    focus = focus or Focus()
    paths = []
    for name, figure in drawn(run, dataset, lang, only, focus, measured):
        paths.append(write_figure(figure, Path(run.path) / "figures" / f"{focus.file_name(name)}.png"))
    return paths


def drawn(
    run: "Run",
    dataset: "Dataset | DetectionDataset",
    lang: str,
    only: Iterable[str] | None,
    focus: Focus,
    measured: "Precision | None",
) -> Iterator[tuple[str, Figure]]:
    """Each picture wanted, drawn when asked for; of those that a focus implies the unfit left out with a warning."""
    found = drawings(run, dataset, lang, only, focus, measured)
    implied = only is None and bool(focus.given())
    if implied and not found:
        what = " and ".join(f"{name}={value!r}" for name, value in focus.given().items())
        raise SettingsError(f"{what} is for {', '.join(pictures_for(focus))}; this run has none of them")
    unfit: dict[str, SettingsError] = {}
    for name, draw in found.items():
        try:
            figure = draw()
        except SettingsError as error:
            if not implied:
                raise
            unfit[name] = error
        else:
            yield name, figure
    if unfit:
        if len(unfit) == len(found):
            raise next(iter(unfit.values()))
        told = "; ".join(f"{name} ({error})" for name, error in unfit.items())
        warnings.warn(f"left out: {told}", stacklevel=2)


def drawings(
    run: "Run",
    dataset: "Dataset | DetectionDataset",
    lang: str,
    only: Iterable[str] | None,
    focus: Focus,
    measured: "Precision | None" = None,
) -> dict[str, Callable[[], Figure]]:
    """For each picture wanted the function that draws it, with every name checked before anything is computed."""
    known_language(lang)
    names = [picture.name for picture in PICTURES]
    wanted = pictures_for(focus) if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in names:
            raise unknown_name("picture", name, names)
    if only is not None:
        check_focus(focus, wanted)

    recipe = run.recipe()
    if isinstance(dataset, DetectionDataset):
        from byhand.plots.detector import detector_drawings

        found = {"loss": lambda: loss_curve(run.history(), lang)}
        found |= detector_drawings(run, dataset, lang, focus, measured, wanted if only is not None else None)
        return _of_those_asked(found, wanted, only, recipe)
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
        if focus.layer is not None:
            weight = weight_of(model(), focus.layer)
            if weight.ndim == 2 and weight is not next(iter(weighted(model()))):
                return weight_matrix(as_array(weight).astype(float), writable_language(lang), focus.layer)
            if weight.ndim == 4:
                return filters(weight, lang, layer=focus.layer)
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
            possible["features"] = lambda: features(run, model(), dataset, lang, focus)
            asked = {"gradcam", "receptive"} & set(wanted)
            if images.ndim == 4 and (not asked or focus.layer is not None or convolutions(model())):
                possible["gradcam"] = lambda: activations(run, model(), dataset, lang, focus)
                possible["receptive"] = lambda: fields(run, model(), images, lang, focus)
    return _of_those_asked(possible, wanted, only, recipe)


def _of_those_asked(
    possible: dict[str, Callable[[], Figure]],
    wanted: Sequence[str],
    only: Iterable[str] | None,
    recipe: Mapping[str, Any],
) -> dict[str, Callable[[], Figure]]:
    """The drawings that are wanted; a SettingsError for one asked for by its name that does not suit the run."""
    unsuited = [name for name in wanted if name not in possible]
    if only is not None and unsuited:
        raise SettingsError(
            f"picture {unsuited[0]!r} does not suit this {recipe.get('task')} run; it has: {', '.join(possible)}"
        )
    return {name: possible[name] for name in wanted if name in possible}


def features(run: "Run", model: torch.nn.Module, dataset: "Dataset", lang: str, focus: Focus | None = None) -> Figure:
    """The layers' outputs for one image, by default the first test image, with the predicted class above.

    Of a network of more than 16 layers 16 are shown, evenly spread from the first to the last; ``focus.layer`` names
    any other.

    Raises:
        SettingsError: more than one image.
    """
    lang = writable_language(lang)
    focus = focus or Focus()
    if len(focus.images) > 1:
        raise SettingsError(f"images={list(focus.images)}: features are drawn of one image; give one")
    (shown,) = images_of(run, dataset, focus.images or (0,))
    maps, output = layer_outputs(model, run.prepare(shown.image), lang, focus.layer)
    probabilities = output[0].double().softmax(-1)
    names = class_words(dataset.class_names, len(probabilities), lang)
    title = word(
        "features_title_class" if shown.label is not None else "features_title_file",
        lang,
        true=shown.name if shown.label is None else names[shown.label],
        predicted=names[int(probabilities.argmax())],
        share=f"{float(probabilities.max()):.1%}",
    )
    class_names = dataset.class_names if focus.layer is None else ()
    if focus.layer is not None:
        return layer_maps(shown.image[0], *maps[-1], lang, class_names, title)
    return feature_maps(shown.image[0], spread(maps, MOST_LAYERS), lang, class_names, title)


def spread(entries: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the entries, evenly spread, the first and the last among them."""
    if len(entries) <= most:
        return list(entries)
    return [entries[round(number * (len(entries) - 1) / (most - 1))] for number in range(most)]


def activations(run: "Run", model: torch.nn.Module, dataset: "Dataset", lang: str, focus: Focus) -> Figure:
    """Grad-CAM over the images asked for; else over the first test image of each class, ten at most."""
    lang = writable_language(lang)
    label = None if focus.label is None else class_index(focus.label, dataset.class_names)
    wanted = focus.images
    if not wanted:
        labels = dataset.test_labels.tolist()
        wanted = [labels.index(one) for one in sorted(set(labels))[:MOST_SHOWN]]
    shown = images_of(run, dataset, wanted)
    images = torch.cat([one.image for one in shown])
    found = grad_cam(model, run.prepare(images), focus.layer, label)
    names = class_words(dataset.class_names, int(dataset.test_labels.max()) + 1, lang)
    titles = [one.name if one.label is None else word("cam_true", lang, name=names[one.label]) for one in shown]
    as_seen = Preparation.of(run.recipe().get("preparation")).fitted(images)
    return heat_over_images(as_seen, found, found.layer, dataset.class_names, titles, lang)


def fields(run: "Run", model: torch.nn.Module, images: torch.Tensor, lang: str, focus: Focus) -> Figure:
    """Receptive fields of the layer asked for, or of layers from the first to the last, measured on test images."""
    batch = run.prepare(images[:MOST_SEEN])
    if focus.layer is not None:
        named_layer(model, focus.layer)
    chosen = chosen_fields(receptive_fields(model, batch.shape[1:]), focus.layer)
    if not chosen:
        raise SettingsError(f"layer {focus.layer!r} has no receptive field of its own; name a layer within it")
    return receptive_fields_figure(chosen, effective_fields(model, batch, [field.name for field in chosen]), lang)


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
            f"cannot write {path}: {error.strerror or error}; free the disk or write into another directory"
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
