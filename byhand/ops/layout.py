"""Where the numbers of a batch of images lie in memory: with the batch innermost, a pixel is a matrix of neighbours.

It is a memory format only. Shapes stay (B, C, H, W), but in memory the numbers lie as (H, W, C, B), and elementwise
operations keep it. What gains are the windows of convolution and pooling: the pixels of a window that stand side by
side are one block of memory, a matrix of channels by examples that goes into a product as it is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from byhand.ops.precision import is_wide
from byhand.ops.room import rooms
from byhand.ops.tape import operation

ENOUGH = 16  # examples in a batch from which on it is worth while
FEW = 4  # channels of what goes into a network
PAGE, LINE = 4096, 64  # bytes: addresses a page apart share lines of the cache
WAYS = 8  # as many of them as stay there at once


def is_batch_innermost(x: Tensor) -> bool:
    """Whether images (B, C, H, W) lie in memory as (H, W, C, B)."""
    return x.permute(2, 3, 1, 0).is_contiguous()


def batch_innermost(x: Tensor) -> Tensor:
    """The same images, (B, C, H, W), with the batch innermost in memory: copied unless they lie so already."""
    if is_batch_innermost(x):
        return x
    B, C, H, W = x.shape
    if 0 in x.stride() or (torch.is_grad_enabled() and x.requires_grad):  # one image again; or outside of our formulas
        return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    if C == 1 or H * W == 1:  # a matrix, turned over
        return x.reshape(B, C * H * W).t().contiguous().view(C, H, W, B).permute(3, 0, 1, 2)
    numbers = C * H * W
    if B * math.gcd(numbers * x.itemsize, PAGE) > WAYS * PAGE:
        # What is read of all images falls on the same few lines of the cache, which hold fewer: first a little apart.
        (memory,) = rooms(x, (B, numbers + LINE // x.itemsize))
        x = memory[:, :numbers].unflatten(1, (C, H, W)).copy_(x)
    return x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def preferred(x: Tensor) -> Tensor:
    """The same images as our operations like them: a batch that is large enough with the batch innermost."""
    return batch_innermost(x) if len(x) >= ENOUGH else x


def led_in(input: Tensor) -> Tensor:
    """What goes into a network as all layers that follow will like it: few channels of a batch, the batch innermost."""
    if input.ndim != 4 or len(input) < ENOUGH or input.shape[1] > FEW or is_batch_innermost(input):
        return input
    return _led_in(input)


def led_in_forward(x: Tensor):
    return batch_innermost(x), ()


def led_in_backward(needed, grad: Tensor):
    return (grad,)


_led_in = operation(led_in_forward, led_in_backward)


def full_like(x: Tensor, shape: Sequence[int], value: float) -> Tensor:
    """A new (B, C, H, W) filled with a value, of the dtype and device of ``x`` and laid out as ``x`` is."""
    B, C, H, W = shape
    if is_batch_innermost(x):
        return x.new_full((H, W, C, B), value).permute(3, 2, 0, 1)
    return x.new_full((B, C, H, W), value)


def sum_by_channel(x: Tensor) -> Tensor:
    """Σ over images and pixels, (B, C, H, W) -> (C,).

    Where the batch is innermost and the pixels are many, first over them and then over the batch: at once both take up
    to thirty times as long. Half precision would be rounded in between.
    """
    B, C, H, W = x.shape
    if not is_batch_innermost(x) or H * W < 4 * B or not is_wide(x):
        return x.sum((0, 2, 3))
    return x.permute(2, 3, 1, 0).flatten(2).sum((0, 1)).view(C, B).sum(1)


def by_channel(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C, B, H W), a view where images lie one after the other.

    Elsewhere of a copy in which they do: products of matrices with other strides are taken one by one.
    """
    return x.contiguous().flatten(2).transpose(0, 1)
