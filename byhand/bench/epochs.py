"""Seconds an epoch, and seconds to the source's accuracy: ours beside the source's loop and a plain good one."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

from byhand import jobs
from byhand.bench import other_sides
from byhand.bench.conditions import Conditions
from byhand.bench.measure import Times, alternate, clock
from byhand.bench.row import Row
from byhand.bench.trainings import first_images, next_epoch
from byhand.data.arrays import Dataset
from byhand.recipes import Recipe, recipe

TITLE = "An epoch with the source's settings (plan book), and the way to the source's accuracy (plan fast)"
RECIPES = ("softmax-fashion", "mlp-fashion", "lenet5-mnist")
HANDS = {True: "by hand", False: "by library"}


def run(conditions: Conditions) -> Iterator[Row]:
    """For each recipe: an epoch of each side in turn, and whole trainings of ours."""
    for name in RECIPES:
        yield from _rows(recipe(name), conditions)


def _rows(chosen: Recipe, conditions: Conditions) -> Iterator[Row]:
    data = conditions.load(chosen.dataset)
    makers: dict[str, Callable[[Dataset], Callable[[], Any]]] = {
        name: partial(_ours, chosen, conditions.rounds, hand) for hand, name in HANDS.items()
    }
    for side, program in (("the source's loop", "source_loop"), ("a plain DataLoader loop", "plain_loop")):
        found = other_sides.load(program)
        if found is not None:
            makers[side] = partial(_theirs, chosen, found)
    for make in makers.values():
        make(first_images(data))()
    times = alternate({name: clock(make(data)) for name, make in makers.items()}, conditions.rounds)

    default = HANDS[chosen.plan("fast").settings.by_hand]  # the trainer's own choice; book is the source's
    other = "by library" if default == "by hand" else "by hand"
    source, plain = times.get("the source's loop"), times.get("a plain DataLoader loop")
    missing = "" if source else other_sides.NOT_AT_HAND
    title = f"{chosen.name}, an epoch"
    yield Row(title, times[default], source, "the source's loop", note=missing or default, judged=not conditions.quick)
    yield Row(f"{title}, {other}", times[other], source, "the source's loop")
    yield Row(f"{title} against a plain loop", times[default], plain, "a plain DataLoader loop")
    yield Row(f"{title}, by hand against by library", times["by hand"], times["by library"], "by library")
    yield from _to_accuracy(chosen, source, conditions)


def _ours(chosen: Recipe, epochs: int, by_hand: bool, data: Dataset) -> Callable[[], Any]:
    return next_epoch(chosen, data, epochs, by_hand)


def _theirs(chosen: Recipe, program: ModuleType, data: Dataset) -> Callable[[], Any]:
    return program.Loop(chosen.name, data).epoch


def _to_accuracy(chosen: Recipe, source: Times | None, conditions: Conditions) -> Iterator[Row]:
    """Plan fast, one seed a round, against as many epochs as the source trained at its seconds an epoch."""
    training, whole, accuracies = [], [], []
    for seed in range(conditions.rounds):
        with tempfile.TemporaryDirectory(prefix="byhand-bench-") as runs_dir:
            started = time.perf_counter()
            result = train_whole(chosen, seed, runs_dir, conditions)
            whole.append(time.perf_counter() - started)
        training.append(result["seconds"])
        accuracies.append(result["accuracy"])
    program = other_sides.load("source_loop")
    epochs = program.EPOCHS[chosen.name] if program else None
    wanted, mean = chosen.reported["accuracy"], statistics.fmean(accuracies)
    found = f"accuracy {mean:.4f} (mean of {len(accuracies)} seeds), the source's {wanted:.4f}"
    other = source * epochs if source and epochs else None
    side = f"the source's {epochs} epochs × its time of one" if other else ""
    title = f"{chosen.name}, to the source's accuracy"
    yield Row(title, Times(tuple(training)), other, side, note=found, judged=not conditions.quick, missed=mean < wanted)
    yield Row(f"{title}, with reading, test and files", Times(tuple(whole)), other, side)


def train_whole(chosen: Recipe, seed: int, runs_dir: str, conditions: Conditions) -> dict[str, Any]:
    """The result of a whole training of plan fast, from reading the data to the written result."""
    training = jobs.start(
        chosen.name,
        "fast",
        data_dir=conditions.data_dir,
        runs_dir=runs_dir,
        seed=seed,
        threads=conditions.threads,
        device="cpu",
    )
    for _ in training:
        pass
    return training.finish()
