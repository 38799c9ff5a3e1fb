"""Memory for what an operation makes on the way and nobody else sees, taken once for all of them.

Memory that comes anew from the system costs more at its first touch, a page of 4 KB after the other, than many a step
that writes to it. What is here stays.
"""

import threading
from math import prod

import torch
from torch import Tensor
from torch.nn import Parameter

LARGEST = 1 << 26  # bytes that are kept for each thread; more comes from the system and goes back
MOST = 64  # rooms of so many shapes are kept made


class _Kept(threading.local):
    memory = torch.empty(0, dtype=torch.uint8, device="cpu")

    def __init__(self) -> None:
        self.rooms: dict[tuple, list[Tensor]] = {}  # those that were asked for before, as they lie in this memory


_KEPT = _Kept()


def is_followed() -> bool:
    """Whether torch.compile or torch.jit.trace follows what happens, which look after memory themselves.

    They do not follow pieces of one memory that see each other, nor one that holds numbers and bits in turn.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def rooms(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """A tensor of each shape, of the type and on the device of ``like``, with whatever numbers stand there.

    They are the caller's until the next call on the same thread: for one forward or backward, which returns none of
    them and calls no other that takes rooms while it still needs its own.
    """
    if is_followed():
        return [like.new_empty(shape) for shape in shapes]
    mine = like.device.type == "cpu" and type(like) in (Tensor, Parameter)  # not one that only stands for a tensor
    found = _KEPT.rooms.get((like.dtype, shapes)) if mine else None
    if found is not None:
        return found
    sizes = [prod(shape) for shape in shapes]
    size = sum(sizes) * like.itemsize
    keep = mine and size <= LARGEST
    with torch.inference_mode(False):  # else nothing could be written there outside that mode
        if not keep:
            memory = like.new_empty(sum(sizes))
        else:
            if len(_KEPT.memory) < size or len(_KEPT.rooms) >= MOST:
                _KEPT.rooms.clear()
            if len(_KEPT.memory) < size:
                _KEPT.memory = torch.empty(size, dtype=torch.uint8, device="cpu")
            memory = _KEPT.memory[:size].view(like.dtype)
        parts = [part.view(shape) for part, shape in zip(memory.split(sizes), shapes, strict=True)]
    if keep:
        _KEPT.rooms[like.dtype, shapes] = parts
    return parts


def step_of(count: int, numbers: int, block: int) -> int:
    """How many of ``count`` things of so many numbers go through at once: about ``block`` numbers, and always as many.

    Blocks of one size leave each thread its own share of the memory that serves all of them.
    """
    blocks = max((2 * count * numbers + block) // (2 * block), 1)
    return max(-(-count // blocks), 1)
