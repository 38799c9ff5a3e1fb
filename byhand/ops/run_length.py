"""Masks as run lengths, in the format of COCO's files: encoded, decoded, measured and merged.

A mask of H × W pixels is read column after column, and the lengths of its runs are noted, zeros first:

    [[0, 1, 1],
     [0, 0, 1]]    reads 0 0 1 0 1 1, which is {"size": [2, 3], "counts": [2, 1, 1, 2]}.

COCO also writes the counts as a string. From the fourth on, a number becomes its difference from the one two places
before, as neighbouring columns are alike; then it is cut into groups of five bits, the lowest first, the last one
holding the sign; and each group becomes a character, 48 + group, + 32 where more groups follow.

Every function reads both forms, and many masks at once: run lengths are never unpacked to pixels to be measured.
Equal bit for bit to ``pycocotools.mask``. Source: Lin et al., Microsoft COCO (2014), and its mask API.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from byhand.errors import DataError, ShapeError

MOST_PIXELS = 2**32 - 1  # COCO's own counts are numbers of 32 bits
AT_ONCE = 2**21  # how many numbers are looked up in one go; more would fill the memory
GROUPS = 12  # groups of five bits in the longest number that is read

RunLengths = dict[str, Any]  # {"size": [height, width], "counts": list or string}


def encode_mask(mask: Tensor, compressed: bool = True) -> RunLengths:
    """The run lengths of a mask, bool (H, W); ``compressed=False`` leaves the counts a list of numbers.

    Raises ShapeError for anything but a bool tensor of two axes with at least one pixel.
    """
    if mask.ndim != 2 or mask.dtype != torch.bool or not mask.numel():
        raise ShapeError(
            f"a mask of shape {tuple(mask.shape)} and type {mask.dtype} must be (H, W) of torch.bool with at least one "
            "pixel; probabilities become one by mask >= 0.5"
        )
    pixels = mask.detach().cpu().T.reshape(-1)
    before = torch.cat([pixels.new_zeros(1), pixels[:-1]])
    height, width = mask.shape
    return from_changes((pixels != before).nonzero()[:, 0], height, width, compressed)


def decode_mask(mask: Mapping[str, Any]) -> Tensor:
    """The pixels of a mask, bool (H, W). Raises DataError for run lengths that make no mask of their size."""
    runs = read_masks([mask])
    height, width = runs.sizes[0].tolist()
    return torch.repeat_interleave(runs.ones, runs.stop - runs.start).view(width, height).T


def mask_area(masks: Sequence[Mapping[str, Any]]) -> Tensor:
    """How many pixels each mask covers, (N,) int64. Raises DataError for run lengths that make no mask."""
    parts = [read_masks(masks[i : i + 4096]).area() for i in range(0, len(masks), 4096)]  # a part at a time, for memory
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def mask_box(masks: Sequence[Mapping[str, Any]]) -> Tensor:
    """The smallest box around each mask, (N, 4) float64: x1, y1, x2, y2 in pixels, x2 and y2 just outside of it.

    A mask without pixels has the box 0, 0, 0, 0. (``pycocotools.mask.toBbox`` gives x, y, width, height.)
    Raises DataError for run lengths that make no mask of their size.
    """
    return read_masks(masks).box().double()


def mask_iou(
    masks_a: Sequence[Mapping[str, Any]], masks_b: Sequence[Mapping[str, Any]], crowd: Tensor | None = None
) -> Tensor:
    """Shared pixels over the pixels of either, of every pair: N and M masks -> (N, M) float64 in 0..1.

    Where mask j of ``masks_b`` is a ``crowd`` (bool (M,): a region of many objects that nobody told apart), the divisor
    is the area of mask i alone, as it may stand for any part of the crowd.
    Raises ShapeError for masks of different sizes, DataError for run lengths that make no mask of their size.
    """
    a, b = read_masks(masks_a), read_masks(masks_b)
    N, M = len(a.sizes), len(b.sizes)
    if crowd is not None and (crowd.shape != (M,) or crowd.dtype != torch.bool):
        raise ShapeError(f"crowd {tuple(crowd.shape)} of {crowd.dtype} must be ({M},) of torch.bool, one for each mask")
    i, j = torch.arange(N).repeat_interleave(M), torch.arange(M).repeat(N)
    return paired_mask_iou(a, b, i, j, None if crowd is None else crowd.cpu()[j]).view(N, M)


def merge_masks(masks: Sequence[Mapping[str, Any]], intersect: bool = False, compressed: bool = True) -> RunLengths:
    """The union of masks of one size, or what all of them share.

    Raises ShapeError for no masks and for different sizes, DataError for run lengths that make no mask of their size.
    """
    runs = read_masks(masks)
    if not len(runs.sizes) or (runs.sizes != runs.sizes[0]).any():
        raise ShapeError(f"masks of sizes {runs.sizes.unique(dim=0).tolist()} must be at least one, all of one size")
    covering = runs.ones & (runs.stop > runs.start)
    changes = torch.cat([runs.start[covering], runs.stop[covering]])
    pixel, at = changes.unique(return_inverse=True)
    change = torch.ones_like(changes)
    change[len(changes) // 2 :] = -1
    layers = torch.zeros_like(pixel).index_add(0, at, change).cumsum(0)  # how many masks cover what follows that pixel
    inside = layers == len(masks) if intersect else layers > 0
    before = torch.cat([inside.new_zeros(1), inside[:-1]])[: len(inside)]
    height, width = runs.sizes[0].tolist()
    return from_changes(pixel[inside != before], height, width, compressed)


def from_changes(changes: Tensor, height: int, width: int, compressed: bool) -> RunLengths:
    """Run lengths from the pixel numbers, in order, at which a mask changes; the last may lie behind its end."""
    ends = changes.new_tensor([0, height * width])
    counts = torch.diff(torch.cat([ends[:1], changes[changes < ends[1]], ends[1:]]))
    return {"size": [height, width], "counts": _to_string(counts) if compressed else counts.tolist()}


def _to_string(counts: Tensor) -> str:
    numbers = counts.clone()
    numbers[3:] -= counts[1:-2]
    shifts = 5 * torch.arange(GROUPS)
    # n groups hold −2^(5n−1) .. 2^(5n−1) − 1
    size = torch.where(numbers < 0, -1 - numbers, numbers)[:, None]
    more = size >> (shifts + 4) != 0
    written = torch.cat([torch.ones_like(more[:, :1]), more[:, :-1]], 1)
    characters = (numbers[:, None] >> shifts & 31) + 48 + 32 * more
    return bytes(characters[written].tolist()).decode("ascii")


@dataclass(frozen=True)
class Runs:
    """The runs of N masks, one mask after the other, S runs in all; a run of a mask is ``start`` ≤ pixel < ``stop``."""

    sizes: Tensor  # (N, 2): height, width
    mask: Tensor  # (S,) whose run it is
    ones: Tensor  # (S,) whether it covers, or lies between
    start: Tensor  # (S,)
    stop: Tensor  # (S,)

    def area(self) -> Tensor:
        return _per_mask(self, (self.stop - self.start) * self.ones, "sum")

    def box(self) -> Tensor:
        """(N, 4) int64: x1, y1, x2, y2; zeros where nothing is covered."""
        height = self.sizes[self.mask, 0]
        covering = self.ones & (self.stop > self.start)
        first, last = self.start, self.stop - 1
        across = covering & (first // height < last // height)  # over the end of a column: all rows
        top, bottom = torch.where(across, 0, first % height), torch.where(across, height - 1, last % height)
        edges = [
            _per_mask(self, torch.where(covering, edge, none), how)
            for edge, none, how in (
                (first // height, MOST_PIXELS, "amin"),
                (top, MOST_PIXELS, "amin"),
                (last // height + 1, 0, "amax"),
                (bottom + 1, 0, "amax"),
            )
        ]
        box = torch.stack(edges, 1)
        return torch.where(box == MOST_PIXELS, 0, box)


def _per_mask(runs: Runs, values: Tensor, how: str) -> Tensor:
    result = torch.zeros(len(runs.sizes), dtype=torch.int64)
    return result.scatter_reduce(0, runs.mask, values, how, include_self=how == "sum")


def paired_mask_iou(a: Runs, b: Runs, i: Tensor, j: Tensor, crowd: Tensor | None) -> Tensor:
    """What ``mask_iou`` gives, of mask i[p] of a and mask j[p] of b, with crowd[p] for b's: (P,) float64."""
    unlike = (a.sizes[i] != b.sizes[j]).any(1)
    if unlike.any():
        p = int(unlike.nonzero()[0])
        raise ShapeError(
            f"a mask of size {a.sizes[i[p]].tolist()} cannot be compared with one of size {b.sizes[j[p]].tolist()}; "
            "both must be (height, width) of their image"
        )
    box_a, box_b = a.box()[i], b.box()[j]
    overlap = torch.minimum(box_a[:, 2:], box_b[:, 2:]) > torch.maximum(box_a[:, :2], box_b[:, :2])
    near = overlap.all(1).nonzero()[:, 0]
    shared = torch.zeros_like(i)
    shared[near] = _shared(a, b, i[near], j[near])
    area = a.area()[i]
    either = area + b.area()[j] - shared
    if crowd is not None:
        either = torch.where(crowd, area, either)
    return shared.double() / torch.where(shared > 0, either, 1)


