"""What the commands print: tables and lines for a person, or one JSON object a line for a program."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any


class Interrupted(Exception):
    """A command that was interrupted and could still say how to go on; its one line, for exit code 130."""


def emit(record: Any) -> None:
    """Print one JSON object on a line of its own; what is not a finite number becomes null, as JSON has none."""
    text = json.dumps(_strict(record), ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # JSON's own escapes, which also hold the bytes of a path that is no text
        text = json.dumps(_strict(record))
    print(text, flush=True)


def fail(message: str, code: int = 2) -> int:
    """Print an error in one line on stderr; the exit code."""
    print(f"byhand: {one_line(message)}", file=sys.stderr, flush=True)
    return code


def one_line(message: str) -> str:
    """The message in one line; of characters that a terminal would obey, as a file's name may hold, the code."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, numbers: int = 0) -> None:
    """Print a table; the last ``numbers`` columns are set to the right.

    Where the terminal is too narrow, headers are set in several lines and long texts folded, but no name and no number;
    where that is not enough, each row becomes a block of lines.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[cell(value) for value in row] for row in rows]
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width to fold a table to
        console = Console(width=10_000)
    if title:
        console.print(Text(title, style="bold"))
    layout = _layout(columns, cells, console.width)
    if layout is None:
        wide = max(map(len, columns))
        for row in cells:
            console.print()
            for column, text in zip(columns, row, strict=True):
                console.print(Text(f"{column.ljust(wide)}  {text}"))
        console.print()
        return
    headers, widths, gap = layout
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for i, (header, width) in enumerate(zip(headers, widths, strict=True)):
        justify: Any = "right" if i >= len(columns) - numbers else "left"
        grid.add_column(Text(header), justify=justify, width=width, overflow="fold")
    for row in cells:
        grid.add_row(*map(Text, row))
    console.print()
    console.print(grid)
    console.print()


def _layout(columns: Sequence[str], cells: list[list[str]], width: int) -> tuple[Sequence[str], list[int], int] | None:
    """The headers, the width of each column and the gap between them for a table that fits, or None."""
    from rich.cells import cell_len

    def widest(texts: Iterable[str]) -> int:
        return max(map(cell_len, texts), default=0)

    in_lines = [column.replace(" ", "\n").replace("-", "-\n") for column in columns]
    for headers, folding in ((columns, False), (in_lines, False), (in_lines, True)):
        natural = [widest([*headers[i].split("\n"), *(row[i] for row in cells)]) for i in range(len(columns))]
        long = [i for i, wide in enumerate(natural) if folding and i > 0 and wide > 20]
        for gap in (3, 2, 1):
            room = width - gap * (len(columns) - 1) - sum(wide for i, wide in enumerate(natural) if i not in long)
            asked = sum(natural[i] for i in long)
            if room >= asked:
                return headers, natural, gap
            if 2 * room >= asked > 0:  # folded once
                return headers, [room * wide // asked if i in long else wide for i, wide in enumerate(natural)], gap
    return None


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


def bounds(low: float, high: float) -> str:
    """The range of a goal in a few characters; an accuracy ends at 1 and an error begins at 0 by themselves."""
    if high == 1:
        return f"≥ {cell(low)}"
    return f"≤ {cell(high)}" if low == 0 else f"{cell(low)} to {cell(high)}"


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value if value is None or isinstance(value, str | int | bool) else str(value)
