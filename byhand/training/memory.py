"""The memory of a training step, kept from one step to the next."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 1 << 30


def keep_buffers() -> None:
    """Ask glibc to keep large buffers that were freed, for the rest of the process; elsewhere nothing.

    Left to itself it gives them back to the kernel, and each step pays again for every page of its activations. The
    peak stays what a step needs; only the way down after it is missing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
