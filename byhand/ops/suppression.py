"""Non-maximum suppression: of boxes that show the same thing, keep the best; Dive into Deep Learning, section 14.4.4.

Greedy suppression goes through the boxes in order of score, keeps one unless a better box that was kept overlaps it too
much, and so looks like a loop over boxes. Here it is a loop over blocks of boxes:

1. Take the best boxes that are left, a block, and the matrix of who would spare whom among them. The best stays and
   leaves those that its row of the matrix spares, the best of them stays, and so on: a row is one long integer, and all
   that it does not spare is struck in one operation.
2. Whatever the kept ones of the block suppress among all later boxes goes: those whose largest IoU with them is above
   the threshold.

Boxes of different blocks are compared only while both are left, much as in the loop.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.boxes import box_iou, overlap_and_union, rows_and_area

FIRST, BLOCK = 64, 256  # boxes in the first block, where few may survive, and at most
CROWD = 4096  # boxes from which on the best goes first, alone: where it suppresses most, a block would be for nothing
TILE = 1 << 17  # pairs in one matrix, so that it stays in the cache
MANY = 4  # kept boxes from which on it pays to look first which others lie where they lie


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better kept box overlaps with IoU > ``iou_threshold``, (N, 4), (N,) -> (K,) int64.

    In order of decreasing score; of equal scores the lower index counts as the better. IoU is rounded and compared as
    in torchvision's operator on a CPU, so the same boxes stay; a pair without area, or with NaN, overlaps nothing.

    Raises ShapeError for shapes that do not fit, SettingsError for a threshold outside 0..1.
    """
    _check(boxes, scores, iou_threshold)
    with torch.inference_mode():  # a fifth of the time of small operations goes into what gradients would need
        if bool((scores[1:] <= scores[:-1]).all()):  # as those of the best k do
            kept = _greedy(boxes, None, iou_threshold)
        else:
            order = _order(scores)
            kept = order[_greedy(boxes.index_select(0, order), None, iou_threshold)]
    return kept.clone()  # one that may stand where gradients are computed


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``nms`` for each class alone: boxes of different ``idxs`` (N,) never suppress each other; -> (K,) int64.

    In order of decreasing score over all classes. The boxes themselves are compared, where torchvision may first shift
    them apart by class, and rounds in doing so.
    """
    _check(boxes, scores, iou_threshold)
    if idxs.shape != scores.shape:
        raise ShapeError(f"idxs has shape {tuple(idxs.shape)}; expected {tuple(scores.shape)}, one class a box")
    with torch.inference_mode():
        order = _order(scores)
        groups, by_group = idxs[order].sort(stable=True)
        kept = by_group[_greedy(boxes.index_select(0, order[by_group]), groups, iou_threshold)]
        kept = order[kept.sort()[0]]
    return kept.clone()


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ShapeError(f"boxes {tuple(boxes.shape)} and scores {tuple(scores.shape)} must be (N, 4) and (N,)")
    if not 0 <= iou_threshold <= 1:
        raise SettingsError(f"iou_threshold={iou_threshold} must lie in 0..1")


def _order(scores: Tensor) -> Tensor:
    """Indices from the best score down, of equal ones the lower first."""
    scores = scores.detach()
    if scores.dtype != torch.float32 or scores.device.type != "cpu" or not bool(scores.sum().isfinite()):
        return scores.sort(descending=True, stable=True)[1]
    # Score and index in one integer, which NumPy sorts in a tenth of the time. The bits of a float are ordered as
    # integers are, those of negative ones the other way round; + 0 makes −0 the same as 0.
    bits = (scores + 0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = torch.bitwise_not(ordered).long() << 32 | torch.arange(len(scores), device=scores.device)
    keys.numpy().sort()
    return keys & 0xFFFFFFFF


def _greedy(boxes: Tensor, groups: Tensor | None, threshold: float) -> Tensor:
    """Which boxes stay, in order, given that those of one group stand together and the better of them first.

    All boxes are of one group where there are no ``groups``.
    """
    rest, places = _comparable(rows_and_area(boxes.detach())), torch.arange(len(boxes), device=boxes.device)
    size = FIRST if len(boxes) < CROWD else 1
    spares = _spares(threshold, rest.dtype)
    kept = [places[:0]]
    while len(places):
        block, group, reach = rest[:, :size], None if groups is None else groups[:size], len(places)
        survives = _survivors(block, group, spares)
        kept.append(places[:size][survives])
        rest, places = rest[:, size:], places[size:]
        if groups is not None and group is not None:
            # The groups stand together, so that later boxes can be of the block's last group only.
            groups, last = groups[size:], group == group[-1]
            survives &= last
            reach = int((groups == group[-1]).sum())
        left = _left(rest[:, :reach], block[:, survives], spares)
        if reach >= len(places):
            rest, places = rest.index_select(1, left), places.index_select(0, left)
        elif len(left) < reach:
            rest = torch.cat([rest.index_select(1, left), rest[:, reach:]], 1)
            places = torch.cat([places.index_select(0, left), places[reach:]])
        if groups is not None:
            groups = groups[reach - len(left) :]
        size = max(FIRST, min(2 * size, BLOCK))
    return torch.cat(kept)


def _comparable(rows: Tensor) -> Tensor:
    """``rows_and_area`` (5, N) in which a box that can overlap nothing is a point of area 1, so that no IoU is NaN.

    If areas are above 0 and finite, the overlap of two boxes is finite and their union above 0.
    """
    area = rows[4]
    if not len(area) or (area.amin().item() > 0 and area.amax().item() < math.inf):
        return rows
    point = rows.new_tensor([0, 0, 0, 0, 1])
    return torch.where((area > 0) & (area < torch.inf), rows, point[:, None])


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair of ``_comparable`` boxes, (5, N) and (5, M) -> (N, M)."""
    inter, union = overlap_and_union(a, b)
    return inter.div_(union)


