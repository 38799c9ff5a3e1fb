"""Trainings without a run directory: what the parts of the bench time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from byhand import models
from byhand.data.arrays import Dataset
from byhand.recipes import Recipe
from byhand.training.evaluate import evaluate
from byhand.training.fit import Epoch, fit
from byhand.training.state import State

WARM_IMAGES = 2560


def new_state(chosen: Recipe, plan: str, device: str = "cpu", **changes: Any) -> State:
    """A training of the plan at its beginning; ``changes`` replace settings."""
    planned = chosen.plan(plan)
    settings = planned.settings.replace(device=device, **changes)
    options = {**chosen.options, **planned.options, **({"dropout": settings.dropout} if settings.dropout else {})}
    return State.new(lambda: models.build(chosen.network, **options), settings, torch.device(device))


def next_epoch(chosen: Recipe, data: Dataset, epochs: int, by_hand: bool | None = None) -> Callable[[], Epoch]:
    """A function that trains one more epoch of plan ``book`` with each call, in the given hand or the trainer's own."""
    hand = chosen.plan("fast").settings.by_hand if by_hand is None else by_hand  # book has the source's
    state = new_state(chosen, "book", epochs=epochs, by_hand=hand)
    records = fit(state, data, chosen.task)
    return lambda: next(records)


def train_and_test(
    chosen: Recipe, plan: str, data: Dataset, device: str = "cpu", **changes: Any
) -> tuple[float, float]:
    """Seconds of the epochs of a plan, and the accuracy of its final weights on the test set."""
    state = new_state(chosen, plan, device, **changes)
    seconds = sum(epoch.seconds for epoch in fit(state, data, chosen.task))
    measured = evaluate(state.kept, data.test_images, data.test_labels, state.settings, chosen.task)
    assert measured.accuracy is not None  # every recipe of the bench is a classification
    return seconds, measured.accuracy


def first_images(data: Dataset, count: int = WARM_IMAGES) -> Dataset:
    """The data set with only its first examples to train on, to warm a side up with."""
    return replace(data, train_images=data.train_images[:count], train_labels=data.train_labels[:count])


def on(device: torch.device, data: Dataset) -> Dataset:
    """The data set with its tensors on the device."""
    names = ("train_images", "train_labels", "test_images", "test_labels")
    return replace(data, **{name: getattr(data, name).to(device) for name in names})
