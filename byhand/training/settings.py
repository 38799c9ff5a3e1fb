"""Everything that decides what a training learns, and how it is run."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from byhand.data.preparation import Preparation, is_finite
from byhand.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "one-cycle", "step", "milestones", "exponential")
INITS = ("default", "normal")
DIVISORS = ("batch", "batch_size")
SWITCHES = (
    "nesterov",
    "decay_all",
    "flip",
    "vertical_flip",
    "test_flip",
    "freeze",
    "running_metrics",
    "by_hand",
    "depthwise_by_hand",
    "channels_last",
    "mixed_precision",
)
LEAST_ALPHA, MOST_ALPHA = 1e-3, 1e3
MOST_THREADS = 1024  # the thread library ends the process where the system cannot start as many as it is asked for


@dataclass(frozen=True)
class Settings:
    """The settings of one training; checked when made, so that an impossible one never starts.

    What is learned: ``epochs`` passes in batches of ``batch_size``; ``optimizer`` with ``lr`` (its highest),
    ``momentum`` (SGD; Nesterov's where it is above 0 and ``nesterov``), ``beta2`` (Adam), ``weight_decay`` (L2;
    decoupled in adamw; on weights of two and more axes alone, not on biases and the scales of normalisation, unless
    ``decay_all``); ``clip``: gradients are scaled down to this L2 norm of all of them together where it is above 0;
    ``schedule`` of the lr over all steps: constant, cosine to 0, one-cycle (up to lr over the share ``rise`` of the
    steps, then down, Smith 2018), step (× ``gamma`` every ``step_epochs`` epochs), milestones (× ``gamma`` at each of
    the ``milestones``, shares of the steps) or exponential (× ``gamma`` every epoch), after ``warm_up`` epochs of
    linear rise; ``label_smoothing`` ε; ``dropout`` where the network takes it; ``ema`` d: the weights kept are the
    running mean w̄ ← d w̄ + (1 − d) w, with smaller d in the first steps. ``patience``: the training ends after so
    many epochs without a better accuracy (of a regression: loss) on the held-out examples, and the weights of the best
    epoch are kept; 0 goes on to the end and keeps the last.

    What is changed in each image, anew in each epoch: ``flip`` left to right, ``vertical_flip`` top to bottom
    (where there is no up, as under a microscope), ``rotate`` ± degrees, ``zoom`` ± a share, ``move`` ± pixels (with
    fractions), ``shift`` ± whole pixels (padding and cropping), ``crop``: a random rectangle of at least this share
    of the area, at the size of the image; ``colour``: brightness, contrast and saturation ± a share; ``erase``: the
    probability of a random rectangle of noise; ``cutout``: the side of a square of the mean colour in pixels.
    ``mixup`` and ``cutmix`` are the α of the Beta distribution that two images of the batch are mixed by; with
    both, each batch takes one of them by a coin; accuracy while training counts the label of the larger share.

    What of a network with weights of others' moves: with ``freeze`` the head alone, while normalisation in the body
    keeps its running statistics; else the body by the share ``body_lr`` of the lr. Heads are what
    ``byhand.models.weights.heads_of`` says.

    ``init``: torch's own, or the source's ``normal``: weights N(0, 0.01²), biases 0. ``divide_by``: the gradient is the
    mean over the batch, or with ``batch_size`` the sum over the batch divided by the fixed batch size, as the source's
    sgd does: its last, smaller batch then counts less. ``running_metrics``: report the training loss and accuracy that
    were summed up while the last epoch ran, as the source does, in place of those of the final weights.

    ``test_flip``: where the network is measured, the mean of the logits of each image and of its mirror image, and of a
    detector the objects found in both as one answer; with ``vertical_flip`` of all four mirror images.

    How it is run: ``seed``; ``hold_out``, a share of the training images that is measured on in place of the test set;
    ``by_hand``, on a CPU the faster hand for the networks of chapters 3 to 6, or False: torch's layers, loss and
    optimizer; ``accumulate``: each batch goes through the network in so many parts, whose gradients are added, for less
    memory (batch normalisation then sees the parts); ``depthwise_by_hand``: torch's layers but for depthwise
    convolutions of images smaller than their kernel (``byhand.training.quicker``); ``channels_last``, the order of maps
    in memory, and ``mixed_precision``, bfloat16 where torch's autocast has it, are of the library's hand alone (of a
    plan it holds where the device computes bfloat16 itself); ``device`` (auto, cpu, cuda); ``threads`` (0: as torch
    finds them).
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.0
    beta2: float = 0.999
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = True
    clip: float = 0.0
    schedule: str = "constant"
    rise: float = 0.3
    warm_up: float = 0.0
    gamma: float = 0.1
    step_epochs: int = 1
    milestones: Sequence[float] = ()
    label_smoothing: float = 0.0
    dropout: float = 0.0
    ema: float = 0.0
    patience: int = 0
    flip: bool = False
    vertical_flip: bool = False
    rotate: float = 0.0
    zoom: float = 0.0
    move: float = 0.0
    shift: int = 0
    crop: float = 0.0
    colour: float = 0.0
    erase: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    test_flip: bool = False
    freeze: bool = False
    body_lr: float = 1.0
    init: str = "default"
    divide_by: str = "batch"
    running_metrics: bool = False
    preparation: Preparation = field(default_factory=Preparation)
    seed: int = 0
    hold_out: float = 0.0
    by_hand: bool = True
    depthwise_by_hand: bool = False
    accumulate: int = 1
    channels_last: bool = False
    mixed_precision: bool = False
    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_epochs", "accumulate"):
            _whole(name, getattr(self, name), 1)
        for name in ("shift", "cutout", "patience"):
            _whole(name, getattr(self, name), 0)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _whole("threads", self.threads, 0, MOST_THREADS)
        _within("lr", self.lr, 0, math.inf, open_below=True)
        for name in ("weight_decay", "clip", "warm_up", "rotate", "move"):
            _within(name, getattr(self, name), 0, math.inf)
        for name in ("mixup", "cutmix"):
            if getattr(self, name) != 0:  # beyond these bounds all draws are one number, or none
                _within(name, getattr(self, name), LEAST_ALPHA, MOST_ALPHA, or_else=", or 0 for none")
        _within("gamma", self.gamma, 0, math.inf, open_below=True)
        for name in ("label_smoothing", "crop", "erase", "body_lr"):
            _within(name, getattr(self, name), 0, 1)
        _within("rise", self.rise, 0, 1, open_below=True, open_above=True)
        for name in ("momentum", "beta2", "dropout", "ema", "zoom", "colour", "hold_out"):
            _within(name, getattr(self, name), 0, 1, open_above=True)
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("init", INITS),
            ("divide_by", DIVISORS),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name}={getattr(self, name)!r} must be True or False")
        for share in self.milestones:
            _within("milestones", share, 0, 1, open_below=True, open_above=True)
        object.__setattr__(self, "milestones", tuple(self.milestones))  # from a record it comes as a list
        if (self.schedule == "milestones") != bool(self.milestones):
            raise SettingsError(
                f"milestones={self.milestones} with schedule={self.schedule!r}; the schedule 'milestones' needs some, "
                "such as (0.5, 0.75), and no other takes any"
            )
        if self.patience and not self.hold_out:
            raise SettingsError(f"patience={self.patience} looks at held-out examples; give hold_out, such as 0.1")
        if self.mixed_precision and self.by_hand:
            raise SettingsError("mixed_precision=True is of the library's hand; give by_hand=False with it")
        if self.depthwise_by_hand and self.by_hand:
            raise SettingsError("depthwise_by_hand=True says that all else is torch's; give by_hand=False with it")
        if self.freeze and self.body_lr != 1:
            raise SettingsError(f"freeze=True and body_lr={self.body_lr}: a body that stands still has no lr; give one")
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", self.device):
            raise SettingsError(f"device={self.device!r} must be auto, cpu or cuda (cuda:1 for the second of several)")
        if not isinstance(self.preparation, Preparation):
            raise SettingsError(f"preparation={self.preparation!r} must be a byhand.data.preparation.Preparation")

    def replace(self, **changes: Any) -> "Settings":
        """The settings with some of them changed; raises SettingsError for a name that is not one of them.

        What is of one hand alone, and was there before, is lost where a hand is chosen, unless it is asked for as well:
        mixed precision where all goes by hand, ``depthwise_by_hand`` in either.
        """
        known = {one.name for one in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                raise unknown_name("setting", name, known)
        if "by_hand" in changes:
            changes = {"depthwise_by_hand": False, **changes}
        if changes.get("by_hand"):
            changes = {"mixed_precision": False, **changes}
        return dataclasses.replace(self, **changes)

    def prepared(self, images: "Tensor") -> "Tensor":
        """The float batch as the network takes it: prepared, and in the order in memory that the settings ask for."""
        images = self.preparation(images)
        if self.channels_last and not self.by_hand and images.ndim == 4:
            import torch

            return images.contiguous(memory_format=torch.channels_last)
        return images

    def record(self) -> dict[str, Any]:
        """The settings as plain values, for recipe.json."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Settings":
        """The settings that ``record()`` wrote; raises SettingsError where they are not."""
        try:
            return cls(**{**record, "preparation": Preparation.of(record.get("preparation"))})
        except TypeError as error:
            raise SettingsError(f"these are not the settings of a training: {error}") from None


def from_text(text: str) -> tuple[str, Any]:
    """Name and value of a setting that is written NAME=VALUE: a number, true or false, or shares apart by commas.

    Raises UnknownName for a name that is none, SettingsError for a value that cannot be meant.
    """
    name, sign, value = (part.strip() for part in text.partition("="))
    kinds = {one.name: one.type for one in dataclasses.fields(Settings) if one.name != "preparation"}
    if not sign:
        raise SettingsError(f"{text!r} must be NAME=VALUE, such as mixup=0.2")
    if name not in kinds:
        raise unknown_name("setting", name, kinds)
    known: dict[Any, tuple[str, Callable[[str], Any]]] = {
        bool: ("true or false", lambda text: {"true": True, "false": False}[text.lower()]),
        int: ("a whole number", int),
        float: ("a number", float),
        str: ("a name", str),
    }
    several = ("numbers apart by commas", lambda text: tuple(float(part) for part in text.split(",") if text))
    kind, read = known.get(kinds[name], several)
    try:
        return name, read(value)
    except (KeyError, ValueError):
        raise SettingsError(f"{name}={value!r} must be {kind}") from None


def _whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        above = "" if most is None else f" and at most {most}"
        raise SettingsError(f"{name}={value!r} must be a whole number of at least {least}{above}")


def _within(
    name: str,
    value: Any,
    low: float,
    high: float,
    open_below: bool = False,
    open_above: bool = False,
    or_else: str = "",
) -> None:
    outside = not is_finite(value) or value < low or value > high
    if outside or (open_below and value == low) or (open_above and value == high):
        below = f"above {low}" if open_below else f"at least {low}"
        above = "" if high == math.inf else f" and {'below' if open_above else 'at most'} {high}"
        raise SettingsError(f"{name}={value!r} must be a finite number {below}{above}{or_else}")
