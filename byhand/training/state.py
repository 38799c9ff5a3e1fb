"""A training under way: all that must survive for it to go on bit for bit."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from byhand import optim
from byhand.errors import RunError
from byhand.nn import by_hand, init
from byhand.nn.hands import is_only_ours
from byhand.optim import schedules
from byhand.training.groups import freeze_body, keep_statistics, parameter_groups
from byhand.training.quicker import quicker
from byhand.training.settings import Settings
from byhand.training.tasks import CLASSIFICATION, correct_of

COUNTED_AT_ONCE = 8  # batches
FORMAT = 1  # of the dict that is saved; another number is another meaning


class State:
    """The network, its optimizer, the random generators, and the place in the epoch; ``State.new`` begins a training.

    ``epoch`` counts finished epochs and ``position`` finished steps of the current one; the permutation of an epoch is
    drawn from ``order``, whose state from before the epoch is kept, so that a training interrupted in mid-epoch draws
    it again. ``stop`` asks ``fit`` to leave after the step it is in.
    """

    def __init__(self, model: nn.Module, settings: Settings, device: torch.device) -> None:
        self.library = model.to(device)  # what is saved: both hands share its parameters
        if settings.channels_last and not settings.by_hand:
            self.library.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.freeze:
            freeze_body(self.library)
        self.model = self.library
        if settings.by_hand:
            self.model = by_hand(self.library)
        elif device.type == "cpu":
            self.model = quicker(
                self.library, depthwise_by_hand=settings.depthwise_by_hand, channels_last=settings.channels_last
            )
        self.only_ours = settings.by_hand and is_only_ours(self.model)  # then our own tape leads back, not autograd
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.settings, self.device = settings, device
        self.optimizer = _optimizer(self.model, settings, device)
        self.mean = copy.deepcopy(self.library) if settings.ema else None
        self.order = torch.Generator().manual_seed(settings.seed)
        self.changes = torch.Generator().manual_seed(settings.seed + 1)  # of the images; never the permutation's draws
        self.before_epoch = self.order.get_state()
        self.epoch = self.position = self.step = 0
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0  # of ``seen`` examples ``counted`` were counted by now
        self.counted = 0
        self.uncounted: list[tuple[Tensor, Tensor]] = []
        self.seconds = 0.0
        self.stop = False
        self.best: dict[str, Any] | None = None  # with patience: epoch, score and weights of the best epoch by now

    @classmethod
    def new(cls, build, settings: Settings, device: torch.device) -> "State":
        """A training at its beginning: the network that ``build()`` makes, initialised from the seed."""
        torch.manual_seed(settings.seed)
        model = build()
        if settings.init == "normal":
            initialise_normal(model)
        return cls(model, settings, device)

    @property
    def kept(self) -> nn.Module:
        """The network to evaluate and to keep: the running mean of the weights where the settings ask for one."""
        return self.library if self.mean is None else self.mean

    def train(self) -> None:
        """Put the network into training mode, but for the normalisation of a body that stands still."""
        self.model.train()
        if self.settings.freeze:
            keep_statistics(self.model)

    @property
    def ended(self) -> bool:
        """Whether the last epoch is done, or patience is at its end."""
        out_of_patience = self.best is not None and self.epoch - self.best["epoch"] >= self.settings.patience
        return self.epoch >= self.settings.epochs or out_of_patience

    def judge(self, loss: float | None, accuracy: float | None) -> None:
        """With patience: keep this epoch's weights where it did better on the held-out examples than all before."""
        if not self.settings.patience or loss is None:
            return
        score = -loss if accuracy is None else accuracy
        if self.best is None or score > self.best["score"]:
            weights = {name: value.clone() for name, value in self.kept.state_dict().items()}
            self.best = {"epoch": self.epoch, "score": score, "weights": weights}

    def take_best(self) -> None:
        """At the end: the network to keep gets the weights of the best epoch, where patience kept them."""
        if self.best is not None:
            self.kept.load_state_dict(self.best["weights"])

    def average(self) -> None:
        """Move the running mean towards the weights: w̄ ← d w̄ + (1 − d) w, d = min(ema, (1 + t) / (10 + t))."""
        if self.mean is None:
            return
        d = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, weight in zip(self.mean.parameters(), self.library.parameters(), strict=True):
                if weight.requires_grad:  # what stands still must not even be rounded
                    mean.mul_(d).add_(weight, alpha=1 - d)
            for kept, buffer in zip(self.mean.buffers(), self.library.buffers(), strict=True):
                kept.copy_(buffer)

    def count(self, outputs: Tensor, labels: Tensor) -> None:
        """Note the answers to a batch; many batches are counted at once, as counting each costs as much as a layer."""
        self.uncounted.append((outputs, labels))
        if len(self.uncounted) == COUNTED_AT_ONCE:
            self.count_up()

    def count_up(self) -> None:
        """Bring ``correct`` up to the last batch that was noted."""
        if self.uncounted:
            outputs, labels = (torch.cat(part) for part in zip(*self.uncounted, strict=True))
            self.correct += int(correct_of(CLASSIFICATION, outputs, labels))
            self.counted += len(labels)
            self.uncounted = []

    def begin_epoch(self) -> None:
        """Set the sums of a new epoch to zero and remember the generator that its permutation will be drawn from."""
        self.before_epoch = self.order.get_state()
        self.position, self.loss_sum, self.correct, self.seen, self.seconds = 0, 0.0, 0, 0, 0.0
        self.counted, self.uncounted = 0, []

    def finite(self) -> bool:
        """Whether every weight is a number; a state with others is not worth a checkpoint."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.library.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Everything as tensors and plain values, for a checkpoint."""
        self.count_up()
        return {
            "format": FORMAT,
            "model": self.library.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "generators": {
                # Within an epoch its permutation must be drawn again; between two the next one is to come.
                "order": self.before_epoch if self.position else self.order.get_state(),
                "changes": self.changes.get_state(),
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            },
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "sums": [self.loss_sum, self.correct, self.seen],
            "seconds": self.seconds,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where ``state_dict()`` was taken; raises RunError where the checkpoint is of another network."""
        try:
            if saved["format"] != FORMAT:
                raise ValueError(f"it has format {saved['format']!r}, this byhand reads {FORMAT}")
            self.library.load_state_dict(saved["model"])
            if self.mean is not None:
                self.mean.load_state_dict(saved["mean"])
            self.best = saved.get("best")
            self.optimizer.load_state_dict(saved["optimizer"])
            generators = saved["generators"]
            self.before_epoch = generators["order"]
            self.order.set_state(self.before_epoch)
            self.changes.set_state(generators["changes"])
            torch.set_rng_state(generators["torch"])
            if generators["cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(generators["cuda"], self.device)
            self.epoch, self.position, self.step = (_count(saved, name) for name in ("epoch", "position", "step"))
            self.loss_sum, self.correct, self.seen = saved["sums"]
            self.counted, self.uncounted = self.seen, []
            self.seconds = float(saved["seconds"])
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise RunError(f"the checkpoint does not fit this network and its settings: {reason}") from None


def lr_at(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0, over all epochs of the training."""
    total = settings.epochs * steps_per_epoch
    rise = round(settings.warm_up * steps_per_epoch)
    if step < rise:
        return settings.lr * (step + 1) / rise
    done, span = step - rise, max(total - rise, 1)
    match settings.schedule:
        case "constant":
            return settings.lr
        case "cosine":
            return settings.lr * schedules.cosine(done, span)
        case "one-cycle":
            return settings.lr * schedules.one_cycle(done, span, settings.rise) if span > 1 else settings.lr
        case "step":
            return settings.lr * schedules.step_decay(done, settings.step_epochs * steps_per_epoch, settings.gamma)
        case "milestones":
            passed = sum(done >= round(share * span) for share in settings.milestones)
            return settings.lr * settings.gamma**passed
        case _:
            return settings.lr * schedules.exponential(done // steps_per_epoch, settings.gamma)


def _count(saved: dict[str, Any], name: str) -> int:
    if not isinstance(saved[name], int) or saved[name] < 0:
        raise ValueError(f"{name}={saved[name]!r} must be a whole number of at least 0")
    return saved[name]


def initialise_normal(model: nn.Module) -> None:
    """Every weight drawn from N(0, 0.01²) and every bias set to 0, as the source does it for its first networks."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            init.normal_(parameter, 0.0, 0.01)
        else:
            init.zeros_(parameter)


def _optimizer(model: nn.Module, settings: Settings, device: torch.device):
    family: Any = optim if settings.by_hand else torch.optim
    groups = parameter_groups(model, settings)
    # One kernel for all weights, which takes its lr from a tensor: what a step that never waits needs.
    how = {"fused": True} if device.type != "cpu" and not settings.by_hand else {}
    if settings.optimizer == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return family.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov, **how)
    kind = family.AdamW if settings.optimizer == "adamw" else family.Adam
    return kind(groups, lr=settings.lr, betas=(0.9, settings.beta2), **how)
