"""`byhand plot`."""

from typing import Annotated

import typer

from byhand.cli.options import DataDir, Json, Lang, RunPath, Show, check_language
from byhand.cli.output import emit


def plot(
    run: RunPath,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(help="loss, accuracy, predicted, confusion, mistakes, filters, features; all that fit."),
    ] = None,
    lang: Lang = "en",
    show: Show = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Draw a run's pictures into its directory."""
    check_language(lang)
    from byhand import plots
    from byhand.errors import unknown_name

    known = [picture.name for picture in plots.PICTURES]
    for name in pictures or ():
        if name not in known:
            raise unknown_name("picture", name, known)

    from byhand import jobs
    from byhand.runs.run import Run

    opened = Run.open(run)
    only = pictures or None
    if not opened.finished and only is None:  # the others need the final weights
        only = ["loss"] if opened.recipe()["task"] == "regression" else ["loss", "accuracy"]
    paths = plots.save_figures(opened, jobs.dataset_of(opened, data_dir), lang, only)
    for path in paths:
        emit({"picture": path.stem, "path": str(path)}) if as_json else typer.echo(path)
    if show:
        plots.show(paths)