def _shared(a: Runs, b: Runs, i: Tensor, j: Tensor) -> Tensor:
    """How many pixels mask i[p] of a and mask j[p] of b share: Σ over runs of a of b's pixels up to stop − to start.

    b's pixels before a given one are those of its earlier runs, and a part of the run that the pixel lies in; a search
    in the starts of all runs finds it.
    """
    runs = a.ones.nonzero()[:, 0]
    number = torch.bincount(a.mask[runs], minlength=len(a.sizes))
    first = number.cumsum(0) - number
    stride = int(b.stop.max()) + 1 if len(b.stop) else 1
    starts = b.mask * stride + b.start
    covered = (b.stop - b.start) * b.ones
    before = covered.cumsum(0) - covered  # over all masks: what lies before mask j is in both of the two, and goes away

    def up_to(mask: Tensor, pixel: Tensor) -> Tensor:
        run = torch.searchsorted(starts, mask * stride + pixel, right=True) - 1
        return before[run] + (pixel - b.start[run]) * b.ones[run]

    result = torch.zeros_like(i)
    for part in pieces(number[i], AT_ONCE):
        pair, run = spread(first[i[part]], number[i[part]])
        run, mask = runs[run], j[part][pair]
        result[part].index_add_(0, pair, up_to(mask, a.stop[run]) - up_to(mask, a.start[run]))
    return result


