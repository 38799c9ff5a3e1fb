"""Detection as ``fit`` sees it: images with their objects in batches, the step on a detector's losses, validation."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from byhand.data.detection import DetectionDataset, Lazy, Objects
from byhand.data.detection_changes import DetectionChanges
from byhand.errors import NonFiniteLoss, SettingsError
from byhand.nn import by_hand
from byhand.training.evaluate import Measured
from byhand.training.settings import Settings
from byhand.training.state import State
from byhand.training.steps import Step
from byhand.training.tasks import DETECTION

# Settings that say nothing to a detector, or would move pixels without moving the boxes on them.
NOT_HERE = (
    "rotate", "zoom", "move", "shift", "erase", "cutout", "mixup", "cutmix", "label_smoothing", "dropout",
)  # fmt: skip
MOST_NAMED = 3  # boxes of an image in an error, and classes in a warning
LOOKED_AT = 50  # test images after each epoch, where no others are held out

Targets = list[dict[str, Tensor]]


def check_detection(settings: Settings) -> None:
    """Raises SettingsError for a setting that a detector cannot be trained with."""
    for name in NOT_HERE:
        value = getattr(settings, name)
        if value:
            raise SettingsError(
                f"{name}={value} is not for detection; flip, crop and colour change images together with their boxes"
            )


def changes_of(settings: Settings) -> DetectionChanges:
    """What the settings change in an image and its objects: ``crop``, a share of the area, is its root of each side."""
    return DetectionChanges(
        flip=0.5 if settings.flip else 0.0,
        vertical_flip=0.5 if settings.vertical_flip else 0.0,
        crop=(settings.crop**0.5, 1.0) if settings.crop else None,
        brightness=settings.colour,
        contrast=settings.colour,
        saturation=settings.colour,
    )


def image_input(image: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The uint8 image (C, H, W) as a detector takes it: float (3, H, W) in 0..1; a grey one three times."""
    return image.to(device).expand(3, -1, -1) / 255


