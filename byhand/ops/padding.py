"""Padding of images: writing them into a larger tensor, or repeating what lies at the border."""

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.layout import full_like, preferred
from byhand.ops.tape import operation

MODES = ("zeros", "reflect", "replicate", "circular")


def pad2d(input: Tensor, left: int, right: int, top: int, bottom: int, mode: str = "zeros") -> Tensor:
    """The images with pixels added on each side, (..., H, W) -> (..., top + H + bottom, left + W + right).

    ``mode`` as in torch.nn.Conv2d: zeros; ``reflect`` mirrors without repeating the border; ``replicate`` repeats it;
    ``circular`` goes on at the other side. The gradient adds up over all places that a pixel was copied to.

    Raises SettingsError for another mode, ShapeError where the image is too small to mirror or to wrap around.
    """
    if mode not in MODES:
        raise SettingsError(f"padding_mode={mode!r} must be one of {', '.join(MODES)}")
    if not (left or right or top or bottom):
        return input
    if mode == "zeros":
        return _zero_pad(input, left, right, top, bottom)
    for size, before, after in ((input.shape[-2], top, bottom), (input.shape[-1], left, right)):
        limit = {"reflect": size - 1, "circular": size}.get(mode, max(before, after))
        if max(before, after) > limit:
            raise ShapeError(
                f"padding of {max(before, after)} with mode {mode!r} needs more than {size} pixels to copy"
            )
    rows = _sources(input.shape[-2], top, bottom, mode, input.device)
    columns = _sources(input.shape[-1], left, right, mode, input.device)
    return _copy_pad(input, rows, columns)


def zero_pad_forward(x: Tensor, left: int, right: int, top: int, bottom: int, value: float = 0.0):
    *leading, H, W = x.shape
    shape = (*leading, top + H + bottom, left + W + right)
    x = preferred(x) if x.ndim == 4 else x
    y = full_like(x, shape, value) if x.ndim == 4 else x.new_full(shape, value)
    y[..., top : top + H, left : left + W] = x
    return y, (top, H, left, W)


def zero_pad_backward(needed, grad: Tensor, top: int, H: int, left: int, W: int):
    return grad[..., top : top + H, left : left + W], None, None, None, None


_zero_pad = operation(zero_pad_forward, zero_pad_backward)


def copy_pad_forward(x: Tensor, rows: Tensor, columns: Tensor):
    return x[..., rows[:, None], columns], (x.shape, rows, columns)


def copy_pad_backward(needed, grad: Tensor, shape: torch.Size, rows: Tensor, columns: Tensor):
    down = grad.new_zeros(*grad.shape[:-1], shape[-1]).index_add_(-1, columns, grad)
    return grad.new_zeros(shape).index_add_(-2, rows, down), None, None


_copy_pad = operation(copy_pad_forward, copy_pad_backward)


def _sources(size: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """For each place along the padded axis the index of the pixel that stands there."""
    index = torch.arange(-before, size + after, device=device)
    if mode == "replicate":
        return index.clamp(0, size - 1)
    if mode == "circular":
        return index % size
    index = index.abs()  # mirrored at the first pixel, then at the last
    return torch.where(index < size, index, 2 * (size - 1) - index)
