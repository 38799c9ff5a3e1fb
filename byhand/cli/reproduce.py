"""`byhand reproduce`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byhand.cli.options import ByHand, DataDir, Json, RunsDir
from byhand.cli.output import Interrupted, emit, table
from byhand.cli.train import place, resume_command

if TYPE_CHECKING:
    from byhand.jobs import Training


def reproduce(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE...]", help="All of them unless given.")
    ] = None,
    plan: Annotated[list[str] | None, typer.Option(help="book, fast, best; may be given several times.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, counted from 0.")] = 3,
    by_hand: ByHand = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; as torch finds them unless given.")] = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    results_dir: Annotated[Path, typer.Option(help="Folder that the tables are written to.")] = Path("results"),
    as_json: Json = False,
) -> None:
    """Run recipes as they stand and set the results beside the source's; exits with 1 where a goal is missed."""
    from byhand.errors import SettingsError
    from byhand.recipes import RECIPES
    from byhand.recipes import recipe as named

    chosen = [named(name) for name in recipes] if recipes else list(RECIPES)
    jobs = [(one, name) for one in chosen for name in (plan or one.plans)]
    given = {"by_hand": by_hand, "threads": threads}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for one, name in jobs:
        one.plan(name).settings.replace(**changes)
    if seeds < 1:
        raise SettingsError(f"seeds={seeds} must be at least 1")

    from byhand.cli.progress import follow
    from byhand.reproduce import check_folder, counted, rows_of, run_plan

    check_folder(results_dir)

    def to_its_end(training: "Training") -> None:
        follow(training)
        if training.interrupted:
            training.save()
            raise Interrupted(
                f"interrupted after {place(training)}; results are written when all seeds of a plan are done. This run "
                f"alone goes on with: {resume_command(training)}"
            )

    missed = False
    for one, name in jobs:
        typer.echo(f"{one.name}, plan {name}, {counted(seeds, 'seed')}", err=True)
        found = run_plan(
            one,
            name,
            range(seeds),
            to_its_end,
            data_dir=data_dir,
            runs_dir=runs_dir,
            results_dir=results_dir,
            **changes,
        )
        missed |= found["reached"] is False
        if as_json:
            emit(found)
        else:
            columns = ("measure", "source", "here (mean)", "spread", "goal", "reached")
            table(columns, rows_of(found), f"{one.name}, plan {name}: {counted(seeds, 'seed')}", numbers=0)
    if missed:
        raise typer.Exit(1)
