"""torch.nn.functional's signatures over our operations, for code that calls functions rather than layers.

``inplace`` is taken and has no effect: by hand the result is always a new tensor.
"""

from functools import wraps

import torch
from torch import Tensor

from byhand import ops
from byhand.errors import SettingsError
from byhand.ops import (
    adaptive_avg_pool2d,
    avg_pool2d,
    batch_norm,
    conv_transpose2d,
    gelu,
    group_norm,
    interpolate,
    layer_norm,
    linear,
    local_response_norm,
    one_hot,
    sigmoid,
    tanh,
)
from byhand.ops.convolution import Pair
from byhand.ops.layout import led_in

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "interpolate",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "max_pool2d",
    "max_pool2d_with_indices",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "tanh",
]


@wraps(ops.conv2d)
def conv2d(input: Tensor, *arguments, **named) -> Tensor:
    return ops.conv2d(led_in(input), *arguments, **named)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    return ops.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return ops.leaky_relu(input, negative_slope)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    return ops.relu6(input)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return ops.hardtanh(input, min_val, max_val)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return ops.hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    return ops.hardswish(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    return ops.silu(input)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    return ops.softmax(input if dtype is None else input.to(dtype), dim)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    return ops.log_softmax(input if dtype is None else input.to(dtype), dim)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return ops.dropout(input, p, training)


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    return ops.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = True,
):
    return ops.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def pad(input: Tensor, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Tensor:
    """Zeros or copies around the last one or two axes; ``pad`` is (left, right) or (left, right, top, bottom)."""
    sides = tuple(pad) + (0,) * (4 - len(pad))
    if len(pad) % 2 or len(sides) != 4 or min(sides) < 0 or value not in (None, 0) or input.ndim < 2:
        raise SettingsError(
            f"pad={tuple(pad)} with value={value} of a tensor {tuple(input.shape)} has no twin by hand; known: zeros "
            "or copies around the last two axes, as (left, right) or (left, right, top, bottom)"
        )
    return ops.pad2d(input, *sides, mode="zeros" if mode == "constant" else mode)


def mse_loss(
    input: Tensor, target: Tensor, size_average=None, reduce=None, reduction: str = "mean", weight=None
) -> Tensor:
    _no_weight(weight)
    return ops.mse_loss(input, target, reduction_of(size_average, reduce, reduction))


def l1_loss(
    input: Tensor, target: Tensor, size_average=None, reduce=None, reduction: str = "mean", weight=None
) -> Tensor:
    _no_weight(weight)
    return ops.l1_loss(input, target, reduction_of(size_average, reduce, reduction))


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight=None) -> Tensor:
    _no_weight(weight)
    return ops.huber_loss(input, target, reduction, delta)


def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average=None, reduce=None, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    return ops.smooth_l1_loss(input, target, reduction_of(size_average, reduce, reduction), beta)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average=None,
    reduce=None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    reduction = reduction_of(size_average, reduce, reduction)
    return ops.binary_cross_entropy_with_logits(input, target, weight, reduction, pos_weight)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average=None,
    ignore_index: int = -100,
    reduce=None,
    reduction: str = "mean",
) -> Tensor:
    return ops.nll_loss(input, target, weight, ignore_index, reduction_of(size_average, reduce, reduction))


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average=None,
    ignore_index: int = -100,
    reduce=None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    reduction = reduction_of(size_average, reduce, reduction)
    return ops.cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)


def reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction that torch's two oldest arguments stand for, where either is given."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def _no_weight(weight: Tensor | None) -> None:
    if weight is not None:
        raise SettingsError("weight= of a regression loss has no twin by hand; multiply the losses of reduction='none'")
