"""`byhand plot`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from byhand.cli.options import DataDir, Json, Lang, RunsDir, Show, check_language
from byhand.cli.output import emit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run directory; or gradient-norms or costs, which need none.")
    ],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            help="loss, accuracy, predicted, confusion, mistakes, filters, features, gradcam, receptive; of detectors "
            "loss, anchors, proposals, matches, detections, roi-grid, precision-recall, ap-iou; all that fit, "
            "with options those that take all of them. Of costs: run directories; those in --runs-dir unless given."
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer for filters, features, gradcam, receptive, such as layer2.0.conv1.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            help="A picture file, or the number of a test image, for features, gradcam and what is drawn of a "
            "detector's image; gradcam and detections take many."
        ),
    ] = None,
    label: Annotated[str | None, typer.Option("--class", help="Class for gradcam; the predicted one.")] = None,
    dataset: Annotated[str, typer.Option(help="Of gradient-norms: the images to train on.")] = "digits",
    depth: Annotated[int, typer.Option(help="Of gradient-norms: the ResNet's, 20, 32, 44, 56 or 110.")] = 56,
    steps: Annotated[int, typer.Option(help="Of gradient-norms: training steps to measure.")] = 30,
    output: Annotated[Path, typer.Option(help="Folder for the pictures that need no run.")] = Path("figures"),
    runs_dir: RunsDir = Path("runs"),
    results_dir: Annotated[Path, typer.Option(help="Of costs: folder of `byhand reproduce`'s records.")] = Path(
        "results"
    ),
    lang: Lang = "en",
    show: Show = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Draw a run's pictures into its directory, or those that need no run into a folder."""
    check_language(lang)
    from byhand import plots
    from byhand.errors import SettingsError, unknown_name

    if run in [picture.name for picture in plots.WITHOUT_RUN] and not Path(run).exists():
        if layer is not None or image or label is not None:
            raise SettingsError(f"--layer, --image and --class are for pictures of a run; {run} takes none of them")
        if run == "costs":
            figure = costs(results_dir, runs_dir, pictures or [], lang)
        elif pictures:
            raise SettingsError(f"{run} is a picture of its own and takes no other: {', '.join(pictures)}")
        else:
            figure = norms(dataset, depth, steps, data_dir, lang)
        paths = [plots.write_figure(figure, output / f"{run}.png")]
    else:
        known = [picture.name for picture in plots.PICTURES]
        for name in pictures or ():
            if name not in known:
                raise unknown_name("picture", name, known)

        from byhand import jobs
        from byhand.runs.run import Run

        opened = Run.open(run)
        only = pictures or None
        focus = plots.Focus(layer, [number_or_path(one) for one in image or ()], label)
        if not opened.finished and only is None:  # the others need the final weights
            only = ["loss", "accuracy"] if opened.recipe()["task"] == "classification" else ["loss"]
        paths = plots.save_figures(opened, jobs.measured_dataset_of(opened, data_dir), lang, only, focus)
    for path in paths:
        emit({"picture": path.stem, "path": str(path)}) if as_json else typer.echo(path)
    if show:
        plots.show(paths)


def costs(results_dir: Path, runs_dir: Path, runs: list[str], lang: str) -> "Figure":
    """The figure of all trained networks."""
    from byhand.plots import accuracy_against_cost
    from byhand.trained import trained_networks

    return accuracy_against_cost(trained_networks(results_dir, runs_dir, runs), lang)


def norms(dataset: str, depth: int, steps: int, data_dir: Path | None, lang: str) -> "Figure":
    """The figure of gradient norms, measured now."""
    from byhand import data
    from byhand.plots import gradient_norm_curves, pairs_measured
    from byhand.plots.language import word, writable_language

    loaded = data.load(dataset, data_dir)
    panels = pairs_measured(loaded, depth, steps, lang=lang)
    title = word("norms_title", writable_language(lang), dataset=loaded.name, steps=steps)
    return gradient_norm_curves(panels, title, lang)


def number_or_path(text: str) -> int | str:
    """A test image's number, or a picture's path; a file of that name comes first."""
    return int(text) if text.isdecimal() and not Path(text).exists() else text
