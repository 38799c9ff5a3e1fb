"""The learning-rate finder: a short training whose rate rises from step to step, and what its losses say."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from byhand.data.arrays import Dataset
from byhand.data.preparation import is_finite
from byhand.errors import NonFiniteLoss, SettingsError
from byhand.training.fit import changed, mixed
from byhand.training.state import State
from byhand.training.steps import step_for
from byhand.training.tasks import CLASSIFICATION

LEAST_STEPS = 10
DIVERGED = 4.0  # times the least smoothed loss, where the search ends
MEMORY = 1 / 20  # of all steps, that the smoothed loss looks back on
SKIPPED = 1 / 10  # of all steps, where the smoothed loss is still of few losses
BELOW_LEAST = 10.0


@dataclass(frozen=True)
class LrSearch:
    """The rate of each step, its loss before the step, and the smoothed loss; all steps up to the end of the search.

    ``suggestion`` is the rate to train with, ``diverged`` whether the search ended before ``high`` because the loss
    rose beyond return.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    diverged: bool

    def record(self) -> dict[str, Any]:
        """The search as plain values."""
        return asdict(self)


def check_range(low: float, high: float, steps: int) -> None:
    """Raises SettingsError for rates that do not rise or are not above 0, or fewer than 10 steps."""
    for name, value in (("low", low), ("high", high)):
        if not is_finite(value) or value <= 0:
            raise SettingsError(f"{name}={value!r} must be a finite learning rate above 0")
    if low >= high:
        raise SettingsError(f"low={low:g} must be below high={high:g}; the learning rate rises from one to the other")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < LEAST_STEPS:
        raise SettingsError(f"steps={steps!r} must be a whole number of at least {LEAST_STEPS}; 100 give a good curve")


def search_lr(
    state: State, data: Dataset, task: str = CLASSIFICATION, low: float = 1e-6, high: float = 10.0, steps: int = 100
) -> LrSearch:
    """Train ``state`` with a rate that rises from step to step, lr_i = low (high / low)^(i / (steps − 1)), and tell.

    The batches are those of a training, prepared and changed as the settings say, without the smaller last one of an
    epoch. Their losses are smoothed over about a twentieth of the steps: s ← β s + (1 − β) loss, divided by 1 − βⁱ.
    The search ends where that exceeds four times its least value, or where the loss is not a number any more. The
    weights are worth nothing afterwards.

    The suggestion is the rate at which the smoothed loss falls fastest, by the logarithm of the rate and after the
    first tenth of the steps; but at most a tenth of the rate of the least loss, as is common, because the smoothed
    loss is late.

    Raises SettingsError for a range or number of steps that cannot be, or where the loss falls nowhere. Source: Smith,
    Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; there the rate rises linearly and is read
    from the accuracy by eye.
    """
    check_range(low, high, steps)
    settings = state.settings
    images, labels = data.train_images.to(state.device), data.train_labels.to(state.device)
    step = step_for(state, task)
    beta = 1 - 1 / max(steps * MEMORY, 1)
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, diverged = 0.0, False
    state.train()
    for i, batch in zip(range(steps), _whole_batches(state, len(images)), strict=False):
        picked = changed(images.index_select(0, batch), settings, state.changes)
        targets = labels.index_select(0, batch)
        picked, targets = mixed(picked, targets, len(data.class_names), settings, state.changes)
        lr = low * (high / low) ** (i / (steps - 1))
        state.loss_sum = 0.0
        try:
            step(settings.prepared(picked), targets, lr)
            step.settle()
        except NonFiniteLoss:  # what a search is meant to come to
            diverged = True
            break
        lrs.append(lr)
        losses.append(state.loss_sum / len(batch))
        mean = beta * mean + (1 - beta) * losses[-1]
        smoothed.append(mean / (1 - beta ** (i + 1)))
        if smoothed[-1] > DIVERGED * min(smoothed):
            diverged = True
            break
    return LrSearch(lrs, losses, smoothed, suggested(lrs, smoothed, math.ceil(steps * SKIPPED)), diverged)


def suggested(lrs: list[float], smoothed: list[float], skipped: int = 1) -> float:
    """The rate of the steepest fall from step ``skipped`` to the least loss, at most a tenth of the rate of the least.

    Raises SettingsError where there is no fall.
    """
    least = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    # The rates are a geometric sequence, so differences of neighbours are slopes by the logarithm, but for one factor.
    slopes = {i: smoothed[i + 1] - smoothed[i - 1] for i in range(max(skipped, 1), least)}
    steepest = min(slopes, key=slopes.__getitem__, default=0)
    if not slopes or slopes[steepest] >= 0:
        reached = f"up to lr={lrs[-1]:.3g}" if lrs else "at any rate"
        raise SettingsError(f"the smoothed loss does not fall {reached}; search from a lower low, or in more steps")
    return min(lrs[steepest], lrs[least] / BELOW_LEAST)


def _whole_batches(state: State, num_examples: int) -> Iterator[torch.Tensor]:
    """The indices of one batch after another, without end; each epoch has a new permutation."""
    size = state.settings.batch_size
    while True:
        order = torch.randperm(num_examples, generator=state.order).to(state.device)
        yield from order[: num_examples // size * size].split(size)
