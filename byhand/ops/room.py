"""Memory for what an operation makes on the way and nobody else sees, taken once for all of them.

Memory that comes anew from the system costs more at its first touch, a page of 4 KB after the other, than many a step
that writes to it. What is here stays.
"""

import threading
from math import prod

import torch
from torch import Tensor

LARGEST = 1 << 26  # bytes that are kept for each thread; more comes from the system and goes back


class _Kept(threading.local):
    memory = torch.empty(0, dtype=torch.uint8, device="cpu")


_KEPT = _Kept()


def rooms(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """A tensor of each shape, of the type and on the device of ``like``, with whatever numbers stand there.

    They are the caller's until the next call on the same thread: for one forward or backward, which returns none of
    them and calls no other that takes rooms.
    """
    sizes = [prod(shape) for shape in shapes]
    if like.device.type != "cpu" or sum(sizes) * like.itemsize > LARGEST:
        memory = like.new_empty(sum(sizes))
    else:
        if len(_KEPT.memory) < sum(sizes) * like.itemsize:
            with torch.inference_mode(False):  # else nothing could be written there outside that mode
                _KEPT.memory = torch.empty(sum(sizes) * like.itemsize, dtype=torch.uint8, device="cpu")
        memory = _KEPT.memory[: sum(sizes) * like.itemsize].view(like.dtype)
    return [part.view(shape) for part, shape in zip(memory.split(sizes), shapes, strict=True)]
