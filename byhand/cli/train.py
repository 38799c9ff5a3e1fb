"""`byhand train` and `byhand resume`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from byhand.cli.options import ByHand, DataDir, Json, Lang, RunPath, RunsDir, Show, check_language
from byhand.cli.output import Interrupted, bounds, emit, table
from byhand.cli.settings import TUNE, Assignments, DataSet, From, Network, Size, changes_of

if TYPE_CHECKING:
    from byhand.jobs import Training

Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the pictures at the end.")]


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A name from `byhand list`; LeNet-5 on the digits unless given.")
    ] = None,
    plan: Annotated[str, typer.Option(help="book: the source's settings; fast; best.")] = "fast",
    network: Network = None,
    dataset: DataSet = None,
    size: Size = None,
    weights: From = None,
    freeze: Annotated[bool | None, typer.Option("--freeze", help="Train the head alone.", rich_help_panel=TUNE)] = None,
    body_lr: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of the lr, 0 to 1, for all but the head.", rich_help_panel=TUNE),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    hold_out: Annotated[
        float | None, typer.Option(help="Measure on this share of the training images, not on the test set.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; as torch finds them unless given.")] = None,
    by_hand: ByHand = None,
    assignments: Assignments = None,
    data_dir: DataDir = None,
    runs_dir: RunsDir = Path("runs"),
    lang: Lang = "en",
    plots: Plots = True,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Train a recipe, or a network of your choice on your own images: checkpoints, pictures and a run directory."""
    check_language(lang)
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "hold_out": hold_out,
        "device": device,
        "threads": threads,
        "freeze": freeze,
        "body_lr": body_lr,
        "by_hand": by_hand,
    }
    changes = changes_of(recipe, plan, network, dataset, size, given, assignments)

    from byhand import jobs
    from byhand.cli.data import download_progress

    with download_progress() as progress:
        training = jobs.start(
            recipe,
            plan,
            network=network,
            dataset=dataset,
            size=size,
            weights=weights,
            data_dir=data_dir,
            runs_dir=runs_dir,
            progress=progress,
            **changes,
        )
    if network is not None:
        typer.echo(found(training), err=True)
    if training.loaded is not None:
        typer.echo(str(training.loaded), err=True)
    _complete(training, lang, plots, show, as_json)


def resume(
    run: RunPath,
    data_dir: DataDir = None,
    lang: Lang = "en",
    plots: Plots = True,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Go on with a training that was interrupted, as if it had not been."""
    check_language(lang)
    from byhand import jobs
    from byhand.cli.data import download_progress

    with download_progress() as progress:
        training = jobs.resume(run, data_dir=data_dir, progress=progress)
    _complete(training, lang, plots, show, as_json)


def _complete(training: "Training", lang: str, plots: bool, show: bool, as_json: bool) -> None:
    from byhand.cli.progress import follow

    follow(training)
    if training.interrupted:
        training.save()
        raise Interrupted(f"interrupted after {place(training)}; go on with: {resume_command(training)}")
    try:
        result = training.finish()
    except KeyboardInterrupt:
        resume = resume_command(training)
        raise Interrupted(f"interrupted before the weights were measured; go on with: {resume}") from None
    drawn = []
    if plots or show:
        from byhand import plots as pictures

        drawn = pictures.save_figures(training.run, training.data, lang, measured=training.precision)
        if show:
            pictures.show(drawn)
    if as_json:
        emit(result)
        return
    table(
        ("measure", "here", "source"), list(_measures(result)), f"{result['recipe']}, plan {result['plan']}", numbers=2
    )
    if result.get("absent"):
        typer.echo(f"no objects of {', '.join(result['absent'])}: not in the means")
    typer.echo(f"run: {training.run.path}")
    if drawn:
        typer.echo(f"pictures: {training.run.path / 'figures'} ({', '.join(path.stem for path in drawn)})")


def found(training: "Training") -> str:
    """What was found to train on, in words: a user's own images are known to nobody else."""
    dataset = training.data
    parts = f"{len(dataset.train_images):,} training and {len(dataset.test_images):,} test"
    names = dataset.class_names
    if not names:
        return f"{parts} examples of {dataset.name}"
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{parts} images of {dataset.name}; {len(names)} classes: {some}"


def place(training: "Training") -> str:
    """Where a training stands, in words."""
    state = training.state
    return f"epoch {state.epoch + 1}, step {state.position}" if state.position else f"{state.epoch} epochs"


def resume_command(training: "Training") -> str:
    """What to type to go on with a training, quoted for a shell."""
    return f"byhand resume {shlex.quote(str(training.run.path))}"


def _measures(result: dict[str, Any]):
    names = {
        "accuracy": f"accuracy, {result['measured_on']}",
        **{
            name: f"{name.replace('_', ' ')}, {result['measured_on']}"
            for name in ("AP", "AP50", "mask_AP", "mask_AP50")
        },
        "loss": f"loss, {result['measured_on']}",
        "max_weight_error": "largest error of a weight",
        "closed_form_error": "largest distance from the closed form",
        "train_accuracy": f"accuracy, training images {result['train_measured']}",
        "train_loss": f"loss, training images {result['train_measured']}",
        "seconds": "seconds of training",
    }
    for key, name in names.items():
        if result.get(key) is not None:
            yield name, result[key], result["source"].get(key)
    if result["reached"] is not None:
        goal = ", ".join(f"{key.replace('_', ' ')} {bounds(*ends)}" for key, ends in result["goal"].items())
        yield f"reached ({goal})", result["reached"], None