def _spares(threshold: float, dtype: torch.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """The comparison IoU ≤ threshold of an array of ``dtype``; NumPy takes a tenth of the time that torch takes.

    The threshold is a double, IoU may be float32: where its nearest float32 lies above it (0.3 does), an IoU of
    exactly that float32 is larger than the threshold.
    """
    threshold = float(threshold)
    nearest = float(np.float32(threshold)) if dtype == torch.float32 else threshold
    return (lambda iou: iou < nearest) if nearest > threshold else (lambda iou: iou <= nearest)


def _survivors(block: Tensor, group: Tensor | None, spares: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Who of a block (5, B) stays, bool (B,), the better first; of a group each, or all of one.

    A row of the matrix of who would spare whom is one integer of B bytes, each 0 or 1: a box that stays strikes in one
    operation all that it does not spare, of which those before it are settled already.
    """
    B = block.shape[1]
    if B == 1:
        return torch.ones(1, dtype=torch.bool, device=block.device)
    iou = _iou(block, block)
    if group is not None:
        iou *= group[:, None] == group
    rows = spares(iou.numpy(force=True)).tobytes()
    left, stays = int.from_bytes(b"\1" * B, "little"), bytearray(B)
    while left:
        first = left & -left  # the lowest byte that is set: the best box left
        i = first.bit_length() >> 3
        stays[i] = 1
        left = (left ^ first) & int.from_bytes(rows[i * B : (i + 1) * B], "little")
    return torch.frombuffer(stays, dtype=torch.bool).to(block.device)


def _left(rest: Tensor, kept: Tensor, spares: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Indices of those of ``rest`` (5, M) that all of ``kept`` (5, K) spare."""
    M, K = rest.shape[1], kept.shape[1]
    if not M or not K:
        return torch.arange(M, device=rest.device)
    few = False
    if K >= MANY:
        # Boxes beside the area that the kept ones cover overlap none of them.
        inside = torch.minimum(kept[2].amax() - rest[0], rest[2] - kept[0].amin())
        inside = torch.minimum(inside, kept[3].amax() - rest[1])
        inside = torch.minimum(inside, rest[3] - kept[1].amin())
        near = _indices(inside.numpy(force=True) > 0, rest)
        few = len(near) < M // 2
        rest = rest.index_select(1, near) if few else rest
    # The largest IoU is compared alone.
    most = torch.cat([_iou(kept, part).amax(0) for part in rest.split(max(1, TILE // K), 1)])
    if few:
        everywhere = most.new_zeros(M)
        everywhere[near] = most
        most = everywhere
    return _indices(spares(most.numpy(force=True)), rest)


def _indices(mask: np.ndarray, like: Tensor) -> Tensor:
    """Indices of what is true, on the device of ``like``; in a quarter of the time of ``nonzero``."""
    return torch.from_numpy(np.flatnonzero(mask)).to(like.device)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Indices and lowered scores, (N, 4) and (N,) -> (K,) int64 and (K,): what a better box overlaps counts less.

    Again and again the best box left is taken, and the scores s of the others fall by their IoU u with it:

        gaussian:  s ← s exp(−u² / sigma),        linear:  s ← s (1 − u) where u ≥ iou_threshold.

    Boxes whose score falls below ``score_threshold`` are dropped. In the order taken, which is that of the new scores;
    of equal ones the lower index first.

    Raises ShapeError for shapes that do not fit, SettingsError for an unknown method or a sigma that is not positive.
    Source: Bodla et al. (2017), Soft-NMS, equations 2 and 3 and algorithm of figure 3.
    """
    _check(boxes, scores, iou_threshold)
    order = _order(scores)
    if method not in ("gaussian", "linear"):
        raise SettingsError(f"method={method!r} must be 'gaussian' or 'linear'")
    if not sigma > 0:
        raise SettingsError(f"sigma={sigma} must be above 0")
    left, lowered = boxes.detach()[order], scores.detach()[order].clone()
    taken, taken_scores = [order[:0]], [lowered[:0]]
    while True:
        alive = (lowered >= score_threshold).nonzero()[:, 0]
        order, left, lowered = order[alive], left[alive], lowered[alive]
        if not len(order):
            return torch.cat(taken), torch.cat(taken_scores)
        tied = (lowered == lowered.amax()).nonzero()[:, 0]
        best = tied[order[tied].argmin(0, keepdim=True)]
        taken.append(order[best])
        taken_scores.append(lowered[best])
        u = box_iou(left[best], left)[0].to(lowered.dtype)
        lowered *= torch.exp(-u * u / sigma) if method == "gaussian" else torch.where(u < iou_threshold, 1, 1 - u)
        lowered[best] = -torch.inf  # gone, whatever the threshold
