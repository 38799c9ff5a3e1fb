"""Pooling over windows, channel by channel; Dive into Deep Learning, section 6.5."""

from collections.abc import Iterable
from numbers import Integral

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.convolution import Pair, pair
from byhand.ops.layout import full_like
from byhand.ops.tape import operation


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """The largest value under each window, (B, C, H, W) or (C, H, W) -> the same with H', W'.

    ``stride`` is the kernel's size unless given; ``padding`` on each side counts as −∞; with ``ceil_mode`` a last
    window may hang over the far edge, if it starts inside. The gradient goes to the first largest value of each window,
    row by row. ``return_indices`` gives also where it stood: int64, row · W + column in the unpadded image.

    Raises ShapeError where no window fits, SettingsError for a padding of more than half the kernel.
    """
    x, grid = _laid_out(input, kernel_size, stride, padding, dilation, ceil_mode)
    y = _max_pool2d(x, grid)
    where = largest(x, grid)[1] if return_indices else None
    if input.ndim == 3:
        y, where = y[0], None if where is None else where[0]
    return (y, where) if return_indices else y


def max_pool2d_forward(x: Tensor, grid):
    y, where = largest(x, grid)
    return y, (where, x.shape)


def max_pool2d_backward(needed, grad: Tensor, where: Tensor, shape: torch.Size):
    # Windows may overlap, so what arrives at one pixel adds up.
    d_input = full_like(grad, shape, 0)
    d_input.flatten(2).scatter_add_(2, where.flatten(2), grad.flatten(2))
    return d_input, None


_max_pool2d = operation(max_pool2d_forward, max_pool2d_backward)


def largest(x: Tensor, grid) -> tuple[Tensor, Tensor]:
    """The largest value of each window and its index row · W + column, by going through the kernel's places."""
    rows, columns = grid
    padded = _padded(x, grid, value=-torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min)
    y = padded[:, :, rows.places(0), columns.places(0)]
    # Where nothing is larger than −∞ the index is that of the window's first pixel, never of the padding.
    where = (rows.first(x.device)[:, None] * x.shape[-1] + columns.first(x.device)).expand(y.shape)
    for u in range(rows.kernel):
        for v in range(columns.kernel):
            seen = padded[:, :, rows.places(u), columns.places(v)]
            here = rows.pixels(u, x.device)[:, None] * x.shape[-1] + columns.pixels(v, x.device)
            better = (seen > y) | (seen != seen)  # a NaN is larger than everything, as in torch
            y, where = torch.where(better, seen, y), torch.where(better, here, where)
    return y, where


