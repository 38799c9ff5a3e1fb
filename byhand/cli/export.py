"""`byhand export`."""

from pathlib import Path
from typing import Annotated

import typer

from byhand.cli.options import Json, RunPath
from byhand.cli.output import emit


def export(
    run: RunPath,
    to: Annotated[
        str | None, typer.Option(help="onnx or safetensors; unless given, as the ending of the file says.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; in the run directory unless given.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's network for other programs."""
    from byhand.runs.export import export as write
    from byhand.runs.run import Run

    path = write(Run.open(run), to, output)
    emit({"format": path.suffix[1:], "path": str(path)}) if as_json else typer.echo(path)
