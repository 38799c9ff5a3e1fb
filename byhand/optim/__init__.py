"""torch.optim's names, written out: SGD, Adam, AdamW, and the schedules of the learning rate."""

from byhand.optim import lr_scheduler, schedules
from byhand.optim.adam import Adam, AdamW
from byhand.optim.optimizer import Optimizer
from byhand.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler", "schedules"]
