"""Where the numbers of a batch of images lie in memory: with the batch innermost, a slice runs over neighbours.

It is a memory format only. Shapes stay (B, C, H, W), elementwise operations keep it, and a view that joins C, H and W,
as before a linear layer, is still a view. What gains are the windows of convolution and pooling: a window is copied and
added B numbers at a time, and the products over all windows of all images become one.
"""

from collections.abc import Sequence

from torch import Tensor


def is_batch_innermost(x: Tensor) -> bool:
    """Whether images (B, C, H, W) lie in memory as (C, H, W, B)."""
    return x.permute(1, 2, 3, 0).is_contiguous()


def batch_innermost(x: Tensor) -> Tensor:
    """The same images, (B, C, H, W), with the batch innermost in memory: copied unless they lie so already."""
    if is_batch_innermost(x):
        return x
    B, C, H, W = x.shape
    return x.reshape(B, C * H * W).t().contiguous().view(C, H, W, B).permute(3, 0, 1, 2)


def full_like(x: Tensor, shape: Sequence[int], value: float) -> Tensor:
    """A new (B, C, H, W) filled with a value, of the dtype and device of ``x`` and laid out as ``x`` is."""
    B, C, H, W = shape
    if is_batch_innermost(x):
        return x.new_full((C, H, W, B), value).permute(3, 0, 1, 2)
    return x.new_full((B, C, H, W), value)
