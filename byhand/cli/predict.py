"""`byhand predict`."""

from pathlib import Path
from typing import Annotated

import typer

from byhand.cli.options import Json, RunPath
from byhand.cli.output import emit


def predict(
    run: RunPath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG or JPEG of any size and colour.")],
    top: Annotated[int, typer.Option(help="How many classes to name.")] = 3,
    as_json: Json = False,
) -> None:
    """Say what a run's network sees in pictures: the most probable classes.

    Each picture is made to fit as the data set's own were: grey, inverted where its ground is white,
    scaled and centred.
    """
    from byhand.jobs import predict_files
    from byhand.runs.run import Run

    for found in predict_files(Run.open(run), images, top):
        if as_json:
            emit(found)
        else:
            words = "   ".join(f"{one['name']} {one['probability']:.4f}" for one in found["top"])
            typer.echo(f"{found['image']}: {words}")