def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean under each window, (B, C, H, W) or (C, H, W) -> the same with H', W'.

    ``count_include_pad`` decides whether padded zeros count as pixels; ``divisor_override`` divides by another number.
    Each pixel under a window gets the same share of its gradient. ``stride``, ``padding``, ``ceil_mode`` and the errors
    as in ``max_pool2d``.
    """
    if divisor_override is not None and divisor_override < 1:
        raise SettingsError(f"divisor_override={divisor_override} must be at least 1")
    x, grid = _laid_out(input, kernel_size, stride, padding, 1, ceil_mode)
    rows, columns = grid
    divisor: Tensor | int
    if divisor_override is not None:
        divisor = divisor_override
    elif rows.even and columns.even:
        divisor = rows.kernel * columns.kernel
    else:
        divisor = rows.counts(count_include_pad, x)[:, None] * columns.counts(count_include_pad, x)
    y = _avg_pool2d(x, grid, divisor)
    return y[0] if input.ndim == 3 else y


def avg_pool2d_forward(x: Tensor, grid, divisor: Tensor | int):
    # The sum over a window is a sum down its columns, then across: kH + kW additions in place of kH · kW.
    rows, columns = grid
    padded = _padded(x, grid, value=0)
    down = sum_of([padded[:, :, rows.places(u), :] for u in range(rows.kernel)])
    total = sum_of([down[:, :, :, columns.places(v)] for v in range(columns.kernel)])
    return total.div_(divisor), (x.shape, grid, divisor)


def avg_pool2d_backward(needed, grad: Tensor, shape: torch.Size, grid, divisor: Tensor | int):
    B, C, H, W = shape
    rows, columns = grid
    share = grad / divisor
    down = full_like(grad, (B, C, rows.count, columns.extent), 0)
    for v in range(columns.kernel):
        down[:, :, :, columns.places(v)] += share
    padded = full_like(grad, (B, C, rows.extent, columns.extent), 0)
    for u in range(rows.kernel):
        padded[:, :, rows.places(u), :] += down
    return padded[:, :, rows.padding : rows.padding + H, columns.padding : columns.padding + W], None, None


_avg_pool2d = operation(avg_pool2d_forward, avg_pool2d_backward)


def sum_of(parts: list[Tensor]) -> Tensor:
    """A new tensor with the sum of the parts."""
    if len(parts) == 1:
        return parts[0].clone()
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def adaptive_avg_pool2d(input: Tensor, output_size) -> Tensor:
    """The mean over a grid of ``output_size`` windows that cover the image, (B, C, H, W) -> (B, C, *output_size).

    Window i of n over N pixels runs from ⌊i N / n⌋ to ⌈(i + 1) N / n⌉; neighbours may share a pixel. One number stands
    for both axes; None keeps an axis as it is.
    """
    sizes = tuple(output_size) if isinstance(output_size, Iterable) else (output_size, output_size)
    if len(sizes) != 2 or any(not (size is None or (isinstance(size, Integral) and int(size) >= 1)) for size in sizes):
        raise SettingsError(f"output_size={output_size!r} must be one or two whole numbers of at least 1")
    if input.ndim not in (3, 4):
        raise ShapeError(f"input has shape {tuple(input.shape)}; pooling takes (B, C, H, W) or (C, H, W)")
    height, width = (size or whole for size, whole in zip(sizes, input.shape[-2:], strict=True))
    return _adaptive_avg_pool2d(input, height, width)


def adaptive_avg_pool2d_forward(x: Tensor, height: int, width: int):
    H, W = x.shape[-2:]
    down = torch.stack([x[..., rows, :].mean(-2) for rows in _shares(H, height)], -2)
    return torch.stack([down[..., columns].mean(-1) for columns in _shares(W, width)], -1), (x.shape, height, width)


def adaptive_avg_pool2d_backward(needed, grad: Tensor, shape: torch.Size, height: int, width: int):
    H, W = shape[-2:]
    down = grad.new_zeros(*grad.shape[:-1], W)
    for j, columns in enumerate(_shares(W, width)):
        down[..., columns] += grad[..., j : j + 1] / (columns.stop - columns.start)
    d_input = grad.new_zeros(shape)
    for i, rows in enumerate(_shares(H, height)):
        d_input[..., rows, :] += down[..., i : i + 1, :] / (rows.stop - rows.start)
    return d_input, None, None


_adaptive_avg_pool2d = operation(adaptive_avg_pool2d_forward, adaptive_avg_pool2d_backward)


def _shares(whole: int, parts: int) -> list[slice]:
    return [slice(i * whole // parts, -(-(i + 1) * whole // parts)) for i in range(parts)]


class Axis:
    """The windows along one axis: where each starts, how far the padded image reaches, how many pixels each covers."""

    def __init__(self, size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool):
        if padding > kernel // 2:
            raise SettingsError(f"padding={padding} must be at most half of kernel_size={kernel}")
        self.size, self.kernel, self.stride, self.padding, self.dilation = size, kernel, stride, padding, dilation
        covered = dilation * (kernel - 1) + 1
        room = size + 2 * padding - covered
        self.count = (-(-room // stride) if ceil_mode else room // stride) + 1
        if ceil_mode and (self.count - 1) * stride >= size + padding:
            self.count -= 1  # the last window must start inside the image or its left padding
        if self.count < 1 or size < 1:
            raise ShapeError(
                f"kernel_size={kernel} with padding={padding} does not fit {size} pixels; no window is left"
            )
        if any((i * stride - padding) % dilation >= size for i in range(-(-padding // stride))):
            # torch goes on with −∞ and hands the gradient to a pixel outside of the image
            raise ShapeError(
                f"with dilation={dilation} and padding={padding} a window sees none of the {size} pixels; lower them"
            )
        self.extent = max(size + 2 * padding, (self.count - 1) * stride + covered)

    @property
    def even(self) -> bool:
        """Whether every window covers whole pixels of the image alone: no padding, nothing hanging over."""
        return self.padding == 0 and self.extent == self.size

    def places(self, u: int) -> slice:
        """What place u of the kernel sees in the padded image, one pixel a window."""
        start = u * self.dilation
        return slice(start, start + self.stride * (self.count - 1) + 1, self.stride)

    def pixels(self, u: int, device: torch.device) -> Tensor:
        """The same as indices into the image before padding."""
        return torch.arange(self.count, device=device) * self.stride + (u * self.dilation - self.padding)

    def first(self, device: torch.device) -> Tensor:
        """The first pixel under each window that is no padding, as an index into the image."""
        start = self.pixels(0, device)
        return start - start.clamp(max=0) // self.dilation * self.dilation

    def counts(self, with_padding: bool, like: Tensor) -> Tensor:
        """How many pixels lie under each window; what hangs over the padded edge (``ceil_mode``) never counts."""
        start = torch.arange(self.count, device=like.device) * self.stride - self.padding
        stop = (start + self.kernel).clamp(max=self.size + self.padding)
        if not with_padding:
            start, stop = start.clamp(min=0), stop.clamp(max=self.size)
        return (stop - start).to(like.dtype)


def _laid_out(input: Tensor, kernel_size, stride, padding, dilation, ceil_mode) -> tuple[Tensor, tuple[Axis, Axis]]:
    if input.ndim not in (3, 4):
        raise ShapeError(f"input has shape {tuple(input.shape)}; pooling takes (B, C, H, W) or (C, H, W)")
    kernel = pair("kernel_size", kernel_size)
    steps = kernel if stride is None or stride == [] else pair("stride", stride)
    edges, spread = pair("padding", padding, least=0), pair("dilation", dilation)
    x = input[None] if input.ndim == 3 else input
    rows, columns = (Axis(x.shape[2 + i], kernel[i], steps[i], edges[i], spread[i], ceil_mode) for i in (0, 1))
    return x, (rows, columns)


def _padded(x: Tensor, grid: tuple[Axis, Axis], value: float) -> Tensor:
    rows, columns = grid
    B, C, H, W = x.shape
    if (rows.extent, columns.extent) == (H, W):
        return x
    padded = full_like(x, (B, C, rows.extent, columns.extent), value)
    padded[:, :, rows.padding : rows.padding + H, columns.padding : columns.padding + W] = x
    return padded
