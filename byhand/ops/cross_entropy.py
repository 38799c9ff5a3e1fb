"""Cross-entropy of a classification, from logits or from log-probabilities; Dive into Deep Learning, section 3.4."""

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError, TargetError
from byhand.ops.losses import reduce
from byhand.ops.softmax import below_zero
from byhand.ops.tape import operation


def one_hot(target: Tensor, num_classes: int = -1) -> Tensor:
    """Rows with a 1 at each label and 0 elsewhere, int64 (...) -> int64 (..., num_classes).

    ``num_classes=-1`` takes the largest label plus one. Raises TargetError for a label outside 0..num_classes−1.
    """
    if num_classes == -1:
        if target.numel() == 0:
            raise TargetError("num_classes=-1 takes the largest label, but there is none; give num_classes")
        num_classes = int(target.max()) + 1
    target = _labels(target)
    _check_labels(target, num_classes)
    return (target[..., None] == torch.arange(num_classes, device=target.device)).long()


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """l = −Σ_c q_c log softmax(o)_c of logits o, (B, C, ...) and labels (B, ...), or (C,) and a single label.

    q is the wanted distribution: 1 at the label y, or with smoothing ε: (1 − ε) [c = y] + ε/C (Szegedy et al. 2016,
    section 7), times the class ``weight``. Where Σ q = 1 the gradient is **∂l/∂o = softmax(o) − q**, for plain labels
    softmax(o) − y. ``target`` may also hold the distribution itself: floats of the shape of ``input``.

    ``mean`` divides by the weights of the labels that count (those other than ``ignore_index``); for distributions by
    the number of rows. Where no label counts the mean is NaN, as in torch.

    Raises TargetError for labels out of range (on an accelerator the loss is NaN instead), ShapeError for shapes that
    do not fit, SettingsError for ε outside 0..1.
    """
    if not 0 <= label_smoothing <= 1:
        raise SettingsError(f"label_smoothing={label_smoothing} must lie in 0..1")
    axis, num_classes = _class_axis(input, weight)
    if target.is_floating_point():
        if ignore_index >= 0:
            raise SettingsError(f"ignore_index={ignore_index} goes with labels, but the target is a distribution")
        if target.shape != input.shape:
            raise ShapeError(f"a distribution of shape {tuple(target.shape)} does not fit logits {tuple(input.shape)}")
        losses = _soft_cross_entropy(input, target, weight, label_smoothing, axis)
        return _mean(losses, losses.numel()) if reduction == "mean" else reduce(losses, reduction)
    target = _labels(target)
    if reduction == "mean" and weight is None and ignore_index < 0 and _may_be_looked_up(input, target):
        try:
            return _mean_cross_entropy(input, target, label_smoothing)
        except IndexError:  # a label to ignore, or one out of range, which is told below
            pass
    wanted = _wanted(input, target, weight, ignore_index, label_smoothing, axis, num_classes)
    losses = _cross_entropy(input, wanted, axis)
    return (
        _mean(losses, _counted(target, weight, ignore_index, losses))
        if reduction == "mean"
        else reduce(losses, reduction)
    )


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """l = −w_y log p_y of log-probabilities, (B, C, ...) and labels (B, ...); its gradient is −w_y at y, else 0.

    ``mean``, ``weight``, ``ignore_index`` and the errors as in ``cross_entropy``.
    """
    axis, num_classes = _class_axis(input, weight)
    target = _labels(target)
    wanted = _wanted(input, target, weight, ignore_index, 0.0, axis, num_classes)
    losses = _nll(input, wanted, axis)
    return (
        _mean(losses, _counted(target, weight, ignore_index, losses))
        if reduction == "mean"
        else reduce(losses, reduction)
    )


def mean_cross_entropy_forward(o: Tensor, target: Tensor, smoothing: float):
    """The usual case, a label for each row and their mean, without a table of the wanted distribution."""
    o = below_zero(o, 1)
    e = torch.exp(o)
    total = e.sum(1, keepdim=True)
    label = target.unsqueeze(1)
    try:
        loss = (total.log() - o.gather(1, label)).mean()
    except RuntimeError as error:
        raise IndexError(str(error)) from None
    if smoothing:  # ε of the loss is the mean over all classes
        loss = (1 - smoothing) * loss + smoothing * (total.log() - o.mean(1, keepdim=True)).mean()
    return loss, (e, total, label, smoothing)


def mean_cross_entropy_backward(needed, grad: Tensor, e: Tensor, total: Tensor, label: Tensor, smoothing: float):
    rows, num_classes = e.shape
    share = grad / rows
    g = e * (share / total)
    if smoothing:
        g -= share * (smoothing / num_classes)
    return g.scatter_add_(1, label, (share * (smoothing - 1)).expand(rows, 1)), None, None


_mean_cross_entropy = operation(mean_cross_entropy_forward, mean_cross_entropy_backward)


def cross_entropy_forward(o: Tensor, q: Tensor, axis: int):
    o = below_zero(o, axis)
    log_p = o - torch.exp(o).sum(axis, keepdim=True).log()
    return -_expectation(q, log_p, axis), (log_p, q, axis)


def cross_entropy_backward(needed, grad: Tensor, log_p: Tensor, q: Tensor, axis: int):
    p = torch.exp(log_p)
    # softmax(o) − y where q sums to one; a class weight scales both terms, an ignored row has q = 0 and gets nothing,
    # also where ``grad`` is infinite because no row at all counts.
    g = torch.where((q == 0).all(axis, keepdim=True), 0, grad.unsqueeze(axis))
    return g * (p * q.sum(axis, keepdim=True) - q), None, None


