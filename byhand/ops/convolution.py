"""Cross-correlation, from one channel to many; Dive into Deep Learning, chapter 6."""

from collections.abc import Iterable
from numbers import Integral

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops import (
    columns,
    depthwise,
    depthwise_matrix,
    depthwise_planes,
    rows,
    shifts,
    strips,
)
from byhand.ops.padding import pad2d
from byhand.ops.tape import operation

Pair = int | tuple[int, int]


def corr2d(X: Tensor, K: Tensor) -> Tensor:
    """H[i, j] = Σ_a Σ_b K[a, b] X[i + a, j + b], one channel: (H, W) and (h, w) -> (H − h + 1, W − w + 1).

    Written as the chapter writes it, a sum for each place; ``conv2d`` computes the same for many channels at once.
    Each element of the output hands its gradient to the window it saw and, through it, to the kernel.

    Raises ShapeError where the kernel is larger than the image.
    """
    if X.ndim != 2 or K.ndim != 2:
        raise ShapeError(f"X {tuple(X.shape)} and K {tuple(K.shape)} must be one image and one kernel, two axes each")
    if K.shape[0] > X.shape[0] or K.shape[1] > X.shape[1]:
        raise ShapeError(f"a kernel of {tuple(K.shape)} does not fit an image of {tuple(X.shape)}; pad the image")
    return _corr2d(X, K)


def corr2d_forward(X: Tensor, K: Tensor):
    h, w = K.shape
    Y = X.new_zeros(X.shape[0] - h + 1, X.shape[1] - w + 1)
    for i in range(Y.shape[0]):
        for j in range(Y.shape[1]):
            Y[i, j] = (X[i : i + h, j : j + w] * K).sum()
    return Y, (X, K)


def corr2d_backward(needed, grad: Tensor, X: Tensor, K: Tensor):
    h, w = K.shape
    dX, dK = torch.zeros_like(X), torch.zeros_like(K)
    for i in range(grad.shape[0]):
        for j in range(grad.shape[1]):
            dX[i : i + h, j : j + w] += grad[i, j] * K
            dK += grad[i, j] * X[i : i + h, j : j + w]
    return dX, dK


_corr2d = operation(corr2d_forward, corr2d_backward)


