"""Many files at once."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from byhand.data.pictures import Unreadable

_CHUNK = 32  # files a thread takes at once

Value = TypeVar("Value")


def in_threads(work: Callable[[int], Value], num_items: int) -> list[Value | Unreadable]:
    """What `work` answers for 0..num_items-1, in order; Pillow decodes without Python's lock, so threads suffice."""

    def chunk(start: int) -> list[Value | Unreadable]:
        answers: list[Value | Unreadable] = []
        for i in range(start, min(start + _CHUNK, num_items)):
            try:
                answers.append(work(i))
            except Unreadable as reason:
                answers.append(reason)
        return answers

    pool = ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    try:
        return [answer for part in pool.map(chunk, range(0, num_items, _CHUNK)) for answer in part]
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption does not wait for all the others
