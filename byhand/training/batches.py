"""An epoch's examples, batch by batch."""

from torch import Tensor


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The examples' numbers in their order, ``batch_size`` at a time; the last batch has what is left.

    A single example that would be left over joins the batch before it: alone it has no variance over the batch, and
    batch normalisation of vectors or of 1×1 maps could not train on it (65 examples in batches of 64).
    """
    parts = list(order.split(batch_size))
    if len(parts) > num_batches(len(order), batch_size):
        parts[-2:] = [order[-batch_size - 1 :]]
    return parts


def num_batches(num_examples: int, batch_size: int) -> int:
    """How many batches an epoch has."""
    left_over = num_examples > batch_size > 1 and num_examples % batch_size == 1
    return -(-num_examples // batch_size) - left_over
