"""Images with boxed objects in memory: the objects of one image, and a data set of such images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch
from torch import Tensor

from byhand.data.arrays import held_and_kept
from byhand.errors import ShapeError

SMALL, MEDIUM = (
    32**2,
    96**2,
)  # square pixels: COCO's small objects are under the first, its large ones from the second on


@dataclass(frozen=True, eq=False)  # comparing tensors with == gives no truth value
class Objects:
    """The N objects of one image, on the CPU.

    boxes: float32 (N, 4), (x1, y1, x2, y2) in pixels from the image's upper left corner, x1 < x2 and y1 < y2: a box
        around the pixels of columns a..b reaches from x1 = a to x2 = b + 1. labels: int64 (N,), the index into the
        data set's `class_names`; background is no label. crowd: bool (N,), a group in one box, which measures neither
        ask for nor count against. difficult: bool (N,), what VOC's measure ignores likewise. areas: float32 (N,), in
        square pixels, of the object itself where that is known, else of its box. masks: bool (N, H, W), or None where
        there are none. `image` names the picture and `image_id` is its number, for error messages and for results.

    Raises:
        ShapeError: the tensors do not belong to the same number of objects, or are of other dtypes.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    areas: Tensor
    masks: Tensor | None = None
    difficult: Tensor | None = None
    image: str = ""
    image_id: int = 0

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.difficult is None:
            object.__setattr__(self, "difficult", torch.zeros(n, dtype=torch.bool))
        expected = {
            "boxes": (torch.float32, (n, 4)),
            "labels": (torch.int64, (n,)),
            "crowd": (torch.bool, (n,)),
            "areas": (torch.float32, (n,)),
            "difficult": (torch.bool, (n,)),
        }
        if self.masks is not None:
            expected["masks"] = (torch.bool, (n, *self.masks.shape[-2:]))
        for name, (dtype, shape) in expected.items():
            value = getattr(self, name)
            if value.dtype != dtype or value.shape != shape:
                raise ShapeError(
                    f"{name} {tuple(value.shape)} of {value.dtype} must be {shape} of {dtype} for {n} objects"
                )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ignored(self) -> Tensor:
        """Whether the object is neither asked for nor counted against, bool (N,): a crowd, or difficult."""
        return self.crowd if self.difficult is None else self.crowd | self.difficult

    def select(self, which: Tensor) -> "Objects":
        """The objects where `which` is true, or at these places: bool (N,) or int64 (M,)."""
        names = ("boxes", "labels", "crowd", "areas", "masks", "difficult")
        return replace(self, **{name: value[which] for name in names if (value := getattr(self, name)) is not None})


def make_objects(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    crowd: Sequence[bool] | None = None,
    difficult: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
    masks: Tensor | None = None,
    image: str = "",
    image_id: int = 0,
) -> Objects:
    """Objects from plain numbers, none of them for empty lists; areas are those of the boxes unless given."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    nothing = [False] * len(corners)
    return Objects(
        corners,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(nothing if crowd is None else crowd, dtype=torch.bool),
        box_areas(corners) if areas is None else torch.tensor(areas, dtype=torch.float32),
        masks,
        torch.tensor(nothing if difficult is None else difficult, dtype=torch.bool),
        image,
        image_id,
    )


def box_areas(boxes: Tensor) -> Tensor:
    """Width times height of each box (x1, y1, x2, y2), (N, 4) -> (N,), in square pixels."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def mask_boxes(masks: Tensor) -> Tensor:
    """The box around the true pixels of each mask, bool (N, H, W) -> float32 (N, 4); zeros where there is none."""
    _, height, width = masks.shape
    columns, rows = masks.any(1), masks.any(2)  # (N, W), (N, H)
    x, y = torch.arange(width, device=masks.device), torch.arange(height, device=masks.device)
    boxes = torch.stack(
        [
            x.where(columns, width).amin(1),
            y.where(rows, height).amin(1),
            (x + 1).where(columns, 0).amax(1),
            (y + 1).where(rows, 0).amax(1),
        ],
        1,
    ).float()  # (N, 4)
    return boxes * columns.any(1, keepdim=True)


class Lazy(Sequence[Any]):
    """A list whose items are made when they are asked for, and not kept: `make` of one of `sources`."""

    def __init__(self, sources: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self.sources, self.make = sources, make

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> "Lazy": ...
    def __getitem__(self, i: int | slice) -> Any:
        return Lazy(self.sources[i], self.make) if isinstance(i, slice) else self.make(self.sources[i])


Images = Tensor | Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Training and test images with their objects.

    Images are uint8 (C, H, W): one tensor (N, C, H, W) where all of a part have one size, else a list. A part that does
    not fit into memory is a sequence that decodes an image each time it is asked for it; masks of the user's own labels
    are likewise drawn when they are asked for. `category_ids` are the numbers of the classes where results are
    exchanged (COCO's own, which have gaps; 1, 2, 3, ... elsewhere): the only other numbers that classes have.

    `skipped` says of every image, object or list entry that was left out why; `changed` says of each that was kept, but
    not as it was written (a box cut at the image's border), how. `sha256`, `source` are as in `arrays.Dataset`.
    """

    name: str
    train_images: Images
    train_objects: Sequence[Objects]
    test_images: Images
    test_objects: Sequence[Objects]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] = ()
    has_masks: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, objects = getattr(self, f"{part}_images"), getattr(self, f"{part}_objects")
            if len(images) != len(objects):
                raise ShapeError(f"{len(images)} {part} images with the objects of {len(objects)}; give one of each")
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(1, len(self.class_names) + 1)))
        if len(self.category_ids) != len(self.class_names):
            raise ShapeError(f"{len(self.category_ids)} category ids for {len(self.class_names)} classes")

    @property
    def num_classes(self) -> int:
        """Number of classes, background not among them."""
        return len(self.class_names)

    def hold_out(self, fraction: float, seed: int = 0) -> "DetectionDataset":
        """The same data set with a random part of the training images in place of the test set.

        As `arrays.Dataset.hold_out`: round(fraction · N) images, the same for the same N and seed everywhere.

        Raises:
            SettingsError: fraction not in (0, 1), or so that one of the two parts would be empty; seed negative.
        """
        num_train = len(self.train_images)
        held, kept = (places.tolist() for places in held_and_kept(num_train, fraction, seed, "images"))
        return replace(
            self,
            train_images=subset(self.train_images, kept),
            train_objects=subset(self.train_objects, kept),
            test_images=subset(self.train_images, held),
            test_objects=subset(self.train_objects, held),
            source=f"{self.source}; {len(held)} of {num_train} training images held out with seed {seed} as test set",
        )


def subset(items: Any, places: Sequence[int]) -> Any:
    """The items at these places: of a tensor a tensor, of a lazy list a lazy list, of any other a list."""
    if isinstance(items, Tensor):
        return items[torch.tensor(places, dtype=torch.int64)]
    if isinstance(items, Lazy):
        return Lazy([items.sources[i] for i in places], items.make)
    return [items[i] for i in places]
