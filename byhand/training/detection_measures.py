"""What a detector finds in images, and COCO's measures of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from byhand.data.detection import Objects
from byhand.ops import average_precision
from byhand.ops.average_precision import Detections
from byhand.ops.coco_precision import CocoPrecision, coco_average_precision
from byhand.ops.run_length import encode_mask
from byhand.training.detection import image_input, label_of, measuring
from byhand.training.part_times import PartTimes, timed
from byhand.training.settings import Settings
from byhand.training.views import found_in

MASK_FROM = 0.5  # a pixel belongs to the object from this probability on


@dataclass(frozen=True)
class Precision:
    """COCO's measures of the boxes, and of the masks where the detector gives them and the data set has them.

    ``seconds``: what an image took in each part of the detector, where that was measured.
    """

    boxes: CocoPrecision
    masks: CocoPrecision | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """AP, AP50, ... of boxes, mask_AP, ... of masks, and ``classes`` with AP and AP50 of each; NaN is None."""
        found: dict[str, Any] = {name: _number(value) for name, value in self.boxes.summary().items()}
        classes = {
            name: {key: _number(values[key]) for key in ("AP", "AP50")}
            for name, values in self.boxes.per_class().items()
        }
        if self.masks is not None:
            found |= {f"mask_{name}": _number(value) for name, value in self.masks.summary().items()}
            for name, values in self.masks.per_class().items():
                classes[name] |= {f"mask_{key}": _number(values[key]) for key in ("AP", "AP50")}
        return {**found, "classes": classes, "absent": list(self.boxes.absent), **self.seconds}


def detections(
    model: nn.Module, images: Sequence[Tensor] | Tensor, settings: Settings, times: PartTimes | None = None
) -> Iterator[Detections]:
    """What the detector finds in each uint8 image (C, H, W), in its pixels; labels begin at 0, as the data set's do.

    Images go through the network one by one, so that an answer does not depend on the others. ``times`` takes up how
    long the network's parts are at work.
    """
    device = next(model.parameters()).device
    with measuring(model, settings) as network, timed(network, times):
        for i in range(len(images)):
            found = found_in(network, image_input(images[i], device), settings)
            if times is not None:
                times.images += 1
            masks = None
            if "masks" in found:
                masks = [encode_mask(mask[0] >= MASK_FROM) for mask in found["masks"]]
            yield Detections(found["boxes"].cpu(), found["scores"].cpu(), label_of(found["labels"]), masks)


def truth_of(objects: Objects, masks: bool) -> average_precision.Objects:
    """The objects of an image as the measures take them."""
    runs = [encode_mask(mask) for mask in objects.masks] if masks and objects.masks is not None else None
    return average_precision.Objects(
        objects.boxes, objects.labels, objects.areas, objects.crowd, objects.difficult, runs
    )


def precision(objects: Sequence[Objects], found: Sequence[Detections], class_names: Sequence[str]) -> Precision:
    """COCO's measures of what was found in the images of these objects; of masks too where both have them."""
    given = bool(found) and all(one.masks is not None for one in found)
    truth = [truth_of(objects[i], given) for i in range(len(objects))]  # one by one: masks may be drawn on asking
    masks = given and all(one.masks is not None for one in truth)
    boxes = coco_average_precision(truth, found, class_names)
    return Precision(boxes, coco_average_precision(truth, found, class_names, masks=True) if masks else None)


def _number(value: float) -> float | None:
    return None if torch.isnan(torch.tensor(value)) else value
