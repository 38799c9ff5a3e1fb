"""The same trainings with data and network on a GPU, where one is at hand."""

import statistics
from collections.abc import Iterator

import torch

from byhand.bench.conditions import Conditions
from byhand.bench.measure import Times
from byhand.bench.row import Row
from byhand.bench.trainings import on, train_and_test
from byhand.recipes import recipe

TITLE = "On a GPU, training alone, after a training that warms up"
TASKS = (
    ("lenet5-mnist on a GPU, to 0.9904", "lenet5-mnist", "fast", 0.9904),
    ("softmax-fashion on a GPU, 30 epochs", "softmax-fashion", "book", 0.0),
)


def run(conditions: Conditions) -> Iterator[Row]:
    """Seconds of each task, one seed a round; without a GPU only that there is none."""
    if not torch.cuda.is_available():
        for title, *_ in TASKS:
            yield Row(title, None, note="no GPU here")
        return
    device = torch.device("cuda")
    for title, name, plan, wanted in TASKS:
        data = on(device, conditions.load(recipe(name).dataset))
        seconds, accuracies = [], []
        for seed in range(-1, conditions.rounds):  # the first, -1, warms up
            took, accuracy = train_and_test(recipe(name), plan, data, "cuda", seed=max(seed, 0), by_hand=False)
            if seed >= 0:
                seconds.append(took)
                accuracies.append(accuracy)
        mean = statistics.fmean(accuracies)
        note = f"accuracy {mean:.4f}, mean of {len(accuracies)} seeds; {torch.cuda.get_device_name(device)}"
        yield Row(title, Times(tuple(seconds)), note=note, judged=not conditions.quick, missed=mean < wanted)
