"""`byhand data`: what is there; `get` and `check`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from byhand.cli.options import DataDir, Json
from byhand.cli.output import emit, table

app = typer.Typer(help="List the data sets that are there; get or check one.", invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="A name from `byhand list data`.")]


@app.callback()
def status(context: typer.Context, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the data sets: where they are, or that they are missing."""
    if context.invoked_subcommand is not None:
        return
    from byhand import data

    rows = data.status(data_dir)
    if as_json:
        for row in rows:
            emit(row)
        return
    cells = [
        (row["name"], row["state"], ": ".join(str(part) for part in (row["where"], row["note"]) if part), row["bytes"])
        for row in rows
    ]
    table(("data set", "state", "where", "bytes"), cells, numbers=1)


@app.command()
def get(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Download a data set, from the first mirror that answers with the right files."""
    from byhand import data

    with download_progress() as progress:
        path = data.get(name, data_dir, progress=progress)
    emit({"name": name, "path": str(path)}) if as_json else typer.echo(path)


@app.command()
def check(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Read a data set whole and compare its checksums with the published ones."""
    from byhand import data

    rows = data.check(name, data_dir)
    if as_json:
        for row in rows:
            emit({"name": name, **row})
        return
    table(
        ("file", "verdict", "note", "sha256 of the content", "bytes"),
        [(row["file"], row["verdict"], row["note"], row["sha256"], row["bytes"]) for row in rows],
        numbers=1,
    )


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows a download: a bar where there is a terminal, a line a file where there is none."""
    if not sys.stderr.isatty():
        named = set()

        def line(filename: str, done: int, total: int) -> None:
            if filename not in named:
                named.add(filename)
                print(f"downloading {filename} ({total:,} bytes)", file=sys.stderr, flush=True)

        yield line
        return

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, int] = {}

        def bar(filename: str, done: int, total: int) -> None:
            if filename not in tasks:
                tasks[filename] = bars.add_task(filename, total=total or None)
            bars.update(tasks[filename], completed=done)  # type: ignore[arg-type]

        yield bar
