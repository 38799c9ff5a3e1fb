"""`byhand evaluate`."""

from typing import Annotated, Any

import typer

from byhand.cli.options import DataDir, Json, RunPath
from byhand.cli.output import emit, table

MEASURES = {
    "AP": "AP at IoU 0.50:0.95",
    "AP50": "AP50",
    "AP75": "AP75",
    "APsmall": "AP, small objects",
    "APmedium": "AP, medium objects",
    "APlarge": "AP, large objects",
    "AR1": "AR, 1 detection an image",
    "AR10": "AR, 10 detections",
    "AR100": "AR, 100 detections",
    "ARsmall": "AR, small objects",
    "ARmedium": "AR, medium objects",
    "ARlarge": "AR, large objects",
}


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
    where = result["measured_on"] if split == "test" else "training examples"
    if "AP" in result:
        _precision(result, where)
        return
    names = ("accuracy", "loss", "max_weight_error", "closed_form_error", "examples")
    rows = [(name.replace("_", " "), result[name]) for name in names if result.get(name) is not None]
    table(("measure", "value"), rows, f"{result['run']}, {where}", numbers=1)


def _precision(result: dict[str, Any], where: str) -> None:
    """COCO's table, and AP of each class; a dash where there is nothing to find."""
    masks = "mask_AP" in result
    kinds = ("", "mask_") if masks else ("",)
    heads = ("boxes", "masks") if masks else ("boxes",)
    names = [key for key in MEASURES if key in result]
    title = f"{result['run']}, {where}, {result['examples']} images"
    table(
        ("measure", *heads),
        [(MEASURES[key], *(result[kind + key] for kind in kinds)) for key in names],
        title,
        len(kinds),
    )
    columns = [f"{kind.replace('_', ' ')}{key}" for kind in kinds for key in ("AP", "AP50")]
    rows = [(name, *values.values()) for name, values in (result.get("classes") or {}).items()]
    table(("class", *columns), rows, numbers=len(columns))
    if result.get("absent"):
        typer.echo(f"no objects of {', '.join(result['absent'])}: not in the means")
    parts = {part: result.get(f"seconds_{part}") for part in ("proposals", "features", "heads")}
    if None not in parts.values():
        typer.echo(f"seconds an image: {', '.join(f'{part} {value:.4f}' for part, value in parts.items())}")
    if result["loss"] is not None:
        typer.echo(f"loss: {result['loss']:.4f}")
