"""`byhand compare`."""

from pathlib import Path
from typing import Annotated

import typer

from byhand.cli.options import Json
from byhand.cli.output import emit, table


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    as_json: Json = False,
) -> None:
    """Set several runs side by side: results, and the settings in which they differ."""
    from byhand.runs.compare import compare as rows_of

    rows = rows_of(runs)
    if as_json:
        for row in rows:
            emit(row)
        return
    measures = dict.fromkeys(key for row in rows for key in row if key not in ("name", "settings", "finished"))
    lines = [(key.replace("_", " "), *(row.get(key) for row in rows)) for key in measures]
    lines += [(name, *(row["settings"].get(name) for row in rows)) for name in rows[0]["settings"]]
    table(("run", *(row["name"] for row in rows)), lines, numbers=len(rows))
    for row in rows:
        if not row["finished"]:
            typer.echo(f"{row['name']} is not finished; its numbers are those of its last epoch")
