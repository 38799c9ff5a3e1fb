"""Several runs side by side: what came out, and the settings in which they differ."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from byhand.runs.run import Run

# What has its own column, and what follows from the recipe or stands in the settings too, explains no difference.
_OWN_COLUMNS = ("recipe", "name", "plan", "seed", "settings.seed", "by_hand", "settings.by_hand")
_FOLLOWING = ("preparation", "reported", "goal", "changed", "class_names", "category_ids", "input_shape")
MEASURES = {"regression": ("max_weight_error",), "detection": ("AP", "AP50")}
PARTS = ("seconds_proposals", "seconds_features", "seconds_heads")  # of a detector, an image


def compare(runs: Iterable["Run | str | os.PathLike[str]"]) -> list[dict[str, Any]]:
    """One row for each run, in the order given; a run may be given by its path.

    Keys: name (of the directory), recipe, plan, seed, epochs (done so far), accuracy or max_weight_error, loss,
    seconds, by_hand, reached (the source's result, None where it reports none), finished, and settings: {dotted name:
    value} of everything else in recipe.json in which not all of these runs agree. Detectors have AP and AP50 in the
    place of an accuracy, and seconds_proposals, seconds_features and seconds_heads: what their parts took an image of
    the test. A run without result.json has finished False and the numbers of its last epoch, measured while it trained;
    what nobody has measured is None.

    Raises:
        RunError: one of them is not a run, or is damaged.
    """
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    settings = [_settings(run) for run in opened]
    names = list(dict.fromkeys(name for one in settings for name in one))
    differing = [name for name in names if any(one.get(name) != settings[0].get(name) for one in settings)]
    return [
        _row(run) | {"settings": {name: one.get(name) for name in differing}}
        for run, one in zip(opened, settings, strict=True)
    ]


def _row(run: Run) -> dict[str, Any]:
    recipe, result = run.recipe(), run.result()
    history = run.history()
    numbers = result if result is not None else (history[-1] if history else {})
    planned = recipe.get("settings") or {}
    task = str(recipe.get("task"))
    measures = MEASURES.get(task, ("accuracy",))
    parts = PARTS if task == "detection" else ()
    return {
        "name": run.name,
        "recipe": recipe.get("recipe") or recipe.get("name"),
        "plan": recipe.get("plan"),
        "seed": recipe.get("seed", planned.get("seed")),
        "epochs": numbers.get("epochs", numbers.get("epoch", 0)),
        **{measure: numbers.get(measure) for measure in measures},
        "loss": numbers.get("loss"),
        **{part: numbers.get(part) for part in parts},
        "seconds": numbers.get("seconds") if result is not None else _seconds(history),
        "by_hand": bool(recipe.get("by_hand", planned.get("by_hand", False))),
        "reached": numbers.get("reached"),
        "finished": result is not None,
    }


def _seconds(history: list[dict[str, Any]]) -> float | None:
    times = [record["seconds"] for record in history if record.get("seconds") is not None]
    return sum(times) if times else None


def _settings(run: Run) -> dict[str, Any]:
    """Everything that could explain a difference, by dotted names."""
    flat = _flat({key: value for key, value in run.recipe().items() if key not in _FOLLOWING})
    return {key: value for key, value in flat.items() if key not in _OWN_COLUMNS}


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = value
    return flat