def target_of(objects: Objects, masks: bool, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """What a detector learns of the objects: their boxes, labels from 1 on, and masks if wanted.

    The data set's labels begin at 0, while 0 is a detector's background: here, and nowhere else, 1 is added. Crowds and
    difficult objects are left out: a crowd is not one object, and neither measure asks for either.
    """
    learned = objects.select(~objects.ignored)
    target = {"boxes": learned.boxes.to(device), "labels": (learned.labels + 1).to(device)}
    if masks:
        assert learned.masks is not None
        target["masks"] = learned.masks.to(device)
    return target


def label_of(labels: Tensor) -> Tensor:
    """A detector's labels, 1, 2, ..., as the data set counts them, from 0."""
    return labels.cpu() - 1


class Boxed:
    """Images with objects for ``fit``: batches of them, the step that learns from one, validation.

    All that is drawn in training, of images and of proposals, comes from ``state.changes``, which a checkpoint holds.
    """

    def __init__(self, state: State, data: DetectionDataset) -> None:
        check_detection(state.settings)
        self.state, self.data = state, data
        # images that no batch had yet, and classes that none has shown; masks may be drawn only when asked for
        self.to_come, self.absent = set(range(len(data.train_images))), set(range(data.num_classes))
        self.masks = takes_masks(state.library)
        self.changes = changes_of(state.settings)
        network: Any = state.model
        network.generator = state.changes
        self.step = DetectionStep(state)

    def __len__(self) -> int:
        return len(self.data.train_images)

    def batch(self, places: Tensor) -> tuple[list[Tensor], Targets]:
        """The images at these places, changed at random, and what is to be found in them."""
        device, images, targets = self.state.device, [], []
        self.step.shown = []
        for i in places.tolist():
            objects = self.data.train_objects[i]
            self.to_come.discard(i)
            self.absent.difference_update(objects.labels[~objects.ignored].tolist())
            image, objects = self.changes(self.data.train_images[i], objects, self.state.changes)
            images.append(image_input(image, device))
            targets.append(target_of(objects, self.masks, device))
            self.step.shown.append(objects)
        return images, targets

    def measured(self) -> Measured:
        """The mean loss of the held-out images, which stand in the place of the test set; of none, of its first images.

        A detector begins to learn its images by heart long before its training loss says so. Once all training images
        were there, a warning names the classes that none has shown.
        """
        if not self.to_come:
            tell_absent([self.data.class_names[label] for label in sorted(self.absent)])
            self.absent = set()
        last = None if self.state.settings.hold_out else LOOKED_AT
        images, objects = self.data.test_images[:last], self.data.test_objects[:last]
        return Measured(detection_loss(self.state.kept, images, objects, self.state.settings), None)


class DetectionStep(Step):
    """A step on the sum of a detector's losses; where that is not a number the error names the images and boxes."""

    def __init__(self, state: State) -> None:
        super().__init__(state, DETECTION)
        self.shown: list[Objects] = []  # those of the batch

    def parts(self, inputs: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
        size = -(-len(inputs) // self.state.settings.accumulate)
        for start in range(0, len(inputs), size):
            yield inputs[start : start + size], targets[start : start + size]

    def add_gradients(self, inputs: Any, targets: Any, share: float) -> None:
        with self.precision():
            try:
                losses = self.state.model(inputs, targets)
            except NonFiniteLoss as error:
                raise NonFiniteLoss(f"{error}; {self.seen_images()}") from None
            loss = torch.stack([one.float() for one in losses.values()]).sum()
        self.see(loss.detach(), loss, targets)
        loss.backward(torch.full_like(loss, share))

    def check(self, value: float, where: str, lr: float) -> None:
        try:
            super().check(value, where, lr)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{error}; {self.seen_images()}") from None

    def seen_images(self) -> str:
        """The images and boxes of the batch, in words."""
        return f"the batch: {'; '.join(map(in_words, self.shown))}"


def in_words(objects: Objects) -> str:
    """An image and the first of its boxes, in whole pixels."""
    boxes = [str([round(x) for x in box]) for box in objects.boxes[:MOST_NAMED].tolist()]
    more = f" and {len(objects) - MOST_NAMED} more" if len(objects) > MOST_NAMED else ""
    found = f"boxes {', '.join(boxes)}{more}" if boxes else "no boxes"
    return f"{objects.image or 'an image'} with {found}"


def takes_masks(model: nn.Module) -> bool:
    """Whether the detector has a mask branch."""
    network: Any = model
    return network.roi_heads.mask_head is not None


@contextmanager
def measuring(model: nn.Module, settings: Settings) -> Iterator[Any]:
    """The detector in the hand of the settings and in evaluation mode, drawing from a seed; then as it was."""
    network: Any = model
    training, generator = model.training, network.generator
    model.eval()
    try:
        chosen: Any = by_hand(model) if settings.by_hand else model
        chosen.generator = Generator().manual_seed(0)
        with torch.no_grad():
            yield chosen
    finally:
        network.generator = generator
        model.train(training)


def detection_loss(
    model: nn.Module, images: Sequence[Tensor] | Tensor, objects: Sequence[Objects], settings: Settings
) -> float:
    """The mean over the images of the sum of the losses; normalisation as in evaluation, the same draws every time."""
    device, masks, total = next(model.parameters()).device, takes_masks(model), 0.0
    with measuring(model, settings) as network:
        for i in range(len(images)):
            target = target_of(objects[i], masks, device)
            losses = network([image_input(images[i], device)], [target], losses=True)
            total += sum(float(loss) for loss in losses.values())
    return total / len(images)


def complete(model: nn.Module, data: DetectionDataset, settings: Settings) -> None:
    """Nothing; a network with a method ``complete`` learns from all training images what no step can teach it.

    It is given images and targets as in training, but as they are, unchanged, and says which classes it learned nothing
    of; a warning then names them.
    """
    network: Any = model
    if not hasattr(network, "complete"):
        return
    device, masks = next(model.parameters()).device, takes_masks(model)
    places = range(len(data.train_images))
    images = Lazy(places, lambda i: image_input(data.train_images[i], device))
    targets = Lazy(places, lambda i: target_of(data.train_objects[i], masks, device))
    with measuring(model, settings) as chosen:
        absent = chosen.complete(images, targets)
    tell_absent([data.class_names[label - 1] for label in absent])


def tell_absent(names: Sequence[str]) -> None:
    """Warn that these classes cannot be learned."""
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        told = ", ".join(names[:MOST_NAMED]) + more
        # of one place, so that what a fit and what ``complete`` sees is told once
        warnings.warn(f"the training images show nothing to learn of {told}; never to be found", stacklevel=1)
