"""Every trained network that is at hand, published or one's own: what it reaches, and what it costs for one image."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from byhand import data, models
from byhand.errors import DataError, RunError, SettingsError, UnknownName
from byhand.models.cost import layer_table, total
from byhand.plots.costs import Point
from byhand.recipes import recipe
from byhand.reproduce import read_record
from byhand.runs.run import RECIPE, Run


def trained_networks(
    results_dir: str | Path = "results", runs_dir: str | Path = "runs", runs: Sequence[str | Path] = ()
) -> list[Point]:
    """A point for each record of `results_dir`, and one for each recipe and plan of the finished runs.

    `runs`: the run directories meant; by default all in `runs_dir`. Runs of one recipe, plan and cost are one point, of
    their mean. Without an accuracy on a test set (a regression, a run that held images out) there is none: of
    `runs_dir` and the records such are passed over.

    Raises:
        SettingsError: there is nothing to draw.
        RunError: one of `runs` is no finished run with an accuracy on the test set.
        DataError: a record whose recipe is not known.
    """
    points = [point for path in sorted(Path(results_dir).glob("*.json")) if (point := of_record(path))]
    found: dict[tuple[str, str, int], list[float]] = {}
    if runs:
        opened = [(Run.open(path), True) for path in runs]
    else:
        folders = sorted(path.parent for path in Path(runs_dir).glob(f"*/{RECIPE}"))
        opened = [(Run.open(path), False) for path in folders]
    for run, asked in opened:
        result, record = run.result() or {}, run.recipe()
        if result.get("accuracy") is None or result.get("measured_on", "test set") != "test set":
            if asked:
                raise RunError(f"{run.path} has no accuracy on a test set; give finished runs of a classification")
            continue
        name = f"{record['recipe']} {record['plan']}"
        cost = multiply_adds(record["network"], record["input_shape"], record.get("preparation"))
        found.setdefault((name, record["dataset"], cost), []).append(result["accuracy"])
    for (name, dataset, cost), accuracies in found.items():
        points.append(Point(name, dataset, cost, statistics.fmean(accuracies), published=False))
    if not points:
        raise SettingsError(
            f"no trained network: no records in {results_dir} and no finished runs in {runs_dir}; give run "
            "directories, or the folders by --results-dir and --runs-dir"
        )
    return points


def of_record(path: Path) -> Point | None:
    """The point of a record of `byhand reproduce`; None where it has no accuracy.

    Raises:
        DataError: no record, or one of a recipe, plan or data set that is not known.
    """
    record = read_record(path)
    if "accuracy" not in record["means"]:
        return None
    try:
        chosen = recipe(record["recipe"])
        plan = chosen.plan(record["plan"])
        shape = data.entry(record["dataset"]).shape
    except UnknownName as error:
        raise DataError(f"{path}: {error}; move it away, or give another --results-dir") from None
    settings = record.get("settings") or {}
    options = record.get("options", {**chosen.options, **plan.options})  # a recipe may have changed since
    cost = multiply_adds({"name": chosen.network, "options": options}, shape, settings.get("preparation"))
    return Point(f"{chosen.name} {record['plan']}", record["dataset"], cost, record["means"]["accuracy"]["mean"])


def multiply_adds(network: Mapping[str, Any], shape: Sequence[int], preparation: Mapping[str, Any] | None) -> int:
    """Those of one input of that shape, once it is prepared, in a network {"name": ..., "options": {...}}.

    Raises:
        DataError: a network with a layer whose multiply-adds nobody knows.
    """
    size = (preparation or {}).get("size")
    prepared = (shape[0], size, size) if size and len(shape) == 3 else tuple(shape)
    with torch.device("meta"):  # without memory or time
        model = models.build(network["name"], **(network.get("options") or {}))
        cost = total(layer_table(model, prepared)).multiply_adds
    if cost is None:
        raise DataError(f"network {network['name']!r} has a layer whose multiply-adds are not known")
    return cost
