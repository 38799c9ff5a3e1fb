"""The record: seconds from the read data to the final test, to a given accuracy; ``byhand bench --record``."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from byhand.bench.conditions import Conditions
from byhand.bench.machine import receipt
from byhand.bench.trainings import first_images, train_and_test
from byhand.recipes import recipe

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Attempt:
    """An accuracy to reach as the mean over the seeds, and the plan that does it; its settings were chosen on held-out
    images."""

    accuracy: float
    recipe: str
    plan: str


ATTEMPTS = (
    Attempt(0.99, "lenet5-mnist", "fast"),
    Attempt(0.90, "lenet5-fashion", "fast"),
)


def run(conditions: Conditions) -> Iterator[dict[str, Any]]:
    """For each attempt what came out of every seed, mean and spread, and the receipt.

    The clock starts with the data set in memory as it was read, uint8, and stops when the last test image is counted:
    building the network, every epoch and the test are in it. The test images are looked at once, on the final weights.
    """
    for attempt in ATTEMPTS:
        chosen = recipe(attempt.recipe)
        data = conditions.load(chosen.dataset)
        train_and_test(chosen, attempt.plan, first_images(data), epochs=1)  # else the first seed would pay for imports
        seconds, accuracies = [], []
        for seed in SEEDS:
            started = time.perf_counter()
            _, accuracy = train_and_test(chosen, attempt.plan, data, seed=seed)
            seconds.append(time.perf_counter() - started)
            accuracies.append(accuracy)
        settings = chosen.plan(attempt.plan).settings
        yield {
            "dataset": chosen.dataset,
            "to": attempt.accuracy,
            "recipe": attempt.recipe,
            "plan": attempt.plan,
            "network": chosen.network,
            "epochs": settings.epochs,
            "settings": settings.record(),
            "seconds": statistics.fmean(seconds),
            "seconds_stdev": statistics.stdev(seconds),
            "accuracy": statistics.fmean(accuracies),
            "reached": None if conditions.quick else statistics.fmean(accuracies) >= attempt.accuracy,
            "seeds": [
                {"seed": seed, "seconds": took, "accuracy": share}
                for seed, took, share in zip(SEEDS, seconds, accuracies, strict=True)
            ],
            "receipt": receipt(conditions) | {"data": {"name": data.name, "sha256": dict(data.sha256)}},
        }
