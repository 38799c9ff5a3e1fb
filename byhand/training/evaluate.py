"""Measuring a network on examples it did not learn from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from byhand.nn import by_hand
from byhand.training.settings import Settings
from byhand.training.tasks import CLASSIFICATION, correct_of, loss_of
from byhand.training.views import mean_logits

MOST_AT_ONCE = 250  # examples


@dataclass(frozen=True)
class Measured:
    """Mean loss (without label smoothing) and share of right answers; no accuracy for a regression."""

    loss: float | None
    accuracy: float | None


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    task: str = CLASSIFICATION,
    batch_size: int | None = None,
) -> Measured:
    """The loss and accuracy of a network over all the given examples, in the hand of the settings; its mode is kept.

    Always in float32: mixed precision is for training. ``batch_size``: unless given 250, as much as stays in a
    processor's cache, and fewer of images above 56 pixels a side, whose maps would fill the memory.
    """
    device = next(model.parameters()).device
    training, plain = model.training, settings.replace(label_smoothing=0.0)
    model.eval()
    network = by_hand(model) if settings.by_hand else model
    if settings.channels_last and not settings.by_hand:  # as in training: other orders round otherwise
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if batch_size is None:
        batch_size = batch_for(images, settings)
    loss, correct = 0.0, 0
    with torch.no_grad():
        for batch, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            targets = targets.to(device)
            inputs = settings.prepared(batch.to(device))
            outputs = mean_logits(network, inputs, settings)
            loss += float(loss_of(task, outputs, targets, plain)) * len(targets)
            correct += int(correct_of(task, outputs, targets))
    model.train(training)
    return Measured(loss / len(labels), correct / len(labels) if task == CLASSIFICATION else None)


def batch_for(images: Tensor, settings: Settings) -> int:
    """How many examples to measure at once: 250, or as many as have the pixels of 250 images of 56 × 56."""
    if images.ndim != 4:
        return MOST_AT_ONCE
    size = settings.preparation.size
    pixels = images.shape[2] * images.shape[3] if size is None else size * size
    return max(1, min(MOST_AT_ONCE, MOST_AT_ONCE * 56 * 56 // pixels))