_cross_entropy = operation(cross_entropy_forward, cross_entropy_backward)


def soft_cross_entropy_forward(o: Tensor, y: Tensor, weight: Tensor | None, smoothing: float, axis: int):
    q = y * (1 - smoothing) + smoothing / o.shape[axis]
    if weight is not None:
        q = q * _along(weight, o, axis)
    losses, (log_p, q, axis) = cross_entropy_forward(o, q, axis)
    return losses, (log_p, q, axis, weight, smoothing)


def soft_cross_entropy_backward(needed, grad: Tensor, log_p: Tensor, q: Tensor, axis: int, weight, smoothing: float):
    d_logits = cross_entropy_backward(needed, grad, log_p, q, axis)[0] if needed[0] else None
    d_target = None
    if needed[1]:
        d_target = -grad.unsqueeze(axis) * (1 - smoothing) * log_p
        if weight is not None:
            d_target = d_target * _along(weight, log_p, axis)
    return d_logits, d_target, None, None, None


_soft_cross_entropy = operation(soft_cross_entropy_forward, soft_cross_entropy_backward)


def nll_forward(log_p: Tensor, q: Tensor, axis: int):
    return -_expectation(q, log_p, axis), (q, axis)


def nll_backward(needed, grad: Tensor, q: Tensor, axis: int):
    return torch.where(q == 0, 0, -grad.unsqueeze(axis) * q), None, None


_nll = operation(nll_forward, nll_backward)


def mean_forward(losses: Tensor, count):
    return losses.sum() / count, (losses.shape, count)


def mean_backward(needed, grad: Tensor, shape: torch.Size, count):
    return (grad / count).expand(shape), None


_mean = operation(mean_forward, mean_backward)


def _expectation(q: Tensor, log_p: Tensor, axis: int) -> Tensor:
    # A class that is not wanted adds nothing, even where its probability is 0 and the logarithm −∞.
    return torch.where(q == 0, 0, q * log_p).sum(axis)


def _wanted(input, target, weight, ignore_index, smoothing, axis, num_classes) -> Tensor:
    """The distribution q that the labels ask for, of the shape and dtype of ``input``."""
    rows = input.shape[:axis] + input.shape[axis + 1 :]
    if target.shape != rows:
        raise ShapeError(f"labels have shape {tuple(target.shape)}; logits of {tuple(input.shape)} take {tuple(rows)}")
    ignored = target == ignore_index
    classes = _along(torch.arange(num_classes, device=input.device), input, axis)
    q = (target.unsqueeze(axis) == classes).to(input.dtype)
    if _may_be_read(target):
        _check_labels(target[~ignored], num_classes)
    else:  # one out of range makes the loss NaN
        q = torch.where(((target < 0) | (target >= num_classes)).unsqueeze(axis), torch.nan, q)
    if smoothing:
        q = q * (1 - smoothing) + smoothing / num_classes
    if weight is not None:
        q = q * _along(weight.to(input.dtype), input, axis)
    return torch.where(ignored.unsqueeze(axis), 0, q)


def _counted(target: Tensor, weight: Tensor | None, ignore_index: int, losses: Tensor):
    """What ``mean`` divides by: the number of labels that count, or the sum of their class weights."""
    counts = target != ignore_index
    if weight is None:
        return counts.sum()
    # An ignored label may lie outside the table of weights; it looks up class 0 and is then left out.
    return torch.where(counts, weight.to(losses.dtype)[torch.where(counts, target, 0)], 0).sum()


def _class_axis(input: Tensor, weight: Tensor | None) -> tuple[int, int]:
    if input.ndim == 0:
        raise ShapeError("logits are a single number; expected (B, C, ...) or (C,)")
    axis = 0 if input.ndim == 1 else 1
    if weight is not None and weight.shape != (input.shape[axis],):
        raise ShapeError(
            f"class weights have shape {tuple(weight.shape)}; {input.shape[axis]} classes take ({input.shape[axis]},)"
        )
    return axis, input.shape[axis]


def _along(vector: Tensor, like: Tensor, axis: int) -> Tensor:
    """The vector laid along one axis of a tensor: (C,) -> (1, C, 1, ...)."""
    return vector.view([-1 if i == axis else 1 for i in range(like.ndim)])


def _labels(target: Tensor) -> Tensor:
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TargetError(f"labels are {target.dtype}; expected whole numbers, as int64")
    return target.long()  # a uint8 would be taken for a mask where it indexes, and 156 for −100


def _may_be_read(target: Tensor) -> bool:
    """Whether the labels are at hand; to look at them elsewhere would wait for the accelerator in every step."""
    return target.device.type == "cpu"


def _may_be_looked_up(input: Tensor, target: Tensor) -> bool:
    """Whether each row of logits has its label, which ``gather`` finds, or refuses where it is out of range."""
    return _may_be_read(target) and input.ndim == 2 and target.shape == input.shape[:1] and input.numel() > 0


def _check_labels(target: Tensor, num_classes: int) -> None:
    if target.numel() and not (int(target.min()) >= 0 and int(target.max()) < num_classes):
        raise TargetError(
            f"labels run from {int(target.min())} to {int(target.max())}, but there are {num_classes} classes; "
            f"expected 0..{num_classes - 1}"
        )
