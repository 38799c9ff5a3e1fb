"""`byhand detect`."""

from pathlib import Path
from typing import Annotated

import typer

from byhand.cli.options import Json, Lang, RunPath, Show, check_language
from byhand.cli.output import emit


def detect(
    run: RunPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG or JPEG of any size and colour.")],
    threshold: Annotated[float, typer.Option(help="Least score, 0 to 1, of what is drawn and named.")] = 0.5,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results; `detections` in the run directory unless given.")
    ] = None,
    lang: Lang = "en",
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Find objects in pictures with a run's detector: a picture of each, and all detections as JSON.

    detections.json is in COCO's result format: boxes as x, y, width, height in the picture's pixels,
    masks as run lengths.
    """
    check_language(lang)
    from byhand.detect import detect_files
    from byhand.runs.run import Run

    answers = detect_files(Run.open(run), images, output, threshold, lang)
    for answer in answers:
        if as_json:
            emit(answer)
            continue
        words = ", ".join(f"{one['name']} {one['score']:.2f}" for one in answer["objects"])
        typer.echo(f"{answer['image']}: {words or f'nothing with a score of {threshold:g} or more'}")
        typer.echo(f"  picture: {answer['picture']}")
    if not as_json:
        typer.echo(f"all detections: {answers[0]['results']}")
    if show:
        from byhand import plots

        plots.show([answer["picture"] for answer in answers])
