"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, and nothing else on stdout.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder with the data sets; searched before all other places.")]
RunsDir = Annotated[Path, typer.Option(help="Folder that the run directories are made in.")]
Lang = Annotated[str, typer.Option(help="Language of the pictures: en or zh.")]
Show = Annotated[bool, typer.Option("--show", help="Open the pictures when they are drawn.")]
ByHand = Annotated[
    bool | None,
    typer.Option(
        "--by-hand/--by-library",
        help="Layers, loss and optimizer written by hand (the faster one on a CPU, and the default there), or torch's.",
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def check_language(lang: str) -> None:
    """Raise UnknownName for a language that the pictures do not speak, before any work is done."""
    from byhand.errors import unknown_name
    from byhand.plots import LANGUAGES

    if lang not in LANGUAGES:
        raise unknown_name("language", lang, LANGUAGES)