def spread(first: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """first[p], first[p] + 1, ..., ``number[p]`` of them, for one p after the other; of each its p, and itself."""
    p = torch.repeat_interleave(torch.arange(len(number)), number)
    return p, first[p] + torch.arange(len(p)) - (number.cumsum(0) - number)[p]


def pieces(number: Tensor, at_once: int) -> Iterator[slice]:
    """Slices of consecutive items, in order, whose numbers add up to about ``at_once`` in each."""
    _, sizes = torch.unique_consecutive(number.cumsum(0) // at_once, return_counts=True)
    stop = 0
    for size in sizes.tolist():
        yield slice(stop, stop + size)
        stop += size


def read_masks(masks: Sequence[Mapping[str, Any]]) -> Runs:
    """All runs of the masks. Raises DataError for one that is not of the format, or does not fill its size."""
    fields = [_fields(n, mask) for n, mask in enumerate(masks)]
    strings = [(n, counts) for n, (_, counts) in enumerate(fields) if isinstance(counts, str)]
    read = iter(_from_strings(strings))
    parts = [next(read) if isinstance(counts, str) else torch.tensor(counts, dtype=torch.int64) for _, counts in fields]
    sizes = torch.tensor([size for size, _ in fields], dtype=torch.int64).view(-1, 2)
    number = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    length = torch.cat([*parts, torch.zeros(0, dtype=torch.int64)])
    owner, place = spread(torch.zeros_like(number), number)
    total = torch.zeros_like(number).index_add(0, owner, length)
    wrong = total != sizes[:, 0] * sizes[:, 1]
    wrong[owner[length < 0]] = True
    if wrong.any():
        n = int(wrong.nonzero()[0])
        raise DataError(
            f"mask {n}: its runs make {int(total[n])} pixels, the shortest is {int(parts[n].amin())}, but its size is "
            f"{sizes[n].tolist()}; runs must be 0 or more and fill height × width: the file is damaged"
        )
    stop = length.cumsum(0) - (total.cumsum(0) - total)[owner]
    return Runs(sizes, owner, place % 2 == 1, stop - length, stop)


def _fields(n: int, mask: Mapping[str, Any]) -> tuple[list[int], list[int] | str]:
    """Size and counts of mask n, checked as far as one can without reading the counts."""
    fields = mask if isinstance(mask, Mapping) else {}
    size, counts = fields.get("size", ()), fields.get("counts", ())
    if isinstance(counts, bytes):  # as pycocotools writes them
        counts = counts.decode("ascii", "replace")
    sized = isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)
    listed = isinstance(counts, list | tuple) and all(type(c) is int and abs(c) <= MOST_PIXELS for c in counts)
    if not sized or size[0] * size[1] > MOST_PIXELS or not (isinstance(counts, str) or listed) or not counts:
        raise DataError(
            f"mask {n}: {str(mask)[:80]!r} is not of COCO's format, {{'size': [height, width], 'counts': a list of "
            "whole numbers or a string}; a polygon becomes one by encode_polygons"
        )
    return list(size), counts if isinstance(counts, str) else list(counts)


def _from_strings(strings: list[tuple[int, str]]) -> tuple[Tensor, ...]:
    """The counts in each string; beside each string the number of its mask, for the error."""
    if not strings:
        return ()
    length = torch.tensor([len(text) for _, text in strings])
    # "?" would pass for a count; a blank is none, and one byte for each character keeps the lengths.
    joined = "".join(c if c.isascii() else " " for _, text in strings for c in text).encode("ascii")
    groups = torch.frombuffer(bytearray(joined), dtype=torch.uint8).long() - 48
    last = groups & 32 == 0  # the last group of its number
    number = last.cumsum(0) - last.long()  # which number a group belongs to
    end = last.nonzero()[:, 0]
    begin = torch.cat([end.new_zeros(1), end[:-1] + 1])[: len(end)]
    text_end = length.cumsum(0)
    bad = (groups < 0) | (groups > 63)
    bad[text_end - 1] |= ~last[text_end - 1]
    if not bad.any() and (end - begin).max() >= GROUPS:
        bad[begin[(end - begin).argmax()]] = True
    if bad.any():
        n, text = strings[int(torch.searchsorted(text_end, bad.nonzero()[0], right=True))]
        raise DataError(
            f"mask {n}: counts {text[:40]!r} of {len(text)} characters are not COCO's compressed run lengths "
            "(characters '0' to 'o', the last one below 'P'); the file is damaged"
        )
    shift = 5 * (torch.arange(len(groups)) - begin[number])
    numbers = torch.zeros(len(end), dtype=torch.int64).index_add(0, number, (groups & 31) << shift)
    numbers -= torch.where(groups[end] & 16 != 0, 32 << shift[end], 0)
    how_many = torch.diff(last.cumsum(0)[text_end - 1], prepend=text_end.new_zeros(1))
    owner, place = spread(torch.zeros_like(how_many), how_many)
    first = (how_many.cumsum(0) - how_many)[owner]
    odd, even = place % 2 == 1, (place % 2 == 0) & (place > 0)
    sums = [torch.where(every_other, numbers, 0).cumsum(0) for every_other in (odd, even)]
    counts = torch.where(odd, sums[0] - sums[0][first], torch.where(even, sums[1] - sums[1][first], numbers))
    return counts.split(how_many.tolist())
