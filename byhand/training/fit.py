"""The training loop; there is no other."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from byhand.data import augment, colour, cutting, mixing
from byhand.data.arrays import Dataset
from byhand.data.detection import DetectionDataset
from byhand.data.preparation import each
from byhand.errors import RunError
from byhand.training.batches import batches, num_batches
from byhand.training.detection import Boxed
from byhand.training.evaluate import Measured, evaluate
from byhand.training.memory import keep_buffers
from byhand.training.settings import Settings
from byhand.training.state import State, lr_at
from byhand.training.steps import step_for
from byhand.training.tasks import CLASSIFICATION


@dataclass(frozen=True)
class Epoch:
    """What one epoch yielded.

    ``loss`` and ``accuracy`` are means over the training images while the epoch ran, so each batch was measured before
    its own step; ``accuracy`` is None for a regression. ``lr`` is that of the last step, ``seconds`` the time of
    training alone, ``validation_*`` are measured after the epoch on the held-out images, where some were held out; the
    loss of a detector else on the first test images.
    """

    epoch: int
    loss: float
    accuracy: float | None
    lr: float
    seconds: float
    examples_per_second: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None

    def record(self) -> dict[str, Any]:
        """The epoch as plain values, a line of metrics.jsonl."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Labelled:
    """The examples of a classification or a regression: batches of whole tensors, the step that learns from one, and
    what the network gives on those held out. ``Boxed`` in ``detection.py`` is its like for images with objects."""

    def __init__(self, state: State, data: Dataset, task: str) -> None:
        self.state, self.data, self.task = state, data, task
        self.images, self.labels = data.train_images.to(state.device), data.train_labels.to(state.device)
        self.step = step_for(state, task)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """The examples at these places as the network takes them, changed at random, and their targets."""
        state, settings = self.state, self.state.settings
        # index_select, as images[places] takes six times as long on a CPU
        picked, targets = self.images.index_select(0, places), self.labels.index_select(0, places)
        picked = changed(picked, settings, state.changes)
        picked, targets = mixed(picked, targets, len(self.data.class_names), settings, state.changes)
        return settings.prepared(picked), targets

    def measured(self) -> Measured:
        """Loss and accuracy on the held-out examples, which stand in the place of the test set; of none, None."""
        if not self.state.settings.hold_out:
            return Measured(None, None)
        return evaluate(self.state.kept, self.data.test_images, self.data.test_labels, self.state.settings, self.task)


def examples_of(state: State, data: Dataset | DetectionDataset, task: str) -> Labelled | Boxed:
    """The examples of a data set for the task of its training."""
    if isinstance(data, DetectionDataset):
        return Boxed(state, data)
    return Labelled(state, data, task)


def fit(state: State, data: Dataset | DetectionDataset, task: str = CLASSIFICATION) -> Iterator[Epoch]:
    """Train until ``settings.epochs`` are done, or ``patience`` is at its end, yielding one record after each epoch.

    Leave the loop, or set ``state.stop``, to end early: the state can be saved at any such point, and goes on bit for
    bit. Where examples are held out, they stand in the place of the test set (``Dataset.hold_out``) and are measured
    after each epoch; without, the test set is not looked at here, but for the loss of a detector, which is told of the
    first test images and decides nothing.

    Raises NonFiniteLoss before a step from a loss that is not finite, or in a classification above 1e6 (on a GPU at the
    end of the epoch); RunError where the state is of a training with another number of examples or batches.
    """
    settings = state.settings
    keep_buffers()
    examples = examples_of(state, data, task)
    steps_per_epoch = num_batches(len(examples), settings.batch_size)
    if state.step != state.epoch * steps_per_epoch + state.position or state.position >= steps_per_epoch:
        raise RunError(
            f"the training stands at step {state.step}, {state.position} of them in epoch {state.epoch + 1}, which is "
            f"no place in epochs of {steps_per_epoch} steps; it began with other data or settings"
        )
    step: Any = examples.step  # which takes what ``batch`` of the same examples gives
    while not state.ended:
        if state.position == 0:
            state.begin_epoch()
        state.order.set_state(state.before_epoch)  # of an epoch that goes on, the permutation is drawn again
        order = torch.randperm(len(examples), generator=state.order).to(state.device)
        state.train()
        started, before = time.perf_counter(), state.seconds
        for batch in batches(order, settings.batch_size)[state.position :]:
            lr = lr_at(settings, state.step, steps_per_epoch)
            step(*examples.batch(batch), lr)
            state.position, state.step, state.seen = state.position + 1, state.step + 1, state.seen + len(batch)
            state.average()
            state.seconds = before + time.perf_counter() - started
            if state.stop and state.position < steps_per_epoch:
                step.settle()
                return
        step.settle()
        state.seconds = before + time.perf_counter() - started
        state.epoch, state.position = state.epoch + 1, 0
        epoch = _record(state, examples.measured(), task, lr_at(settings, state.step - 1, steps_per_epoch))
        state.judge(epoch.validation_loss, epoch.validation_accuracy)
        yield epoch
        if state.stop:
            return


def changed(images: Tensor, settings: Settings, generator: torch.Generator) -> Tensor:
    """The images of a batch at the network's size, each changed at random as the settings say; still uint8.

    What is not uint8 (the features of a regression) comes back as it is.
    """
    if images.dtype != torch.uint8:
        return images
    images = settings.preparation.fitted(images)
    if settings.flip:
        images = augment.random_flip(images, generator)
    if settings.vertical_flip:
        images = augment.random_flip(images, generator, vertical=True)
    if settings.rotate or settings.zoom or settings.move:
        images = augment.random_affine(images, settings.rotate, settings.zoom, settings.move, generator=generator)
    if settings.shift:
        images = augment.random_shift(images, settings.shift, generator)
    if settings.crop:
        images = cutting.random_resized_crop(images, scale=(settings.crop, 1.0), generator=generator)
    if settings.colour:
        amounts = (settings.colour,) * 3
        images = colour.colour_jitter(images, *amounts, generator=generator)
    if settings.cutout:
        mean = [255 * value for value in each(settings.preparation.mean)]
        images = cutting.cutout(images, settings.cutout, mean, generator=generator)
    if settings.erase:
        images = cutting.random_erasing(images, settings.erase, generator=generator)
    return images


def mixed(
    images: Tensor, targets: Tensor, num_classes: int, settings: Settings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The batch after mixup or CutMix, then with targets (B, num_classes); as it came where neither is asked for."""
    if images.dtype != torch.uint8 or not (settings.mixup or settings.cutmix):
        return images, targets
    both = settings.mixup and settings.cutmix
    coin = float(torch.rand((), generator=generator)) if both else 0.0
    if settings.mixup and coin < 0.5:
        return mixing.mixup(images, targets, num_classes, settings.mixup, generator=generator)
    return mixing.cutmix(images, targets, num_classes, settings.cutmix, generator=generator)


def _record(state: State, validation: Measured, task: str, lr: float) -> Epoch:
    return Epoch(
        epoch=state.epoch,
        loss=state.loss_sum / state.seen,
        accuracy=state.correct / state.seen if task == CLASSIFICATION else None,
        lr=lr,
        seconds=state.seconds,
        examples_per_second=state.seen / max(state.seconds, 1e-9),
        validation_loss=validation.loss,
        validation_accuracy=validation.accuracy,
    )
