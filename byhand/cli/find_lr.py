"""`byhand find-lr`."""

from pathlib import Path
from typing import Annotated

import typer

from byhand.cli.options import ByHand, DataDir, Json, Lang, Show, check_language
from byhand.cli.output import emit
from byhand.cli.settings import Assignments, DataSet, From, Network, Size, changes_of


def find_lr(
    recipe: Annotated[
        str | None, typer.Argument(help="A name from `byhand list`; LeNet-5 on the digits unless given.")
    ] = None,
    plan: Annotated[str, typer.Option(help="book: the source's settings; fast; best.")] = "fast",
    network: Network = None,
    dataset: DataSet = None,
    size: Size = None,
    weights: From = None,
    low: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Steps of training, at least 10.")] = 100,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; as torch finds them unless given.")] = None,
    by_hand: ByHand = None,
    assignments: Assignments = None,
    data_dir: DataDir = None,
    output: Annotated[Path, typer.Option(help="The picture to write.")] = Path("find-lr.png"),
    lang: Lang = "en",
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Suggest a learning rate: train a few steps while it rises, and look where the loss falls fastest."""
    check_language(lang)
    given = {"batch_size": batch_size, "seed": seed, "device": device, "threads": threads, "by_hand": by_hand}
    changes = changes_of(recipe, plan, network, dataset, size, given, assignments)

    from byhand import jobs, plots
    from byhand.cli.data import download_progress
    from byhand.plots.figures import write_figure
    from byhand.recipes import DEFAULT

    with download_progress() as progress:
        found = jobs.find_lr(
            recipe,
            plan,
            network=network,
            dataset=dataset,
            size=size,
            weights=weights,
            low=low,
            high=high,
            steps=steps,
            data_dir=data_dir,
            progress=progress,
            **changes,
        )
    name = f"{network} on {dataset}" if network else recipe or DEFAULT.name
    figure = plots.lr_curve(found.lrs, found.losses, found.smoothed, found.suggestion, lang)
    path = write_figure(figure, output)
    if as_json:
        emit({"recipe": name, "plan": plan, **found.record(), "picture": str(path)})
    else:
        end = f"the loss exploded at lr {found.lrs[-1]:.2g}" if found.diverged else f"it went up to lr {high:g}"
        typer.echo(f"suggested learning rate: {found.suggestion:.2g} ({len(found.lrs)} steps; {end})")
        typer.echo(f"picture: {path}")
    if show:
        plots.show([path])
