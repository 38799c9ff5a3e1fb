"""What a network is trained for: its loss, and what is counted besides."""

import torch
from torch import Tensor
from torch.nn import functional as library

from byhand import ops
from byhand.training.settings import Settings

CLASSIFICATION, REGRESSION, DETECTION = "classification", "regression", "detection"
AUXILIARY_SHARE = 0.3  # of the loss of each head in the middle of a network (Szegedy et al. 2015, section 5)

Outputs = Tensor | tuple[Tensor, ...]  # of a network with auxiliary heads in training: the logits, then theirs


def logits_of(outputs: Outputs) -> Tensor:
    """What the network answers, without what its auxiliary heads say in training."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def loss_of(task: str, outputs: Outputs, targets: Tensor, settings: Settings) -> Tensor:
    """The mean loss of a batch in the hand of the settings: cross-entropy from logits, or the source's ½ (ŷ − y)².

    Of a network with auxiliary heads L(logits) + 0.3 Σ L(auxiliary logits).
    """
    if isinstance(outputs, tuple):
        loss, *others = (loss_of(task, one, targets, settings) for one in outputs)
        return loss + AUXILIARY_SHARE * sum(others)
    if task == CLASSIFICATION:
        family = ops if settings.by_hand else library
        return family.cross_entropy(outputs, targets, label_smoothing=settings.label_smoothing)
    if settings.by_hand:
        return ops.squared_loss(outputs, targets, reduction="mean")
    return library.mse_loss(outputs, targets) / 2


def correct_of(task: str, outputs: Outputs, targets: Tensor) -> Tensor:
    """How many of the batch have their largest logit at the label, int64 (); 0 for a regression.

    Of a distribution over the classes, (B, num_classes), the label is the class with the largest share.
    """
    logits = logits_of(outputs)
    if task == CLASSIFICATION:
        if targets.ndim == 2:
            targets = targets.argmax(1)
        return (logits.argmax(1) == targets).sum()
    return torch.zeros((), dtype=torch.int64, device=logits.device)
