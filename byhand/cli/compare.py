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
    columns = [
        name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("settings", "finished")
    ]
    differing = list(rows[0]["settings"]) if rows else []
    cells = [
        [*(row.get(column) for column in columns), *(row["settings"].get(name) for name in differing)] for row in rows
    ]
    table([*columns, *differing], cells)
    for row in rows:
        if not row["finished"]:
            typer.echo(f"{row['name']} is not finished; its numbers are those of its last epoch")
