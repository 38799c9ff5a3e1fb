"""Losses of regression; Dive into Deep Learning, section 3.1."""

import warnings

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.tape import operation


def squared_loss(input: Tensor, target: Tensor, reduction: str = "none") -> Tensor:
    """The source's loss ½ (ŷ − y)², whose gradient is the error ŷ − y itself.

    ``target`` is brought to the shape of ``input`` first, as the source does: (N,) targets beside (N, 1) predictions
    would otherwise spread to N × N differences without a word.
    """
    if input.numel() != target.numel():
        raise ShapeError(f"predictions {tuple(input.shape)} and targets {tuple(target.shape)} hold unequal counts")
    return reduce(_squared(input, target.reshape(input.shape)), reduction)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared error (ŷ − y)², its mean by default."""
    return reduce(_square(*_pair(input, target)), reduction)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Absolute error |ŷ − y|, its mean (the MAE) by default; the slope at 0 is 0."""
    return reduce(_absolute(*_pair(input, target)), reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """With e = ŷ − y: ½ e² where |e| ≤ δ, else δ (|e| − δ/2). Squares near 0, a straight line beyond (Huber 1964).

    Raises SettingsError where δ is not above 0.
    """
    if not delta > 0:
        raise SettingsError(f"delta={delta} must be above 0: it is the error at which the loss turns straight")
    return reduce(_huber(*_pair(input, target), delta, 1.0), reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Huber's loss with δ = β, divided by β: ½ e² / β where |e| < β, else |e| − β/2; with β = 0 the absolute error.

    Source: Girshick, Fast R-CNN (2015), equation 3. Raises SettingsError where β is below 0.
    """
    if not beta >= 0:
        raise SettingsError(f"beta={beta} must be 0 or above: it is the error at which the loss turns straight")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return reduce(_huber(*_pair(input, target), beta, 1 / beta), reduction)


def reduce(losses: Tensor, reduction: str) -> Tensor:
    """The losses as they are (``none``), their sum, or their mean; an empty batch has no mean, and gives NaN."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return _total(losses, 1.0)
    if reduction == "mean":
        return _total(losses, 1.0 / losses.numel() if losses.numel() else float("nan"))
    raise SettingsError(f"reduction={reduction!r} must be 'none', 'mean' or 'sum'")


def _pair(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if input.shape != target.shape:
        shapes = f"predictions {tuple(input.shape)} and targets {tuple(target.shape)}"
        try:
            input, target = torch.broadcast_tensors(input, target)
        except RuntimeError:
            raise ShapeError(f"{shapes} do not fit together; they must have one shape") from None
        # As torch does: (N,) beside (N, 1) becomes N × N differences, almost always a mistake of the caller.
        warnings.warn(f"{shapes} are spread to {tuple(input.shape)}; give them one shape", stacklevel=3)
    return input, target


def total_forward(losses: Tensor, scale: float):
    return losses.sum() * scale, (losses.shape, scale)


def total_backward(needed, grad: Tensor, shape: torch.Size, scale: float):
    return (grad * scale).expand(shape), None


_total = operation(total_forward, total_backward)


def squared_forward(y_hat: Tensor, y: Tensor):
    e = y_hat - y
    return e * e / 2, (e,)


def squared_backward(needed, grad: Tensor, e: Tensor):
    return grad * e if needed[0] else None, -grad * e if needed[1] else None


_squared = operation(squared_forward, squared_backward)


def square_forward(y_hat: Tensor, y: Tensor):
    e = y_hat - y
    return e * e, (e,)


def square_backward(needed, grad: Tensor, e: Tensor):
    return grad * (2 * e) if needed[0] else None, grad * (-2 * e) if needed[1] else None


_square = operation(square_forward, square_backward)


def absolute_forward(y_hat: Tensor, y: Tensor):
    e = y_hat - y
    return e.abs(), (e,)


def absolute_backward(needed, grad: Tensor, e: Tensor):
    slope = torch.sign(e)
    return grad * slope if needed[0] else None, -grad * slope if needed[1] else None


_absolute = operation(absolute_forward, absolute_backward)


def huber_forward(y_hat: Tensor, y: Tensor, delta: float, scale: float):
    e = y_hat - y
    size = e.abs()
    return torch.where(size <= delta, e * e * (scale / 2), (size - delta / 2) * (delta * scale)), (e, delta, scale)


def huber_backward(needed, grad: Tensor, e: Tensor, delta: float, scale: float):
    slope = e.clamp(-delta, delta) * scale  # the error itself, until it is δ long
    return grad * slope if needed[0] else None, -grad * slope if needed[1] else None, None, None


_huber = operation(huber_forward, huber_backward)
