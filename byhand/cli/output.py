"""What the commands print: tables and lines for a person, or one JSON object a line for a program."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def emit(record: Any) -> None:
    """Print one JSON object on a line of its own; what is not a finite number becomes null, as JSON has none."""
    print(json.dumps(_strict(record), ensure_ascii=False), flush=True)


def fail(message: str, code: int = 2) -> int:
    """Print an error in one line on stderr; the exit code."""
    print(f"byhand: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, numbers: int = 0) -> None:
    """Print a table; the last ``numbers`` columns are set to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i >= len(columns) - numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell(value)) for value in row))
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fold a table to
        console = Console(width=200)
    console.print(grid)


def cell(value: Any) -> str:
    """A value as a table shows it: thousands grouped, four decimals, a dash for what is not there."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
    return str(value)


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)
