"""`byhand evaluate`."""

from typing import Annotated

import typer

from byhand.cli.options import DataDir, Json, RunPath
from byhand.cli.output import emit, table


def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="test (or what was held out) or train.")] = "test",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Measure a run's weights again, on the test set."""
    from byhand import jobs
    from byhand.runs.run import Run

    result = jobs.measure(Run.open(run), split, data_dir)
    if as_json:
        emit(result)
        return
    names = ("accuracy", "loss", "max_weight_error", "closed_form_error", "examples")
    rows = [(name.replace("_", " "), result[name]) for name in names if result.get(name) is not None]
    where = result["measured_on"] if split == "test" else "training examples"
    table(("measure", "value"), rows, f"{result['run']}, {where}", numbers=1)
