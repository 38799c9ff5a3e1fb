"""`byhand bench`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byhand.cli.options import DataDir, Json
from byhand.cli.output import emit, table

if TYPE_CHECKING:
    from byhand.bench.conditions import Conditions

PARTS_HELP = "machine, steps, epochs, peers, start, memory, inference, gpu; all of them unless given."


def bench(
    parts: Annotated[list[str] | None, typer.Argument(metavar="[PART...]", help=PARTS_HELP)] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Time to 0.99 on MNIST and to 0.90 on Fashion-MNIST, five seeds.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="On a few made images, only to show that it works; no goal is judged.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often each side runs, in turn; 3 unless given, 1 if quick.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; as torch finds them unless given.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure byhand on this machine beside other ways to train the same networks.

    Both sides of a ratio run in turn, and the ratio is that of their medians; behind a median stand the least and the
    most of the rounds. Run it on an otherwise idle machine. A goal that is missed is shown and is no error: the exit
    code is 0 unless something fails.
    """
    from byhand.bench import parts as known

    for part in parts or ():
        known.check(part)
    chosen = parts or (() if record else known.PARTS)

    import torch

    from byhand.bench.conditions import Conditions, make_data

    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="byhand-bench-") as folder:
        conditions = Conditions(
            rounds=rounds or (1 if quick else 3),
            quick=quick,
            threads=torch.get_num_threads(),
            data_dir=make_data(Path(folder)) if quick else data_dir,
        )
        _measure(chosen, record, conditions, as_json)


def _measure(chosen: Any, record: bool, conditions: "Conditions", as_json: bool) -> None:
    from byhand.bench import other_sides, parts
    from byhand.bench.machine import receipt
    from byhand.bench.record import run as run_record
    from byhand.bench.row import COLUMNS

    told = receipt(conditions)
    emit({"part": "receipt", **told}) if as_json else typer.echo(_heading(told))
    if other_sides.folder() is None:
        typer.echo(f"{other_sides.NOT_AT_HAND}; without it the other side is left out", err=True)
    for part in chosen:
        title, rows = parts.title(part), []
        typer.echo(f"measuring: {title}", err=True)
        for row in parts.run(part, conditions):
            rows.append(row)
            if as_json:
                emit({"part": part, **row.record()})
        if not as_json:
            table(COLUMNS, [row.cells() for row in rows], title)
            for row in rows:
                if row.note:
                    typer.echo(f"  {row.measure}: {row.note}")
            typer.echo()
    if record:
        typer.echo("measuring: the record", err=True)
        for found in run_record(conditions):
            emit({"part": "record", **found}) if as_json else _show_record(found)


def _heading(told: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    quick = "; quick: the sizes are so small that the times say nothing" if told["quick"] else ""
    names = ("cores", "threads", "rounds")
    counts = ", ".join(f"{told[name]} {name if told[name] != 1 else name[:-1]}" for name in names)
    return f"{told['cpu']}, {counts}; {versions}{quick}"


def _show_record(found: dict[str, Any]) -> None:
    columns = ("seed", "accuracy", "seconds")
    title = f"{found['dataset']} to {found['to']}: {found['recipe']}, plan {found['plan']}, {found['epochs']} epochs"
    rows = [(one["seed"], one["accuracy"], one["seconds"]) for one in found["seeds"]]
    table(columns, [*rows, ("mean", found["accuracy"], found["seconds"])], title, numbers=2)
    told = found["receipt"]
    typer.echo(f"{found['seconds']:.3f} ± {found['seconds_stdev']:.3f} s from the read data to the final test")
    typer.echo(f"command: {told['command']}\n{_heading(told)}")
    for name, digest in told["data"]["sha256"].items():
        typer.echo(f"{digest}  {name}")
