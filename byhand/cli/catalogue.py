"""`byhand list` and `byhand show`: what there is, and what a network is made of."""

from typing import Annotated, Any

import typer

from byhand.cli.options import Json
from byhand.cli.output import emit, table

KINDS = ("recipes", "networks", "data")


def list_(
    kind: Annotated[str | None, typer.Argument(help="recipes, networks or data; all of them unless given.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes with their plans, the networks and the data sets."""
    from byhand.data import DATASETS
    from byhand.errors import unknown_name
    from byhand.models import DETECTORS, NETWORKS
    from byhand.recipes import DEFAULT, RECIPES
    from byhand.recipes.measured import EPOCH_SECONDS

    if kind is not None and kind not in KINDS:
        raise unknown_name("list", kind, KINDS)
    recipes: list[dict[str, Any]] = [
        {
            "kind": "recipe",
            "name": one.name,
            "title": one.title,
            "section": one.section,
            "network": one.network,
            "dataset": one.dataset,
            "plans": {name: plan.settings.epochs for name, plan in one.plans.items()},
            "epoch_seconds": {name: EPOCH_SECONDS.get((one.name, name)) for name in one.plans},
            "source_accuracy": one.reported.get("accuracy"),
            "default": one is DEFAULT,
        }
        for one in RECIPES
    ]
    networks = [
        {"kind": "network", "name": n.name, "title": n.title, "input_shape": n.input_shape, "source": n.source}
        for n in NETWORKS
    ]
    networks += [
        {"kind": "detector", "name": n.name, "title": n.title, "input_shape": n.input_shape, "source": n.source}
        for n in DETECTORS
    ]
    sets = [
        {
            "kind": "data",
            "name": d.name,
            "title": d.title,
            "train": d.num_train or None,  # of a user's own images it is not known
            "test": d.num_test or None,
            "shape": d.shape or None,
        }
        for d in DATASETS
    ]
    chosen = {"recipes": recipes, "networks": networks, "data": sets}
    if as_json:
        for name in KINDS if kind is None else (kind,):
            for record in chosen[name]:
                emit(record)
        return
    if kind in (None, "recipes"):
        table(
            ("recipe", "network", "data set", "book", "fast", "best", "source"),
            [
                (
                    r["name"],
                    r["network"],
                    r["dataset"],
                    *(_cost(r, plan) for plan in ("book", "fast", "best")),
                    r["source_accuracy"],
                )
                for r in recipes
            ],
            "Recipes; of each plan the epochs × the seconds of one, measured on 2 cores; accuracy in the source: "
            "byhand train RECIPE --plan PLAN",
            numbers=4,
        )
        typer.echo(f"`byhand train` alone trains {DEFAULT.name}.\n")
    if kind in (None, "networks"):
        for kind_of_network, title in (
            ("network", "Networks: byhand show NETWORK, byhand prove NETWORK"),
            ("detector", "Detectors: byhand show DETECTOR, byhand train --network DETECTOR --dataset digits-scene"),
        ):
            chosen_rows = [one for one in networks if one["kind"] == kind_of_network]
            rows = [(n["name"], n["title"], _shape(n["input_shape"]), n["source"]) for n in chosen_rows]
            table((kind_of_network, "title", "input", "source"), rows, title)
    if kind in (None, "data"):
        sets_rows = [(d["name"], d["title"], _shape(d["shape"] or ("any size",)), d["train"], d["test"]) for d in sets]
        table(("data set", "title", "shape", "training", "test"), sets_rows, "Data sets: byhand data", numbers=2)


def _cost(recipe: dict[str, Any], plan: str) -> str | None:
    """Epochs and seconds of one: 12 × 95 s; the epochs alone where none was measured, None without such a plan."""
    epochs, seconds = recipe["plans"].get(plan), recipe["epoch_seconds"].get(plan)
    if epochs is None or seconds is None:
        return epochs
    return f"{epochs} × {seconds:.0f} s" if seconds >= 9.5 else f"{epochs} × {seconds:.2g} s"


def show(
    network: Annotated[str, typer.Argument(help="A name from `byhand list networks`.")],
    as_json: Json = False,
) -> None:
    """Show a network's layers: output shape, parameters, multiply-adds and bytes for one input.

    Of a detector an input is one image, and for the second stage one box in it.
    """
    from byhand import models
    from byhand.models.cost import COLUMNS, cells, layer_table, separated, total
    from byhand.models.detector_layers import in_all, layers_of

    entry = models.named(network)
    model: Any = entry.build()
    detector = model if entry in models.DETECTORS else None
    shape = entry.input_shape
    if detector is not None:
        model, shape = layers_of(detector, shape, boxes=1)
    rows = layer_table(model, shape)
    whole, split = total(rows), separated(model, rows)
    image = None if detector is None else in_all(detector, rows)
    if as_json:
        for row in rows:
            emit({"network": entry.name, **_record(row)})
        saved = (
            {"separable_multiply_adds": split.multiply_adds, "full_multiply_adds": split.full} if split.pairs else {}
        )
        of_image = {} if image is None else image._asdict()
        emit({"network": entry.name, **_record(whole), "name": "total", **saved, **of_image})
        return
    title = f"{entry.title} ({entry.source}), input {_shape(shape)}, float32"
    table(COLUMNS, [cells(row) for row in (*rows, whole)], title, numbers=4)
    if image is not None:
        masks = f" and masks of {image.masks:,} detections" if image.masks else ""
        every = "an unknown number of" if image.image_multiply_adds is None else f"{image.image_multiply_adds:,}"
        part = "Every layer is" if shape != entry.input_shape else "The second stage, roi_heads, is"
        typer.echo(
            f"{part} counted for one box. An image has up to {image.proposals:,} proposals{masks}: {every} "
            "multiply-adds in all."
        )
    if split.pairs:
        typer.echo(
            f"{split.pairs} convolutions are depthwise and pointwise: {split.multiply_adds:,} multiply-adds; full ones "
            f"in their place take {split.full:,}, {split.full / split.multiply_adds:.1f} times as many."
        )


def _record(row: Any) -> dict[str, Any]:
    names = ("name", "kind", "output_shape", "parameters", "multiply_adds", "parameter_bytes", "output_bytes")
    return {name: getattr(row, name) for name in names}


def _shape(shape: Any) -> str:
    return " × ".join(str(size) for size in shape)