def conv_output_size(n: int, k: int, s: int = 1, p: int = 0, *, per_side: int | None = None, dilation: int = 1) -> int:
    """⌊(n − k + p + s) / s⌋: how many places a kernel of k takes on n pixels with stride s and padding p **in total**.

    The source counts p over both sides together; torch's ``padding`` counts each side. ``per_side=1`` is torch's
    ``padding=1`` and stands for p = 2. A dilated kernel covers ``dilation`` · (k − 1) + 1 pixels.

    Raises SettingsError for values out of range or both paddings at once, ShapeError where the kernel does not fit.
    """
    if per_side is not None and p:
        raise SettingsError(f"p={p} (in total) and per_side={per_side} say the same thing twice; give one of them")
    p = p if per_side is None else 2 * per_side
    for name, value, least in (("n", n, 1), ("k", k, 1), ("s", s, 1), ("p", p, 0), ("dilation", dilation, 1)):
        if value < least:
            raise SettingsError(f"{name}={value} must be at least {least}")
    covered = dilation * (k - 1) + 1
    if covered > n + p:
        raise ShapeError(f"a kernel over {covered} pixels does not fit {n} pixels with {p} of padding in total")
    return (n - covered + p + s) // s


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """y[b, o, i, j] = bias[o] + Σ_{c, u, v} w[o, c, u, v] x[b, c, i·s + u·d, j·s + v·d], x padded with zeros.

    (B, C, H, W) and (O, C/groups, kH, kW) -> (B, O, H', W'), H' = ⌊(H − d (kH − 1) − 1 + 2 padding + s) / s⌋; a single
    image (C, H, W) gives (O, H', W'). ``padding`` counts pixels on each side, or is ``"same"`` or ``"valid"``. With
    ``groups`` output channels see only their own share of the input channels.

    There are several ways to compute it, and the soonest is taken: ``byhand.ops.columns`` for few images or channels,
    for groups and for strides, ``byhand.ops.shifts`` for images of many channels that lie one after the other in
    memory, ``byhand.ops.strips`` and ``rows`` for batches, after which the batch is innermost in memory; and for
    kernels of one channel each ``byhand.ops.depthwise``, ``depthwise_matrix`` or ``depthwise_planes``.

    Raises ShapeError where channels or groups do not fit or the kernel is larger than the padded input.
    """
    if input.ndim == 3:
        return conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    if input.ndim != 4 or weight.ndim != 4:
        raise ShapeError(
            f"input {tuple(input.shape)} and weight {tuple(weight.shape)} must be (B, C, H, W), (O, C, kH, kW)"
        )
    _check_channels(input, weight, bias, groups)
    stride, dilation = pair("stride", stride), pair("dilation", dilation)
    left, right, top, bottom = padding_of(padding, stride, dilation, (weight.shape[2], weight.shape[3]))
    for axis, extra in ((0, top + bottom), (1, left + right)):
        covered, size = dilation[axis] * (weight.shape[2 + axis] - 1) + 1, input.shape[2 + axis] + extra
        if covered > size:
            raise ShapeError(
                f"kernel {tuple(weight.shape[2:])} with dilation {dilation} covers {covered} pixels, but the padded "
                f"input has {size} (input {tuple(input.shape)}); use a larger input, a smaller kernel or more padding"
            )
    sides = (left, right, top, bottom)
    if groups == input.shape[1] > 1:
        along = depthwise.axes(input, weight, stride, sides, dilation)
        if not depthwise.one_after_another(input, weight):
            return depthwise.conv2d(input, weight, bias, *along)
        if depthwise_matrix.worthwhile(input, *along):
            return depthwise_matrix.conv2d(input, weight, bias, *along)
        return depthwise_planes.conv2d(input, weight, bias, *along)
    if columns.worthwhile(input, weight, stride, groups):
        return columns.conv2d(input, weight, bias, stride, sides, dilation)
    if shifts.worthwhile(input, weight, stride, groups):
        return shifts.conv2d(input, weight, bias, sides, dilation)
    if strips.worthwhile(input, weight, groups):
        return strips.conv2d(input, weight, bias, stride, sides, dilation)
    if rows.worthwhile(input, groups):
        return rows.conv2d(pad2d(input, *sides), weight, bias, stride, dilation)
    return columns.conv2d(input, weight, bias, stride, sides, dilation, groups)


def pair(name: str, value: Pair, least: int = 1) -> tuple[int, int]:
    """One number for both axes, or one for each: (height, width), each at least ``least``."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2 or any(not isinstance(v, Integral) or v < least for v in values):
        raise SettingsError(
            f"{name}={value!r} must be a whole number of at least {least}, or two of them: height, width"
        )
    return int(values[0]), int(values[1])


def padding_of(padding: Pair | str, stride: tuple[int, int], dilation: tuple[int, int], kernel: tuple[int, int]):
    """Pixels to add at the left, right, top and bottom."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise SettingsError(f"padding='same' needs stride 1, got {stride}; give the padding in pixels")
        down, across = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return across // 2, across - across // 2, down // 2, down - down // 2
    if isinstance(padding, str):
        raise SettingsError(f"padding={padding!r} must be pixels, 'same' or 'valid'")
    down, across = pair("padding", padding, least=0)
    return across, across, down, down


def _check_channels(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    C, O = input.shape[1], len(weight)
    if groups < 1 or C % groups or O % groups:
        raise ShapeError(f"groups={groups} must divide in_channels={C} and out_channels={O}; depthwise is groups={C}")
    if C // groups != weight.shape[1]:
        raise ShapeError(
            f"input {tuple(input.shape)} has {C} channels, but a weight of {tuple(weight.shape)} with groups={groups} "
            f"takes {weight.shape[1] * groups}"
        )
    if bias is not None and bias.shape != (O,):
        raise ShapeError(f"bias has shape {tuple(bias.shape)}; {O} output channels take ({O},)")
