"""Running plans over several seeds and writing down what came out, so that anyone can run it again."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from byhand import jobs
from byhand.errors import DataError, SettingsError
from byhand.recipes import Recipe
from byhand.runs.storage import write_atomically

MEASURES = (
    "accuracy",
    "AP",
    "AP50",
    "mask_AP",
    "mask_AP50",
    "loss",
    "train_accuracy",
    "train_loss",
    "max_weight_error",
    "closed_form_error",
    "seconds",
)
# What is read of a record.
KEYS = ("recipe", "plan", "dataset", "command", "seeds", "epochs", "source", "goal", "means", "environment")


def run_plan(
    recipe: Recipe,
    plan: str,
    seeds: Iterable[int],
    follow: Callable[[jobs.Training], None],
    *,
    results_dir: str | Path = "results",
    **settings: Any,
) -> dict[str, Any]:
    """The record of a plan over several seeds: each result, mean and spread of each measure, what the source reports.

    It is written to ``results_dir``/RECIPE-PLAN.json, and the table of all records there to its README.md. ``follow``
    trains a ``Training`` to its end. Raises, before any training, SettingsError without a seed and as ``check_folder``;
    KeyboardInterrupt where ``follow`` was interrupted.
    """
    seeds = list(seeds)
    if not seeds:
        raise SettingsError("seeds=0 must be at least 1")
    check_folder(results_dir)
    folder = Path(results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results, receipt = [], {}
    for seed in seeds:
        training = jobs.start(recipe.name, plan, seed=seed, **settings)
        follow(training)
        if training.interrupted:
            training.save()
            raise KeyboardInterrupt
        results.append(training.finish())
        receipt = training.run.environment()
    means = {}
    for measure in MEASURES:
        values = [result[measure] for result in results if result.get(measure) is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            means[measure] = {
                "mean": statistics.fmean(values),
                "stdev": spread,
                "least": min(values),
                "most": max(values),
            }
    planned = recipe.plan(plan)
    goal = {key: list(bounds) for key, bounds in planned.goal.items()}
    # An error of a weight must stay under its limit in every run; for the others the mean is what is asked for.
    asked = {key: means[key]["most" if key.endswith("_error") else "mean"] for key in means}
    hand = {None: "", True: " --by-hand", False: " --by-library"}[settings.get("by_hand")]
    threads = f" --threads {settings['threads']}" if settings.get("threads") else ""
    record = {
        "recipe": recipe.name,
        "plan": plan,
        "network": recipe.network,
        "options": training.run.recipe()["network"]["options"],
        "dataset": recipe.dataset_of(planned),
        "section": recipe.section,
        "command": f"byhand reproduce {recipe.name} --plan {plan} --seeds {len(seeds)}{hand}{threads}",
        "seeds": seeds,
        "epochs": results[0]["epochs"],
        "source": dict(recipe.reported),
        "goal": goal,
        "means": means,
        "reached": jobs.reached(asked, goal),
        "settings": training.run.recipe()["settings"],
        "results": [{key: result[key] for key in ("seed", *MEASURES) if key in result} for result in results],
        "environment": {key: receipt[key] for key in ("versions", "os", "cpu", "cores", "threads", "device", "data")},
    }
    # By the recipe's name for it: a data set of one's own images is named by its path on this machine.
    record["environment"]["data"] = {"name": record["dataset"], "sha256": receipt["data"]["sha256"]}
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / f"{recipe.name}-{plan}{hand.replace(' --', '-')}.json", text.encode())
    write_atomically(folder / "README.md", overview(folder).encode())
    return record


def check_folder(results_dir: str | Path) -> None:
    """Raises SettingsError for a file, DataError where the folder holds JSON that is no record: no overview then."""
    folder = Path(results_dir)
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file; give a folder for the results with --results-dir")
    overview(folder)


def rows_of(record: dict[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """A row for each measure of a record: source, mean, spread, goal, reached."""
    rows = []
    for measure, found in record["means"].items():
        bounds = record["goal"].get(measure)
        asked = found["most" if measure.endswith("_error") else "mean"]
        reached = "" if bounds is None else ("yes" if bounds[0] <= asked <= bounds[1] else "NO")
        source = record["source"].get(measure)
        rows.append(
            (
                measure,
                "" if source is None else f"{source:.4f}",
                _number(measure, found["mean"]),
                f"± {_number(measure, found['stdev'])}" if len(record["seeds"]) > 1 else "(one seed)",
                "" if bounds is None else _range(measure, bounds),
                reached,
            )
        )
    return rows


def overview(folder: Path) -> str:
    """The table of all records of a folder, as Markdown."""
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    lines = [
        "# Results",
        "",
        "Means over the seeds and their standard deviation, on the test set with the final weights. Training loss and",
        "accuracy of `book` are those summed up while the last epoch ran, as the source does it. The command gives a",
        "row again; the JSON file beside has every seed, all settings, versions, machine and checksums of the data.",
        "Seconds of training are those of a machine that also did other work; `byhand bench` is what measures speed.",
        "",
        "| recipe | plan | epochs | measure | source | here | goal | reached | seconds a run | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = {"book": 0, "fast": 1, "best": 2}
    for record in sorted(records, key=lambda r: (r["dataset"], r["recipe"], order.get(r["plan"], 3), r["command"])):
        rows = [row for row in rows_of(record) if row[0] in record["goal"] or row[0] in ("accuracy", *record["source"])]
        for i, (measure, source, mean, spread, goal, reached) in enumerate(rows):
            first = i == 0
            seconds = f"{record['means']['seconds']['mean']:.1f}" if first else ""
            command = f"`{record['command']}`" if first else ""
            name, plan, epochs = (record["recipe"], record["plan"], str(record["epochs"])) if first else ("", "", "")
            cells = (name, plan, epochs, measure, source, f"{mean} {spread}", goal, reached, seconds, command)
            lines.append(f"| {' | '.join(cells)} |")
    machines = set()
    for record in records:
        where = record["environment"]
        machines.add(f"{where['cpu']}, {counted(where['threads'], 'thread')}, torch {where['versions']['torch']}")
    return "\n".join([*lines, "", f"Measured on: {'; '.join(sorted(machines))}.", ""])


def read_record(path: Path) -> dict[str, Any]:
    """A record of results; unlike a run's files it is meant to be read, moved and committed without a seal.

    Raises DataError for a file that is none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict) or any(key not in record for key in KEYS):
        raise DataError(f"{path} is no record of `byhand reproduce`; move it away or give another --results-dir")
    return record


def counted(number: int, noun: str) -> str:
    """1 seed, 3 seeds."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(measure: str, value: float) -> str:
    if measure == "seconds":
        return f"{value:.1f}"
    return f"{value:.1e}" if measure.endswith("_error") else f"{value:.4f}"


def _range(measure: str, bounds: list[float]) -> str:
    low, high = bounds
    if measure.endswith("_error"):
        return f"≤ {high:.0e}"
    return f"≥ {low:.4f}" if high == 1.0 else f"{low:.4f}–{high:.4f}"
